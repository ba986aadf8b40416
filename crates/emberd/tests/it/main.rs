//! The daemon: its API and its process over a double of Firecracker, the house rules, and
//! end to end.

#[cfg(test)]
mod api;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod e2e;
#[cfg(test)]
mod filled;
#[cfg(test)]
mod lives;
#[cfg(test)]
mod mcp;
#[cfg(test)]
mod packs;
#[cfg(test)]
mod process;
#[cfg(test)]
mod raw;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod transfers;
#[cfg(test)]
mod wait;
