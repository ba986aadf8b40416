//! Names to addresses, by the host's own resolver.
//!
//! The C library's lookups (hosts file, name services, search of VPNs) block and cannot be
//! cancelled, so they run on a bounded pool. Answers are kept for some seconds: a program asks for
//! both families, and then connects.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use emberd_proto::egress::EGRESS_ADDRESSES_MAX;
use futures::future::{BoxFuture, FutureExt as _, Shared};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::name::Name;
use crate::network::{LookupError, Network};

/// Most lookups of one daemon at once.
pub(crate) const LOOKUPS_MAX: usize = 32;

/// Time that one lookup may take, with its wait for the pool.
const LOOKUP_WAIT_MAX: Duration = Duration::from_secs(5);

/// Time for which an answer is kept: long enough for the connection that follows it.
const KEPT: Duration = Duration::from_secs(10);

/// Time for which a failure is kept.
const FAILURE_KEPT: Duration = Duration::from_secs(2);

/// Most answers that are kept, and lookups under way; the oldest go.
const ANSWERS_MAX: usize = 1024;

type Answer = Result<Arc<[IpAddr]>, LookupError>;
type Lookup = Shared<BoxFuture<'static, Answer>>;

/// The lookups of one daemon.
pub(crate) struct Resolver {
    network: Arc<dyn Network>,
    threads: Arc<Semaphore>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_name: HashMap<Name, (Instant, Lookup)>,
    /// Names, the oldest first.
    order: VecDeque<(Instant, Name)>,
}

impl Resolver {
    pub fn new(network: Arc<dyn Network>) -> Self {
        Self { network, threads: Arc::new(Semaphore::new(LOOKUPS_MAX)), kept: Mutex::default() }
    }

    /// Returns the addresses of `name`, at least one. Lookups of one name at once are one. A new
    /// one waits for a place among those of `places`, the asking sandbox's.
    pub async fn lookup(&self, name: &Name, places: &Arc<Semaphore>) -> Answer {
        let deadline = Instant::now() + LOOKUP_WAIT_MAX;
        let known = self.kept.lock().get(name);
        if let Some(known) = known {
            return known.await;
        }
        // Kept only once it has its place: others that ask for the same name do not wait for this
        // sandbox's.
        let place = timeout_at(deadline, Arc::clone(places).acquire_owned()).await;
        let place = place.map_err(|_| LookupError::Failed)?.map_err(|_| LookupError::Failed)?;
        let asked = {
            let mut kept = self.kept.lock();
            kept.get(name)
                .unwrap_or_else(|| kept.add(name, self.begin(name.clone(), place, deadline)))
        };
        asked.await
    }

    /// Returns whether a lookup of `name` asks nobody.
    pub fn keeps(&self, name: &Name) -> bool {
        self.kept.lock().get(name).is_some()
    }

    fn begin(&self, name: Name, place: OwnedSemaphorePermit, deadline: Instant) -> Lookup {
        let (network, pool) = (Arc::clone(&self.network), Arc::clone(&self.threads));
        let lookup = async move {
            let permit = pool.acquire_owned().await.map_err(|_| LookupError::Failed)?;
            let blocking = tokio::task::spawn_blocking(move || {
                let addresses = network.resolve(name.as_str());
                // Held until the thread is free: it cannot be cancelled.
                drop((permit, place));
                addresses
            });
            let mut addresses = blocking.await.map_err(|_| LookupError::Failed)??;
            addresses.truncate(EGRESS_ADDRESSES_MAX);
            if addresses.is_empty() { Err(LookupError::NoSuchName) } else { Ok(addresses.into()) }
        };
        // Goes on when those who asked have left, and does not keep what it waits for.
        let timely = tokio::spawn(timeout_at(deadline, lookup));
        let answer = timely.map(|ended| match ended {
            Ok(Ok(answer)) => answer,
            _ => Err(LookupError::Failed),
        });
        answer.boxed().shared()
    }
}

impl Kept {
    /// Returns the lookup of `name` that is under way, or whose answer is kept.
    fn get(&mut self, name: &Name) -> Option<Lookup> {
        let now = Instant::now();
        while let Some((since, _)) = self.order.front()
            && (self.order.len() >= ANSWERS_MAX || now.duration_since(*since) >= KEPT)
        {
            let Some((since, name)) = self.order.pop_front() else { break };
            if self.by_name.get(&name).is_some_and(|(at, _)| *at == since) {
                self.by_name.remove(&name);
            }
        }
        let (since, lookup) = self.by_name.get(name)?;
        let failed = matches!(lookup.peek(), Some(Err(_)));
        (!failed || now.duration_since(*since) < FAILURE_KEPT).then(|| lookup.clone())
    }

    fn add(&mut self, name: &Name, lookup: Lookup) -> Lookup {
        let now = Instant::now();
        self.by_name.insert(name.clone(), (now, lookup.clone()));
        self.order.push_back((now, name.clone()));
        lookup
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::net::TcpStream;

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Network for Counting {
        fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            match name {
                "many.example" => Ok((0..100).map(|n| IpAddr::from([192, 0, 2, n])).collect()),
                "none.example" => Ok(Vec::new()),
                _ => Err(LookupError::Failed),
            }
        }

        fn connect(&self, _: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
            unreachable!("nothing is connected")
        }
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[tokio::test]
    async fn answers_are_bounded_and_kept() {
        let source = Arc::new(Counting::default());
        let resolver = Resolver::new(Arc::clone(&source) as Arc<dyn Network>);
        let places = Arc::new(Semaphore::new(1));
        let many = resolver.lookup(&name("many.example"), &places).await.unwrap();
        assert_eq!(many.len(), EGRESS_ADDRESSES_MAX);
        for _ in 0..3 {
            assert_eq!(resolver.lookup(&name("many.example"), &places).await.unwrap(), many);
        }
        assert_eq!(source.0.load(Ordering::Relaxed), 1);
        let none = resolver.lookup(&name("none.example"), &places).await;
        assert_eq!(none, Err(LookupError::NoSuchName));
        let dead = resolver.lookup(&name("dead.example"), &places).await;
        assert_eq!(dead, Err(LookupError::Failed));
    }

    #[tokio::test]
    async fn the_oldest_answers_go() {
        let source = Arc::new(Counting::default());
        let resolver = Resolver::new(Arc::clone(&source) as Arc<dyn Network>);
        let places = Arc::new(Semaphore::new(1));
        for number in 0..2 * ANSWERS_MAX {
            resolver.lookup(&name(&format!("h{number}.example")), &places).await.unwrap_err();
        }
        let kept = resolver.kept.lock();
        assert!(kept.order.len() <= ANSWERS_MAX && kept.by_name.len() <= ANSWERS_MAX);
    }
}
