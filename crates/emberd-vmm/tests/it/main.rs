//! emberd-vmm from outside: real processes, whole lives.

#[cfg(test)]
mod adoption;
#[cfg(test)]
mod agent;
#[cfg(test)]
mod firecracker;
#[cfg(test)]
mod orphans;
#[cfg(test)]
mod process;
#[cfg(test)]
mod qemu;
#[cfg(test)]
mod world;
