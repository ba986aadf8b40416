//! Archives against GNU tar and Python's `tarfile`, and hostile ones.

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod others;
#[cfg(test)]
mod replacing;
#[cfg(test)]
mod tree;
