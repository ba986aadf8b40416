//! Permits for connections. When none is left, idle connections are closed for new ones, the one
//! that has been idle longest first: a client that only opens connections locks nobody out.
//!
//! ```text
//! accepted ─▶ idle ── head of a request ─▶ busy ── response sent ─▶ idle
//!              └─────── no permit left ──▶ aborted  └─ upgrade ─▶ busy to its end
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::pin;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::connection::ConnectionHandle;

/// The permits of one endpoint, and its idle connections.
#[derive(Debug)]
pub struct ConnectionPermits {
    permits: Arc<Semaphore>,
    idle: Mutex<Idle>,
    /// Notified when a connection becomes idle.
    became_idle: Notify,
}

#[derive(Debug, Default)]
struct Idle {
    /// Number of the next connection that becomes idle.
    next: u64,
    /// By number: the first has been idle longest.
    connections: BTreeMap<u64, ConnectionHandle>,
}

impl ConnectionPermits {
    /// Creates permits for `count` connections.
    pub fn new(count: usize) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(count));
        Arc::new(Self { permits, idle: Mutex::default(), became_idle: Notify::new() })
    }

    /// Waits for a permit, and closes idle connections until there is one. Cancel safe.
    pub async fn acquire(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.permits).acquire_owned();
        pin!(permit);
        loop {
            let became_idle = self.became_idle.notified();
            tokio::select! {
                biased;
                permit = &mut permit => return permit.expect("the semaphore is never closed"),
                () = async { self.abort_idlest(); became_idle.await } => {}
            }
        }
    }

    /// Aborts the connection that has been idle longest, if any is idle.
    pub fn abort_idlest(&self) {
        if let Some((_, connection)) = self.idle.lock().connections.pop_first() {
            connection.abort();
        }
    }

    /// Adds `connection` to the idle ones, until the last clone of the result is dropped.
    pub fn add(self: &Arc<Self>, connection: ConnectionHandle) -> Entry {
        let number = self.add_idle(connection.clone());
        Entry(Arc::new(State {
            permits: Arc::clone(self),
            connection,
            idle_number: Mutex::new(Some(number)),
        }))
    }

    fn add_idle(&self, connection: ConnectionHandle) -> u64 {
        let mut idle = self.idle.lock();
        let number = idle.next;
        idle.next += 1;
        idle.connections.insert(number, connection);
        drop(idle);
        self.became_idle.notify_waiters();
        number
    }
}

/// One connection among those of its endpoint. Clones are of the same connection.
#[derive(Debug, Clone)]
pub struct Entry(Arc<State>);

#[derive(Debug)]
struct State {
    permits: Arc<ConnectionPermits>,
    connection: ConnectionHandle,
    /// The connection's number among the idle ones; none while it is busy.
    idle_number: Mutex<Option<u64>>,
}

impl State {
    fn remove_idle(&self) {
        if let Some(number) = self.idle_number.lock().take() {
            self.permits.idle.lock().connections.remove(&number);
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.remove_idle();
    }
}

impl Entry {
    /// Marks the connection as busy until the result is dropped.
    pub fn busy(&self) -> Busy {
        self.0.remove_idle();
        Busy(Some(self.clone()))
    }
}

/// A connection with a request under way.
#[derive(Debug)]
pub struct Busy(Option<Entry>);

impl Busy {
    /// Keeps the connection busy to its end: another protocol is spoken on it from now on.
    pub fn until_closed(mut self) {
        self.0 = None;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(Entry(state)) = self.0.take() {
            let number = state.permits.add_idle(state.connection.clone());
            *state.idle_number.lock() = Some(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_idlest_connection_is_closed_for_a_new_one() {
        let permits = ConnectionPermits::new(2);
        let (first, second) = (ConnectionHandle::default(), ConnectionHandle::default());
        let taken = [permits.acquire().await, permits.acquire().await];
        let (entry, _other) = (permits.add(first.clone()), permits.add(second.clone()));
        // The first has had a request since the second had one.
        drop(entry.busy());
        let third = tokio::spawn({
            let permits = Arc::clone(&permits);
            async move { permits.acquire().await }
        });
        tokio::task::yield_now().await;
        assert_eq!((first.is_aborted(), second.is_aborted()), (false, true));
        drop(taken);
        drop(third.await.unwrap());
    }

    #[tokio::test]
    async fn busy_connections_stay_until_they_are_idle() {
        let permits = ConnectionPermits::new(1);
        let connection = ConnectionHandle::default();
        let taken = permits.acquire().await;
        let entry = permits.add(connection.clone());
        let busy = entry.busy();
        let next = tokio::spawn({
            let permits = Arc::clone(&permits);
            async move { permits.acquire().await }
        });
        tokio::task::yield_now().await;
        assert!(!connection.is_aborted());
        drop(busy);
        tokio::task::yield_now().await;
        assert!(connection.is_aborted());
        drop(taken);
        drop(next.await.unwrap());
    }

    #[tokio::test]
    async fn closed_and_upgraded_connections_are_not_idle() {
        let permits = ConnectionPermits::new(1);
        let (closed, upgraded) = (ConnectionHandle::default(), ConnectionHandle::default());
        drop(permits.add(closed.clone()));
        let entry = permits.add(upgraded.clone());
        entry.busy().until_closed();
        assert!(permits.idle.lock().connections.is_empty());
        permits.abort_idlest();
        assert!(!closed.is_aborted() && !upgraded.is_aborted());
    }
}
