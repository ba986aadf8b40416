//! Deletes the sandboxes whose time is over.

use std::time::Duration;

use tokio::time::timeout;

use super::reaper::Reaper;
use crate::lifecycle::lease::Boottime;
use crate::lifecycle::signals::Signals;
use crate::lifecycle::table::Table;

/// Longest sleep before the deadlines are looked at again. The runtime's clock stands still while
/// the host is suspended, that of the deadlines does not.
const SLEEP_MAX: Duration = Duration::from_secs(10);

/// Deletes each sandbox of `table` at its deadline; never returns.
pub(crate) async fn expire(table: &Table, reaper: &Reaper, signals: &Signals) {
    loop {
        let now = Boottime::now();
        let expired = table.take_expired(now);
        // All are told before any is removed, which takes longer.
        for sandbox in &expired {
            sandbox.tell_expired();
        }
        for sandbox in expired {
            tracing::info!(id = %sandbox.id, "sandbox deleted: its timeout has passed");
            reaper.reap_in_turn(sandbox);
        }
        match table.next_deadline() {
            Some(deadline) => {
                let wait = deadline.left(Boottime::now()).min(SLEEP_MAX);
                drop(timeout(wait, signals.deadlines.notified()).await);
            }
            None => signals.deadlines.notified().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use emberd_image::PackName;

    use super::*;
    use crate::id::SandboxId;
    use crate::lifecycle::events::{SandboxEvent, SandboxEventKind};
    use crate::lifecycle::lease::TermsChange;
    use crate::lifecycle::sandbox::Sandbox;
    use crate::lifecycle::table::Claim;
    use crate::shape::{Shape, Size};

    /// Sandboxes without a microVM in a table of their own.
    struct Many {
        table: Table,
        reaper: Reaper,
        signals: Arc<Signals>,
    }

    impl Many {
        /// `count` sandboxes that expire at the same moment.
        fn new(count: usize, timeout: Duration) -> Self {
            let (signals, reaper) = (Arc::<Signals>::default(), Reaper::new());
            let table = Table::new(count, u64::MAX);
            for _ in 0..count {
                let pick = || sandbox(&signals);
                table.enter(Claim::default(), pick, |sandbox| sandbox).expect("there is room");
            }
            let now = Boottime::now();
            for (_, view) in table.views(None) {
                let sandbox = table.find(view.id).expect("it is there");
                let mut lease = sandbox.lease.lock();
                lease.terms.timeout = Some(timeout);
                lease.begin(now);
            }
            Self { table, reaper, signals }
        }

        /// How often each sandbox had an event of `kind`.
        fn told(&self, kind: SandboxEventKind) -> HashMap<SandboxId, usize> {
            let mut told = HashMap::new();
            for event in
                self.signals.events.page(None, usize::MAX, |event| event.kind == kind).events
            {
                *told.entry(event.id).or_default() += 1;
            }
            told
        }
    }

    fn sandbox(signals: &Arc<Signals>) -> Arc<Sandbox> {
        let pack: PackName = "shell".parse().expect("a name");
        let shape = Shape { pack, size: Size { vcpus: 1, memory_mib: 1 } };
        let id = SandboxId::with_key(crate::NodeKey::default());
        Arc::new(Sandbox::new(id, shape, "none".into(), None, Arc::clone(signals)))
    }

    #[tokio::test]
    async fn a_thousand_that_expire_at_once_are_deleted_and_told_once() {
        const COUNT: usize = 1_000;
        let many = Many::new(COUNT, Duration::from_millis(50));
        let due = many.table.next_deadline().expect("all have one");
        let gone = async {
            while many.table.count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = expire(&many.table, &many.reaper, &many.signals) => {}
            () = gone => {}
        }
        // For those who run this by hand.
        println!("the last was taken {:?} late", Boottime::now().left(due));
        many.reaper.finish().await;
        for kind in [SandboxEventKind::Expired, SandboxEventKind::Deleted] {
            let told = many.told(kind);
            assert_eq!(told.len(), COUNT);
            assert!(told.values().all(|times| *times == 1));
        }
        let kinds = |event: &SandboxEvent| {
            matches!(event.kind, SandboxEventKind::Expired | SandboxEventKind::Deleted)
        };
        let told = many.signals.events.page(None, usize::MAX, kinds).events;
        let first = told.iter().position(|event| event.kind == SandboxEventKind::Deleted);
        assert_eq!(first, Some(COUNT), "no removal delays what is told");
    }

    #[test]
    fn of_a_change_and_an_expiry_at_once_one_wins_and_both_are_told() {
        for round in 0..200 {
            let many = Many::new(1, Duration::ZERO);
            let (_, view) = many.table.views(None).remove(0);
            let sandbox = many.table.find(view.id).expect("it is there");
            let start = std::sync::Barrier::new(2);
            let (changed, expired) = std::thread::scope(|scope| {
                let changing = scope.spawn(|| {
                    start.wait();
                    let timeout = Some(Some(Duration::from_secs(3600)));
                    let change = TermsChange { timeout, ..TermsChange::default() };
                    let mut lease = sandbox.lease.lock();
                    lease.change(change, Boottime::now(), |_| Ok::<_, ()>(()))
                });
                start.wait();
                // Either may be the first to get to the lock.
                for _ in 0..round {
                    std::hint::spin_loop();
                }
                let expired = many.table.take_expired(Boottime::now());
                (changing.join().expect("no panic"), expired)
            });
            assert_eq!(changed.is_ok(), expired.is_empty(), "{changed:?}");
            assert_eq!(many.table.count(), usize::from(changed.is_ok()));
        }
    }
}
