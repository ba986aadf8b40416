//! Integration tests of the policy.

#[cfg(test)]
mod policy;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod reference;
