//! Limits that each principal has to itself.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::principal::Principal;

/// Number of known principals at which those without a permit in use are forgotten.
const SWEEP_AT: usize = 64;

/// A number of permits for each principal, whatever they are permits for.
#[derive(Debug)]
pub(crate) struct PerPrincipal {
    permits: usize,
    semaphores: Mutex<HashMap<Principal, Weak<Semaphore>>>,
}

impl PerPrincipal {
    /// Gives every principal `permits`.
    pub fn new(permits: usize) -> Self {
        Self { permits, semaphores: Mutex::default() }
    }

    /// The semaphore of `principal`. It counts for as long as somebody holds it or a permit of it.
    pub fn of(&self, principal: Principal) -> Arc<Semaphore> {
        let mut semaphores = self.semaphores.lock();
        if let Some(known) = semaphores.get(&principal).and_then(Weak::upgrade) {
            return known;
        }
        if semaphores.len() >= SWEEP_AT {
            semaphores.retain(|_, semaphore| semaphore.strong_count() > 0);
        }
        let semaphore = Arc::new(Semaphore::new(self.permits));
        semaphores.insert(principal, Arc::downgrade(&semaphore));
        semaphore
    }
}

#[cfg(test)]
mod tests {
    use super::super::principal::Source;
    use super::*;

    const ONE: Principal = Principal::Local(Source::User(1));
    const OTHER: Principal = Principal::Local(Source::User(2));

    #[test]
    fn each_principal_has_its_own_permits() {
        let limit = PerPrincipal::new(2);
        let taken = [limit.of(ONE).try_acquire_owned(), limit.of(ONE).try_acquire_owned()];
        assert!(taken.iter().all(Result::is_ok));
        assert!(limit.of(ONE).try_acquire_owned().is_err());
        assert_eq!(limit.of(OTHER).available_permits(), 2);
        drop(taken);
        assert_eq!(limit.of(ONE).available_permits(), 2);
    }

    #[test]
    fn principals_that_use_nothing_are_forgotten() {
        let limit = PerPrincipal::new(1);
        let kept = limit.of(ONE).try_acquire_owned().unwrap();
        for user in 2..10_000 {
            limit.of(Principal::Local(Source::User(user)));
        }
        assert!(limit.semaphores.lock().len() <= SWEEP_AT);
        assert_eq!(limit.of(ONE).available_permits(), 0, "a permit is in use");
        drop(kept);
    }
}
