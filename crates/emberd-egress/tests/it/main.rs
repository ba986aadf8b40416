//! Policies against a reference, and sessions of guests over byte streams, to servers behind public
//! addresses that exist only here.

#[cfg(test)]
mod connections;
#[cfg(test)]
mod content;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod guest;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod lookups;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod resolver;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod world;
