//! The names that each address was resolved from.
//!
//! They are part of a snapshot, so that a clone still knows the addresses that its programs do.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use emberd_proto::egress::EGRESS_NAMES_MAX;

/// Maximum number of addresses; the one that was used least recently is forgotten.
pub const ADDRESSES_MAX: usize = 8192;

/// Names by address.
#[derive(Debug, Default)]
pub struct Names {
    entries: HashMap<IpAddr, Entry>,
    /// Addresses by their last use.
    order: BTreeMap<u64, IpAddr>,
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    /// The latest first, at most [`EGRESS_NAMES_MAX`].
    names: Vec<Box<str>>,
    used: u64,
}

impl Names {
    /// Notes that `name` resolved to `address`.
    pub fn note(&mut self, address: IpAddr, name: &str) {
        self.touch(address);
        let used = self.uses;
        let entry = self
            .entries
            .entry(address)
            .or_insert_with(|| Entry { names: Vec::with_capacity(1), used });
        entry.used = used;
        entry.names.retain(|known| **known != *name);
        entry.names.truncate(EGRESS_NAMES_MAX - 1);
        entry.names.insert(0, name.into());
        self.order.insert(used, address);
        if self.entries.len() > ADDRESSES_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
    }

    /// Returns the names of `address`, the latest first.
    pub fn of(&mut self, address: IpAddr) -> Vec<String> {
        if !self.entries.contains_key(&address) {
            return Vec::new();
        }
        self.touch(address);
        self.order.insert(self.uses, address);
        let entry = self.entries.get_mut(&address).expect("the entry was there");
        entry.used = self.uses;
        entry.names.iter().map(|name| name.clone().into_string()).collect()
    }

    /// Begins a use of `address`, which loses its place in the order.
    fn touch(&mut self, address: IpAddr) {
        self.uses += 1;
        if let Some(entry) = self.entries.get(&address) {
            self.order.remove(&entry.used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn names_of_an_address_are_few_and_the_latest_is_first() {
        let mut names = Names::default();
        for number in 0..100 {
            names.note(address(1), &format!("n{number}"));
        }
        names.note(address(1), "n95");
        let expect = ["n95", "n99", "n98", "n97", "n96", "n94", "n93", "n92"];
        assert_eq!(names.of(address(1)), expect);
        assert_eq!(names.of(address(2)), [""; 0]);
    }

    #[test]
    fn addresses_that_are_used_are_kept() {
        let mut names = Names::default();
        for number in 0..3 * u32::try_from(ADDRESSES_MAX).unwrap() {
            names.note(address(number), "name");
            assert_eq!(names.of(address(0)), ["name"], "used after {number}");
        }
        assert_eq!(names.of(address(1)), [""; 0]);
        assert_eq!((names.entries.len(), names.order.len()), (ADDRESSES_MAX, ADDRESSES_MAX));
    }
}
