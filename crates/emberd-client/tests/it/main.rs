//! The client against peers that are not a daemon, or a defective one. The daemon's own tests show
//! it against a real one.

#[cfg(test)]
mod peers;
