//! Permits that owners get in turn: of many who wait, each owner's first is served before the
//! second of another.
//!
//! ```text
//! a ─ a1 a2 a3 …        freed permits go to   a1  b1  a2  b2  a3 …
//! b ─ b1 b2
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Owner of a sandbox; all that are nobody's wait in one line.
pub(crate) type Owner = Option<Arc<str>>;

/// See the module. Clones share the permits.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Mutex<Waiting>>);

struct Waiting {
    free: usize,
    by_owner: HashMap<Owner, VecDeque<oneshot::Sender<Turn>>>,
    /// Owners with somebody who waits, each once: the first is served next.
    order: VecDeque<Owner>,
}

/// A permit, which is passed on when it is dropped.
pub(crate) struct Turn(Option<Turns>);

impl Turns {
    /// `permits` in all.
    pub fn new(permits: usize) -> Self {
        let (by_owner, order) = Default::default();
        Self(Arc::new(Mutex::new(Waiting { free: permits, by_owner, order })))
    }

    /// A permit, if one is free.
    pub fn try_acquire(&self) -> Option<Turn> {
        let mut waiting = self.0.lock();
        waiting.free = waiting.free.checked_sub(1)?;
        Some(Turn(Some(self.clone())))
    }

    /// Waits until it is the turn of `owner`. Dropping the future gives the turn up.
    pub async fn acquire(&self, owner: Owner) -> Turn {
        let waits = {
            let mut waiting = self.0.lock();
            if waiting.free > 0 {
                waiting.free -= 1;
                return Turn(Some(self.clone()));
            }
            let (gives, waits) = oneshot::channel();
            let line = waiting.by_owner.entry(owner.clone()).or_default();
            line.push_back(gives);
            if line.len() == 1 {
                waiting.order.push_back(owner);
            }
            waits
        };
        waits.await.expect("a line outlives those who wait in it")
    }

    fn pass_on(&self) {
        loop {
            let mut waiting = self.0.lock();
            let Some(owner) = waiting.order.pop_front() else {
                waiting.free += 1;
                return;
            };
            let line = waiting.by_owner.get_mut(&owner).expect("an owner in the order has a line");
            let next = line.pop_front().expect("a line that is empty is removed");
            if line.is_empty() {
                waiting.by_owner.remove(&owner);
            } else {
                waiting.order.push_back(owner);
            }
            drop(waiting);
            match next.send(Turn(Some(self.clone()))) {
                Ok(()) => return,
                // It waits no more: the permit is still here.
                Err(mut turn) => turn.0 = None,
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::FutureExt as _;
    use tokio::sync::mpsc;

    use super::*;

    fn owner(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    /// Has `count` wait for each of `owners`, one owner after the other, and returns whose turn it
    /// was, in order.
    async fn served(turns: &Turns, owners: &[(Owner, usize)]) -> Vec<Owner> {
        let all = turns.try_acquire().expect("it is free");
        let (tell, mut told) = mpsc::unbounded_channel();
        for (owner, count) in owners {
            for _ in 0..*count {
                let (turns, owner, tell) = (turns.clone(), owner.clone(), tell.clone());
                let mut waits = Box::pin(async move {
                    let turn = turns.acquire(owner.clone()).await;
                    tell.send(owner).expect("somebody listens");
                    drop(turn);
                });
                // It is in its line before the next one comes.
                assert!((&mut waits).now_or_never().is_none());
                tokio::spawn(waits);
            }
        }
        drop((all, tell));
        let mut order = Vec::new();
        while let Some(owner) = told.recv().await {
            order.push(owner);
        }
        order
    }

    #[tokio::test]
    async fn the_burst_of_one_does_not_starve_another() {
        let turns = Turns::new(1);
        let [burst, other, none] = [Some(owner("burst")), Some(owner("other")), None];
        let wanted = [(burst.clone(), 1_000), (other.clone(), 2), (none.clone(), 1)];
        let order = served(&turns, &wanted).await;
        assert_eq!(order.len(), 1_003);
        let at = |owner: &Owner| order.iter().position(|served| served == owner).unwrap();
        assert_eq!((at(&burst), at(&other), at(&none)), (0, 1, 2));
        assert_eq!(order[3..6], [burst.clone(), other, burst]);
        assert_eq!(turns.0.lock().free, 1);
    }

    #[tokio::test]
    async fn a_turn_that_is_given_up_goes_to_the_next() {
        let turns = Turns::new(1);
        let held = turns.acquire(None).await;
        assert!(turns.try_acquire().is_none());
        let mut left: Vec<_> = (0..10).map(|_| Box::pin(turns.acquire(Some(owner("a"))))).collect();
        for waits in &mut left {
            assert!(waits.now_or_never().is_none());
        }
        let mut stays = Box::pin(turns.acquire(Some(owner("a"))));
        assert!((&mut stays).now_or_never().is_none());
        drop(left);
        // One who leaves when the turn has come passes it on too.
        let mut served = Box::pin(turns.acquire(Some(owner("b"))));
        assert!((&mut served).now_or_never().is_none());
        drop(held);
        drop(served);
        drop(stays.await);
        assert_eq!(turns.0.lock().free, 1);
        assert!(turns.0.lock().by_owner.is_empty() && turns.0.lock().order.is_empty());
    }
}
