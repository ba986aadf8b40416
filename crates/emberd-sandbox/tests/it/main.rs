//! Sandboxes over a double of Firecracker: the real agent, as a host process.

#[cfg(test)]
mod contexts;
#[cfg(test)]
mod create;
#[cfg(test)]
mod delete;
#[cfg(test)]
mod egress;
#[cfg(test)]
mod exec;
#[cfg(test)]
mod files;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod freezing;
#[cfg(test)]
mod pool;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod shapes;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod templates;
#[cfg(test)]
mod turns;
