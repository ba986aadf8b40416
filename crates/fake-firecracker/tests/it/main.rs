//! The double as a client meets it: its process, its two sockets, its guest.

#[cfg(test)]
mod api;
#[cfg(test)]
mod command_line;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod life;
#[cfg(test)]
mod order;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod vsock;
