//! The client against peers that are no daemon, or a bad one. What it does with a good one
//! the daemon's own tests show.

#[cfg(test)]
mod peers;
