//! emberd-vmm from outside: real processes, whole lives.

#[cfg(test)]
mod fake;
#[cfg(test)]
mod orphans;
#[cfg(test)]
mod qemu;
#[cfg(test)]
mod world;
