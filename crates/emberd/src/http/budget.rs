//! How many bytes of requests' bodies may be under way: of one caller, and of all together. A
//! share is taken before the bytes are read, and given back when it is dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use emberd_api::{BODY_BYTES_MAX, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::timeout;

use super::errors::ApiError;
use crate::caller::Principal;

/// Bytes of bodies under way, of all callers (256 MiB).
pub const BYTES_MAX: usize = 4 * BODY_BYTES_MAX;

/// Of one caller (128 MiB): two of the largest bodies.
pub const CALLER_BYTES_MAX: usize = 2 * BODY_BYTES_MAX;

/// Largest body that needs no share (64 KiB), so that whoever uses up the budget keeps nobody
/// from what is small. The connections there may be bound the sum of these.
pub const SMALL_BYTES_MAX: usize = 64 << 10;

/// How long a body waits for its share.
pub const WAIT_MAX: Duration = Duration::from_secs(10);

/// Callers after which those that left are forgotten.
const CALLERS_SWEPT_AT: usize = 64;

/// The budget of one daemon. Clones are the same.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// One permit for each byte.
    all: Arc<Semaphore>,
    callers: Mutex<HashMap<Principal, Weak<Semaphore>>>,
}

/// Bytes of the budget in somebody's hands.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    of_caller: Arc<Semaphore>,
    held: Option<Held>,
    /// Bytes that are held, and those that need not be.
    bytes: usize,
}

#[derive(Debug)]
struct Held {
    of_caller: OwnedSemaphorePermit,
    of_all: OwnedSemaphorePermit,
}

impl Default for Budget {
    fn default() -> Self {
        let all = Arc::new(Semaphore::new(BYTES_MAX));
        Self(Arc::new(Shared { all, callers: Mutex::default() }))
    }
}

impl Budget {
    /// A share of `bytes` for `principal`, at most [`CALLER_BYTES_MAX`]; waits for it, first come
    /// first served.
    ///
    /// # Errors
    /// [`ErrorCode::TooManyBytes`] when it was not to be had within [`WAIT_MAX`].
    pub(crate) async fn take(&self, principal: Principal, bytes: usize) -> Result<Share, ApiError> {
        let mut share = self.begin(principal);
        let count = permits(bytes);
        if count > 0 {
            let (caller, all) = (Arc::clone(&share.of_caller), Arc::clone(&self.0.all));
            let both = async {
                let of_caller = caller.acquire_many_owned(count).await;
                let of_all = all.acquire_many_owned(count).await;
                Some(Held { of_caller: of_caller.ok()?, of_all: of_all.ok()? })
            };
            // The semaphores are never closed.
            share.held = timeout(WAIT_MAX, both).await.map_err(|_| exhausted())?;
        }
        share.bytes = bytes;
        Ok(share)
    }

    /// A share of no bytes yet, which is to [grow](Share::grow_to).
    pub(crate) fn begin(&self, principal: Principal) -> Share {
        Share { budget: self.clone(), of_caller: self.of(principal), held: None, bytes: 0 }
    }

    fn of(&self, principal: Principal) -> Arc<Semaphore> {
        let mut callers = self.0.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = callers.get(&principal).and_then(Weak::upgrade) {
            return known;
        }
        if callers.len() >= CALLERS_SWEPT_AT {
            callers.retain(|_, caller| caller.strong_count() > 0);
        }
        let caller = Arc::new(Semaphore::new(CALLER_BYTES_MAX));
        callers.insert(principal, Arc::downgrade(&caller));
        caller
    }
}

