//! User ids for jails: a separate one for each microVM.

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use parking_lot::Mutex;

/// Ids reserved for microVMs on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id; never 0.
    pub first: u32,
    /// Number of ids, and so the most microVMs at a time.
    pub count: u32,
}

impl Default for IdRange {
    /// Above what systemd gives to containers (up to 1,879,048,191).
    fn default() -> Self {
        Self { first: 1_900_000_000, count: 10_000 }
    }
}

impl From<&RangeInclusive<u32>> for IdRange {
    /// From the first id to the last. An empty range has no ids.
    fn from(ids: &RangeInclusive<u32>) -> Self {
        let (first, last) = (*ids.start(), *ids.end());
        let count = last.checked_sub(first).map_or(0, |more| more.saturating_add(1));
        Self { first, count }
    }
}

/// Lends out the ids of a range.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    range: IdRange,
    lent: Arc<Mutex<Lent>>,
}

#[derive(Debug, Default)]
struct Lent {
    ids: BTreeSet<u32>,
    /// Start of the next search: an id stays unused as long as possible before it is reused.
    next: u32,
}

impl Ids {
    pub(crate) fn new(range: IdRange) -> Self {
        Self { range, lent: Arc::default() }
    }

    /// Leases an unused id.
    ///
    /// # Errors
    /// When all ids are leased.
    pub(crate) fn lease(&self) -> io::Result<Lease> {
        let IdRange { first, count } = self.range;
        let mut lent = self.lent.lock();
        let begin = lent.next;
        let candidates = (0..count).map(|step| first + (begin + step) % count);
        let free = candidates.into_iter().find(|id| !lent.ids.contains(id));
        let id = free.ok_or_else(|| io::Error::other("every user id of the range is in use"))?;
        lent.ids.insert(id);
        lent.next = (id - first + 1) % count;
        Ok(Lease { id, lent: Arc::clone(&self.lent) })
    }
}

impl Ids {
    /// Leases `id`; nothing if it is not of the range, or leased.
    pub(crate) fn reserve(&self, id: u32) -> Option<Lease> {
        let step = id.checked_sub(self.range.first)?;
        let is_free = step < self.range.count && self.lent.lock().ids.insert(id);
        is_free.then(|| Lease { id, lent: Arc::clone(&self.lent) })
    }
}

/// An id, given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    id: u32,
    lent: Arc<Mutex<Lent>>,
}

impl Lease {
    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.lent.lock().ids.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_is_lent_twice_and_each_rests_before_it_returns() {
        let ids = Ids::new(IdRange::from(&(100..=102)));
        let [a, b] = [ids.lease().unwrap(), ids.lease().unwrap()];
        assert_eq!([a.id(), b.id()], [100, 101]);
        drop(a);
        let c = ids.lease().unwrap();
        let d = ids.lease().unwrap();
        assert_eq!([c.id(), d.id()], [102, 100]);
        assert!(ids.lease().is_err());
        drop(b);
        assert_eq!(ids.lease().unwrap().id(), 101);
    }

    #[test]
    fn a_reserved_id_is_lent_to_nobody_else() {
        let ids = Ids::new(IdRange::from(&(100..=102)));
        let reserved = ids.reserve(101).unwrap();
        assert!(ids.reserve(101).is_none() && ids.reserve(99).is_none());
        assert!(ids.reserve(103).is_none());
        let lent = [ids.lease().unwrap(), ids.lease().unwrap()];
        assert_eq!([lent[0].id(), lent[1].id()], [100, 102]);
        assert!(ids.lease().is_err());
        drop(reserved);
        assert_eq!(ids.lease().unwrap().id(), 101);
    }

    #[test]
    fn an_empty_range_lends_nothing() {
        assert!(Ids::new(IdRange { first: 1, count: 0 }).lease().is_err());
    }
}
