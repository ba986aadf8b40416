//! The burst of one owner does not starve another: counts, not times.

use std::sync::Arc;

use emberd_sandbox::{CreateError, Created, SandboxEventKind, SandboxSpec, SandboxesConfig};
use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, join_all};

use crate::fixture::{Fixture, with_templates};

/// Sandboxes of the owner with a burst.
const BURST: usize = 64;

/// Sandboxes that are removed at once.
const REMOVED_AT_ONCE: usize = 16;

/// Begins to create a sandbox of `owner`: it is in its line when this returns.
fn begin<'a>(
    fixture: &'a Fixture,
    owner: &str,
) -> LocalBoxFuture<'a, Result<Created, CreateError>> {
    let owner = Some(Arc::from(owner));
    let spec = SandboxSpec { owner, ..SandboxSpec::default() };
    let mut creating = async move { fixture.create_as(spec).await }.boxed_local();
    assert!((&mut creating).now_or_never().is_none());
    creating
}

/// How many sandboxes of `busy` ran before the first of `other` did.
fn before(fixture: &Fixture, busy: &str, other: &str) -> usize {
    let wanted = |event: &emberd_sandbox::SandboxEvent| event.kind == SandboxEventKind::Running;
    let events = fixture.sandboxes.events(None, usize::MAX, wanted).events;
    let owners: Vec<_> = events.iter().filter_map(|event| event.owner.as_deref()).collect();
    let at = owners.iter().position(|owner| *owner == other).expect("it ran");
    owners[..at].iter().filter(|owner| **owner == busy).count()
}

/// Creates the burst and one more, and deletes them. `at_once` are created at a time.
async fn check(fixture: Fixture, at_once: usize) {
    let count = BURST.max(5 * at_once);
    let burst: Vec<_> = (0..count).map(|_| begin(&fixture, "busy")).collect();
    let other = begin(&fixture, "other");
    let (burst, other) = futures::future::join(join_all(burst), other).await;
    let other = other.expect("it is created").id;
    let ids: Vec<_> = burst.into_iter().map(|created| created.expect("it is created").id).collect();
    // First come, first served would be after all but those under way with it, which are a fifth.
    let first = before(&fixture, "busy", "other");
    assert!(first < count * 3 / 4, "{first} of {count}");

    let mut deleting: Vec<_> =
        ids.iter().map(|id| fixture.sandboxes.delete(*id).boxed_local()).collect();
    for deletion in &mut deleting {
        assert_ne!(deletion.now_or_never(), Some(Err(emberd_sandbox::Unknown(other))));
    }
    fixture.sandboxes.delete(other).await.expect("it is there");
    let left = fixture.sandboxes.reaping();
    assert!(left > REMOVED_AT_ONCE * 3 / 2, "{left} of {count} are still to be removed");
    drop(deleting);
    fixture.close().await;
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn many(config: &mut SandboxesConfig) {
    config.sandboxes_max = 10_000;
}

#[tokio::test]
async fn restores_and_removals_serve_owners_in_turn() {
    let edit = |config: &mut SandboxesConfig| {
        with_templates(config);
        many(config);
    };
    let fixture = Fixture::with(edit);
    fixture.build().await;
    check(fixture, 2 * processors()).await;
}

#[tokio::test]
async fn cold_boots_serve_owners_in_turn() {
    check(Fixture::with(many), 4 * processors()).await;
}
