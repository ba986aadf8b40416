//! How many bytes of request bodies may be under way: of one principal, and of all together. A
//! share is taken before the bytes are read, and returned when it is dropped.

use std::sync::Arc;
use std::time::Duration;

use emberd_api::BODY_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::timeout;

use crate::server::limits::PerPrincipal;
use crate::server::principal::Principal;

/// Bytes of bodies under way, of all principals together (256 MiB).
pub const BYTES_MAX: usize = 4 * BODY_BYTES_MAX;

/// Bytes of bodies under way, of one principal (128 MiB): two of the largest bodies.
pub const PRINCIPAL_BYTES_MAX: usize = 2 * BODY_BYTES_MAX;

/// Largest body that needs no share (64 KiB), so that small requests pass while the budget is
/// used up. The number of connections limits the sum of these.
pub const SMALL_BYTES_MAX: usize = 64 << 10;

/// How long a body waits for its share.
pub const WAIT_MAX: Duration = Duration::from_secs(10);

/// The memory for bodies is used up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory for request bodies is used up")]
pub struct Exhausted;

/// The budget of one daemon. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Shared>);

/// One permit stands for one byte.
#[derive(Debug)]
struct Shared {
    all: Arc<Semaphore>,
    principals: PerPrincipal,
}

/// The bytes of one body in the budget.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    of_principal: Arc<Semaphore>,
    /// None for a small body.
    permits: Option<Permits>,
    /// Size of the body, whether or not it needs permits.
    bytes: usize,
}

#[derive(Debug)]
struct Permits {
    of_principal: OwnedSemaphorePermit,
    of_all: OwnedSemaphorePermit,
}

impl Default for Budget {
    fn default() -> Self {
        let all = Arc::new(Semaphore::new(BYTES_MAX));
        Self(Arc::new(Shared { all, principals: PerPrincipal::new(PRINCIPAL_BYTES_MAX) }))
    }
}

impl Budget {
    /// Waits for a share of `bytes`, at most [`PRINCIPAL_BYTES_MAX`], for `principal`. Shares are
    /// given in the order they are asked for.
    ///
    /// # Errors
    /// [`Exhausted`] if no share becomes free within [`WAIT_MAX`].
    pub(crate) async fn take(
        &self,
        principal: Principal,
        bytes: usize,
    ) -> Result<Share, Exhausted> {
        let mut share = self.begin(principal);
        let count = permits(bytes);
        if count > 0 {
            let (principal, all) = (Arc::clone(&share.of_principal), Arc::clone(&self.0.all));
            let both = async {
                let of_principal = principal.acquire_many_owned(count).await;
                let of_all = all.acquire_many_owned(count).await;
                Some(Permits { of_principal: of_principal.ok()?, of_all: of_all.ok()? })
            };
            // The semaphores are never closed.
            share.permits = timeout(WAIT_MAX, both).await.map_err(|_| Exhausted)?;
        }
        share.bytes = bytes;
        Ok(share)
    }

    /// A share of no bytes yet, which is to [grow](Share::grow_to).
    pub(crate) fn begin(&self, principal: Principal) -> Share {
        let of_principal = self.0.principals.of(principal);
        Share { budget: self.clone(), of_principal, permits: None, bytes: 0 }
    }
}

impl Share {
    /// Grows to at least `bytes` if the budget has room at this moment. It does not wait: two
    /// growing shares could wait for each other.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let more = permits(bytes).saturating_sub(permits(self.bytes));
        if more > 0 {
            let of = |semaphore: &Arc<Semaphore>| -> Result<_, TryAcquireError> {
                Arc::clone(semaphore).try_acquire_many_owned(more)
            };
            let of_principal = of(&self.of_principal).map_err(|_| Exhausted)?;
            let of_all = of(&self.budget.0.all).map_err(|_| Exhausted)?;
            match &mut self.permits {
                Some(permits) => {
                    permits.of_principal.merge(of_principal);
                    permits.of_all.merge(of_all);
                }
                None => self.permits = Some(Permits { of_principal, of_all }),
            }
        }
        self.bytes = self.bytes.max(bytes);
        Ok(())
    }

    /// Returns what is over `bytes` to the budget.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = permits(self.bytes).saturating_sub(permits(bytes)) as usize;
        if let Some(permits) = &mut self.permits {
            drop(permits.of_principal.split(less));
            drop(permits.of_all.split(less));
        }
        self.bytes = self.bytes.min(bytes);
    }
}

/// Number of permits that a body of `bytes` needs.
fn permits(bytes: usize) -> u32 {
    if bytes <= SMALL_BYTES_MAX { 0 } else { u32::try_from(bytes).unwrap_or(u32::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::principal::Source;

    const ONE: Principal = user(1);
    const LARGE: usize = BODY_BYTES_MAX;

    const fn user(uid: u32) -> Principal {
        Principal::Local(Source::User(uid))
    }

    fn free(budget: &Budget) -> (usize, usize) {
        (budget.0.principals.of(ONE).available_permits(), budget.0.all.available_permits())
    }

    #[tokio::test(start_paused = true)]
    async fn a_principal_has_its_part_and_small_bodies_need_no_share() {
        let budget = Budget::default();
        let first = budget.take(ONE, LARGE).await.unwrap();
        let _second = budget.take(ONE, LARGE).await.unwrap();
        budget.take(ONE, SMALL_BYTES_MAX).await.unwrap();
        assert!(budget.take(ONE, SMALL_BYTES_MAX + 1).await.is_err(), "it waits for {WAIT_MAX:?}");
        assert_eq!(free(&budget), (0, BYTES_MAX - 2 * LARGE));
        // Others have theirs, as far as the budget of all goes.
        let _third = budget.take(user(2), LARGE).await.unwrap();
        let _fourth = budget.take(Principal::Local(Source::Unknown), LARGE).await.unwrap();
        assert!(budget.take(user(3), LARGE).await.is_err());
        drop(first);
        let third = budget.take(user(3), LARGE).await.unwrap();
        assert_eq!(free(&budget), (LARGE, 0));
        drop(third);
        assert_eq!(free(&budget), (LARGE, LARGE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_body_gets_what_is_returned() {
        let budget = Budget::default();
        let mut held = budget.take(ONE, PRINCIPAL_BYTES_MAX).await.unwrap();
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
        assert_eq!(free(&budget), (PRINCIPAL_BYTES_MAX, BYTES_MAX));
    }

    #[tokio::test]
    async fn a_share_grows_while_there_is_room() {
        let budget = Budget::default();
        let mut one = budget.take(ONE, 0).await.unwrap();
        one.grow_to(SMALL_BYTES_MAX).unwrap();
        assert_eq!(free(&budget).0, PRINCIPAL_BYTES_MAX);
        one.grow_to(LARGE).unwrap();
        one.grow_to(7).unwrap();
        let mut other = budget.take(ONE, LARGE - 1).await.unwrap();
        other.grow_to(LARGE).unwrap();
        assert!(other.grow_to(LARGE + 1).is_err());
        assert_eq!(free(&budget), (0, BYTES_MAX - 2 * LARGE));
        drop((one, other));
        assert_eq!(free(&budget), (PRINCIPAL_BYTES_MAX, BYTES_MAX));
    }
}
