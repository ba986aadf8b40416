//! The agent off PID 1, as the host sees it: over its Unix socket.

#[cfg(test)]
mod connections;
#[cfg(test)]
mod context_fidelity;
#[cfg(test)]
mod context_spans;
#[cfg(test)]
mod contexts;
#[cfg(test)]
mod dials;
#[cfg(test)]
mod egress;
#[cfg(test)]
mod execs;
#[cfg(test)]
mod files;
#[cfg(test)]
mod guest;
#[cfg(test)]
mod leftovers;
#[cfg(test)]
mod process_trees;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod programs;
#[cfg(test)]
mod renewals;
#[cfg(test)]
mod residents;
#[cfg(test)]
mod shell_fidelity;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod zygote_fidelity;
#[cfg(test)]
mod zygotes;