impl Share {
    /// Makes it one of `bytes` at least, if there is room this moment. A body whose length nobody
    /// knew waits for nothing: several might wait for each other.
    ///
    /// # Errors
    /// [`ErrorCode::TooManyBytes`].
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), ApiError> {
        let more = permits(bytes).saturating_sub(permits(self.bytes));
        if more > 0 {
            let of = |semaphore: &Arc<Semaphore>| -> Result<_, TryAcquireError> {
                Arc::clone(semaphore).try_acquire_many_owned(more)
            };
            let of_caller = of(&self.of_caller).map_err(|_| exhausted())?;
            let of_all = of(&self.budget.0.all).map_err(|_| exhausted())?;
            match &mut self.held {
                Some(held) => {
                    held.of_caller.merge(of_caller);
                    held.of_all.merge(of_all);
                }
                None => self.held = Some(Held { of_caller, of_all }),
            }
        }
        self.bytes = self.bytes.max(bytes);
        Ok(())
    }

    /// Gives back what is over `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = permits(self.bytes).saturating_sub(permits(bytes)) as usize;
        if let Some(held) = &mut self.held {
            drop(held.of_caller.split(less));
            drop(held.of_all.split(less));
        }
        self.bytes = self.bytes.min(bytes);
    }
}

/// How much of the budget a body of `bytes` takes.
fn permits(bytes: usize) -> u32 {
    if bytes <= SMALL_BYTES_MAX { 0 } else { u32::try_from(bytes).unwrap_or(u32::MAX) }
}

fn exhausted() -> ApiError {
    let error = "as many bytes of requests are under way as may be";
    ApiError::new(ErrorCode::TooManyBytes, error).hint("send fewer large requests at once")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Principal = Principal::User(1);
    const LARGE: usize = BODY_BYTES_MAX;

    fn free(budget: &Budget) -> (usize, usize) {
        (budget.of(ONE).available_permits(), budget.0.all.available_permits())
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_has_its_share_and_what_is_small_needs_none() {
        let budget = Budget::default();
        let first = budget.take(ONE, LARGE).await.unwrap();
        let _second = budget.take(ONE, LARGE).await.unwrap();
        budget.take(ONE, SMALL_BYTES_MAX).await.unwrap();
        assert!(budget.take(ONE, SMALL_BYTES_MAX + 1).await.is_err(), "it waits for {WAIT_MAX:?}");
        assert_eq!(free(&budget), (0, BYTES_MAX - 2 * LARGE));
        // Others have theirs, as far as that of all goes.
        let _third = budget.take(Principal::User(2), LARGE).await.unwrap();
        let _fourth = budget.take(Principal::Unknown, LARGE).await.unwrap();
        assert!(budget.take(Principal::User(3), LARGE).await.is_err());
        drop(first);
        let third = budget.take(Principal::User(3), LARGE).await.unwrap();
        assert_eq!(free(&budget), (LARGE, 0));
        drop(third);
        assert_eq!(free(&budget), (LARGE, LARGE));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_has_what_is_given_back() {
        let budget = Budget::default();
        let mut held = budget.take(ONE, CALLER_BYTES_MAX).await.unwrap();
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(ONE, LARGE).await }
        });
        tokio::task::yield_now().await;
        held.shrink_to(LARGE);
        waiting.await.unwrap().unwrap();
        assert_eq!(free(&budget).0, LARGE);
        held.shrink_to(7);
        held.shrink_to(LARGE);
        assert_eq!(free(&budget), (CALLER_BYTES_MAX, BYTES_MAX));
    }

    #[tokio::test]
    async fn a_share_grows_while_there_is_room() {
        let budget = Budget::default();
        let mut one = budget.take(ONE, 0).await.unwrap();
        one.grow_to(SMALL_BYTES_MAX).unwrap();
        assert_eq!(free(&budget).0, CALLER_BYTES_MAX);
        one.grow_to(LARGE).unwrap();
        one.grow_to(7).unwrap();
        let mut other = budget.take(ONE, LARGE - 1).await.unwrap();
        other.grow_to(LARGE).unwrap();
        assert!(other.grow_to(LARGE + 1).is_err());
        assert_eq!(free(&budget), (0, BYTES_MAX - 2 * LARGE));
        drop((one, other));
        assert_eq!(free(&budget), (CALLER_BYTES_MAX, BYTES_MAX));
    }

    #[tokio::test]
    async fn callers_that_left_are_forgotten() {
        let budget = Budget::default();
        for user in 0..10_000 {
            budget.take(Principal::User(user), LARGE).await.unwrap();
        }
        assert!(budget.0.callers.lock().unwrap().len() <= CALLERS_SWEPT_AT);
    }
}
