//! How long one sandbox may live, and what its callers wrote on it.
//!
//! ```text
//! no deadline ◀──▶ deadline ── it passes ──▶ expired: the sandbox is deleted
//! ```
//! Deadlines are on the clock that goes on while the host is suspended (`CLOCK_BOOTTIME`): setting
//! the host's date moves none.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Decisions of callers about the time of a sandbox, which they may change as long as it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Time after which the sandbox is deleted, from the moment it is ready or this was last set;
    /// none for never.
    pub timeout: Option<Duration>,
    /// When the sandbox is frozen.
    pub idle: IdlePolicy,
    /// Whether a request thaws the sandbox. A touch always does.
    pub auto_resume: bool,
    /// Names and values that mean nothing to the daemon.
    pub metadata: BTreeMap<String, String>,
}

/// A sandbox that never ends, is never frozen, and has no metadata.
impl Default for Terms {
    fn default() -> Self {
        let (timeout, idle, metadata) = Default::default();
        Self { timeout, idle, auto_resume: true, metadata }
    }
}

/// When a sandbox that is not used is frozen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdlePolicy {
    /// Time without use after which the sandbox is frozen; none for never.
    pub freeze: Option<Duration>,
    /// Whether it is frozen although programs of callers run in it.
    pub ignore_programs: bool,
}

/// A change of [`Terms`]; fields that are none change nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TermsChange {
    /// The new timeout, which begins now, or never.
    pub timeout: Option<Option<Duration>>,
    /// The new time without use after which it is frozen, or never.
    pub freeze: Option<Option<Duration>>,
    /// Whether it is frozen although programs run in it.
    pub ignore_programs: Option<bool>,
    /// Whether a request thaws it.
    pub auto_resume: Option<bool>,
    /// Metadata to set, and to remove where the value is none.
    pub metadata: BTreeMap<String, Option<String>>,
}

/// The sandbox's time is over; it is being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expired;

/// Time since the host was started, with the time that it was suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boottime(Duration);

impl Boottime {
    /// The time now.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let (secs, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
        Self(Duration::new(secs.unwrap_or_default(), nanos.unwrap_or_default()))
    }

    /// The time as a duration.
    pub fn since_start(self) -> Duration {
        self.0
    }

    /// How long it is from `now` until then; zero if it has passed.
    pub(crate) fn left(self, now: Self) -> Duration {
        self.0.saturating_sub(now.0)
    }

    pub(crate) fn as_micros(self) -> u64 {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn from_micros(us: u64) -> Self {
        Self(Duration::from_micros(us))
    }

    fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    pub terms: Terms,
    pub deadline: Option<Boottime>,
    expired: bool,
}

impl Lease {
    /// The lease that an earlier daemon kept.
    pub fn resumed(terms: Terms, deadline: Option<Boottime>) -> Self {
        Self { terms, deadline, expired: false }
    }

    /// Begins: the sandbox is ready.
    pub fn begin(&mut self, now: Boottime) {
        self.deadline = self.terms.timeout.map(|timeout| now.after(timeout));
    }

    /// Changes the terms, if `check` accepts the metadata that come out. A new timeout begins now,
    /// and may be shorter than the rest of the old one.
    pub fn change<E>(
        &mut self,
        change: TermsChange,
        now: Boottime,
        check: impl FnOnce(&BTreeMap<String, String>) -> Result<(), E>,
    ) -> Result<Result<(), E>, Expired> {
        self.live()?;
        let mut metadata = self.terms.metadata.clone();
        for (name, value) in change.metadata {
            match value {
                Some(value) => drop(metadata.insert(name, value)),
                None => drop(metadata.remove(&name)),
            }
        }
        if let Err(error) = check(&metadata) {
            return Ok(Err(error));
        }
        let terms = &mut self.terms;
        terms.metadata = metadata;
        terms.idle.freeze = change.freeze.unwrap_or(terms.idle.freeze);
        terms.idle.ignore_programs = change.ignore_programs.unwrap_or(terms.idle.ignore_programs);
        terms.auto_resume = change.auto_resume.unwrap_or(terms.auto_resume);
        if let Some(timeout) = change.timeout {
            self.terms.timeout = timeout;
            self.begin(now);
        }
        Ok(Ok(()))
    }

    /// Moves the deadline to at least `timeout` from now, or the sandbox's own timeout. Never
    /// shortens, and sets no deadline where there is none.
    pub fn extend(&mut self, timeout: Option<Duration>, now: Boottime) -> Result<(), Expired> {
        self.live()?;
        if let (Some(deadline), Some(timeout)) = (self.deadline, timeout.or(self.terms.timeout)) {
            self.deadline = Some(deadline.max(now.after(timeout)));
        }
        Ok(())
    }

