//! The places connections have. When they run out, those on which nothing is asked make room, the
//! idlest first: who only opens connections keeps nobody out.
//!
//! ```text
//! accepted ─▶ idle ── head of a request ─▶ busy ── answer sent ─▶ idle
//!              └────────── places run out ──▶ cut     └─ upgrade ─▶ busy to its end
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::pin;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::server::socket::Connection;

/// The places of one listener.
#[derive(Debug)]
pub struct Places {
    turns: Arc<Semaphore>,
    idle: Mutex<Idle>,
    /// Rung when a connection becomes idle.
    rested: Notify,
}

#[derive(Debug, Default)]
struct Idle {
    /// Number of the next one that becomes idle.
    next: u64,
    /// The idlest first.
    connections: BTreeMap<u64, Connection>,
}

impl Places {
    pub fn new(count: usize) -> Arc<Self> {
        let turns = Arc::new(Semaphore::new(count));
        Arc::new(Self { turns, idle: Mutex::default(), rested: Notify::new() })
    }

    /// A place, if need be that of another.
    pub async fn take(&self) -> OwnedSemaphorePermit {
        let turn = Arc::clone(&self.turns).acquire_owned();
        pin!(turn);
        loop {
            let rested = self.rested.notified();
            tokio::select! {
                biased;
                turn = &mut turn => return turn.expect("the semaphore is never closed"),
                () = async { self.shed(); rested.await } => {}
            }
        }
    }

    /// Cuts the connection that has been idle longest, if there is one.
    pub fn shed(&self) {
        if let Some((_, connection)) = self.idle().connections.pop_first() {
            connection.cut();
        }
    }

    /// Has `connection`, which is idle, known here.
    pub fn enter(self: &Arc<Self>, connection: Connection) -> Entry {
        let number = self.rest(connection.clone());
        Entry(Arc::new(State {
            places: Arc::clone(self),
            connection,
            of: Mutex::new(Some(number)),
        }))
    }

    fn rest(&self, connection: Connection) -> u64 {
        let mut idle = self.idle();
        let number = idle.next;
        idle.next += 1;
        idle.connections.insert(number, connection);
        drop(idle);
        self.rested.notify_waiters();
        number
    }

    /// No code that could panic half-way through a change runs under this lock.
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection as its places know it. Clones are the same; forgotten with the last of them.
#[derive(Debug, Clone)]
pub struct Entry(Arc<State>);

#[derive(Debug)]
struct State {
    places: Arc<Places>,
    connection: Connection,
    /// Its number among the idle ones; none while it is busy.
    of: Mutex<Option<u64>>,
}

impl State {
    fn number(&self) -> MutexGuard<'_, Option<u64>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self) {
        if let Some(number) = self.number().take() {
            self.places.idle().connections.remove(&number);
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Entry {
    /// Something is asked on it, until what is returned is dropped.
    pub fn busy(&self) -> Busy {
        self.0.leave();
        Busy(Some(self.clone()))
    }
}

/// A connection on which something is asked.
#[derive(Debug)]
pub struct Busy(Option<Entry>);

impl Busy {
    /// It never becomes idle again: what is spoken on it is not ours.
    pub fn for_good(mut self) {
        self.0 = None;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(Entry(state)) = self.0.take() {
            let number = state.places.rest(state.connection.clone());
            *state.number() = Some(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_idlest_makes_room() {
        let places = Places::new(2);
        let (first, second) = (Connection::default(), Connection::default());
        let turns = [places.take().await, places.take().await];
        let (entry, _other) = (places.enter(first.clone()), places.enter(second.clone()));
        // It has been asked something since the other was.
        drop(entry.busy());
        let third = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take().await }
        });
        tokio::task::yield_now().await;
        assert_eq!((first.is_cut(), second.is_cut()), (false, true));
        drop(turns);
        drop(third.await.unwrap());
    }

    #[tokio::test]
    async fn busy_ones_stay_until_they_rest() {
        let places = Places::new(1);
        let connection = Connection::default();
        let turn = places.take().await;
        let entry = places.enter(connection.clone());
        let busy = entry.busy();
        let next = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take().await }
        });
        tokio::task::yield_now().await;
        assert!(!connection.is_cut());
        drop(busy);
        tokio::task::yield_now().await;
        assert!(connection.is_cut());
        drop(turn);
        drop(next.await.unwrap());
    }

    #[tokio::test]
    async fn who_left_or_was_upgraded_is_not_among_the_idle() {
        let places = Places::new(1);
        let (left, upgraded) = (Connection::default(), Connection::default());
        drop(places.enter(left.clone()));
        let entry = places.enter(upgraded.clone());
        entry.busy().for_good();
        assert!(places.idle().connections.is_empty());
        places.shed();
        assert!(!left.is_cut() && !upgraded.is_cut());
    }
}
