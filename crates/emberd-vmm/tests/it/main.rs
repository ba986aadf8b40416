//! emberd-vmm from outside.

#[cfg(test)]
mod firecracker;