    /// Ends the lease if its deadline has passed; returns whether it has. Nothing extends it from
    /// then on.
    pub fn expire(&mut self, now: Boottime) -> bool {
        self.expired |= self.deadline.is_some_and(|deadline| deadline <= now);
        self.expired
    }

    /// The deadline by the host's clock, which shows `date` now.
    pub fn expires_at(&self, date: SystemTime, now: Boottime) -> Option<SystemTime> {
        self.deadline.map(|deadline| date + deadline.left(now))
    }

    fn live(&self) -> Result<(), Expired> {
        if self.expired { Err(Expired) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(secs: u64) -> Boottime {
        Boottime(Duration::from_secs(secs))
    }

    fn lasting(secs: Option<u64>) -> TermsChange {
        TermsChange { timeout: Some(secs.map(Duration::from_secs)), ..TermsChange::default() }
    }

    fn change(lease: &mut Lease, change: TermsChange, now: Boottime) -> Result<(), Expired> {
        lease.change(change, now, |_| Ok::<_, ()>(())).map(Result::unwrap)
    }

    fn lease(timeout_s: u64) -> Lease {
        let mut lease = Lease::default();
        change(&mut lease, lasting(Some(timeout_s)), at(100)).unwrap();
        lease
    }

    #[test]
    fn a_lease_without_a_timeout_never_ends() {
        let mut lease = Lease::default();
        lease.begin(at(1));
        lease.extend(Some(Duration::from_secs(1)), at(1)).unwrap();
        assert!(!lease.expire(at(u64::MAX)));
        assert_eq!(lease.expires_at(UNIX_EPOCH, at(1)), None);
    }

    #[test]
    fn a_change_may_shorten_and_a_touch_only_extends() {
        let mut lease = lease(50);
        lease.extend(Some(Duration::from_secs(10)), at(110)).unwrap();
        assert_eq!(lease.deadline, Some(at(150)));
        lease.extend(None, at(110)).unwrap();
        assert_eq!(lease.deadline, Some(at(160)));
        change(&mut lease, lasting(Some(5)), at(120)).unwrap();
        assert_eq!(lease.deadline, Some(at(125)));
        change(&mut lease, TermsChange::default(), at(121)).unwrap();
        assert_eq!(lease.deadline, Some(at(125)));
        change(&mut lease, lasting(None), at(122)).unwrap();
        assert_eq!(lease.deadline, None);
    }

    #[test]
    fn what_has_expired_stays_so() {
        let mut lease = lease(50);
        assert!(!lease.expire(at(149)));
        assert!(lease.expire(at(150)));
        assert_eq!(change(&mut lease, lasting(None), at(150)), Err(Expired));
        assert_eq!(lease.extend(Some(Duration::from_secs(99)), at(150)), Err(Expired));
        assert!(lease.expire(at(151)));
    }

    #[test]
    fn a_clock_that_is_set_moves_the_date_of_a_deadline_and_not_the_deadline() {
        const DAY: Duration = Duration::from_secs(86_400);
        let mut lease = lease(50);
        let date = UNIX_EPOCH + 20_000 * DAY;
        for set in [date - DAY, date, date + DAY] {
            let left = Duration::from_secs(50);
            assert_eq!(lease.expires_at(set, at(100)), Some(set + left));
            assert_eq!(lease.expires_at(set, at(149)), Some(set + Duration::from_secs(1)));
            assert_eq!(lease.expires_at(set, at(200)), Some(set));
            assert!(!lease.expire(at(149)));
            change(&mut lease, lasting(Some(50)), at(100)).unwrap();
        }
        assert!(lease.expire(at(150)));
    }

    #[test]
    fn metadata_are_set_and_removed_by_name() {
        let mut lease = Lease::default();
        let with = |pairs: &[(&str, Option<&str>)]| TermsChange {
            metadata: pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)))
                .collect(),
            ..TermsChange::default()
        };
        change(&mut lease, with(&[("a", Some("1")), ("b", Some("2"))]), at(1)).unwrap();
        change(&mut lease, with(&[("b", None), ("c", None), ("a", Some("3"))]), at(1)).unwrap();
        let expect = BTreeMap::from([("a".to_owned(), "3".to_owned())]);
        assert_eq!(lease.terms.metadata, expect);
        // Everything, or nothing.
        let wanted = TermsChange { timeout: lasting(Some(1)).timeout, ..with(&[("d", Some("4"))]) };
        let refused = lease.change(wanted, at(1), |metadata| Err(metadata.len()));
        assert_eq!(refused, Ok(Err(2)));
        assert_eq!((&lease.terms.metadata, lease.deadline), (&expect, None));
    }
}
