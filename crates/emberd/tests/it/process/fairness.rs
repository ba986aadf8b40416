//! Two keys whose creations wait at once, over HTTP: counts, not times.

use emberd_api::{DaemonEvent, SandboxEvent, SandboxEventKind};
use emberd_client::Client;
use emberd_keys::Role;
use rustix::process::Signal;
use tokio::task::JoinSet;

use super::quota::usage;
use super::{Daemon, Room};
use crate::wait;

/// Sandboxes that one key asks for at once.
const BURST: usize = 200;

/// MicroVMs that the pool holds.
const POOL: usize = 2;

/// The events of all sandboxes so far, in order.
async fn events(admin: &Client) -> Vec<SandboxEvent> {
    let mut events = admin.events(&[], None, false).await.unwrap();
    let mut all = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        let DaemonEvent::Sandbox(event) = event else { panic!("{event:?}") };
        all.push(*event);
    }
    all
}

/// How many sandboxes became ready in `events`.
fn served(events: &[SandboxEvent]) -> usize {
    events.iter().filter(|event| event.event == SandboxEventKind::Running).count()
}

#[tokio::test]
async fn the_burst_of_one_key_does_not_starve_the_creation_of_another() {
    let room = Room::new();
    let [(_, admin), (_, busy), (_, other)] =
        [("admin", Role::Admin), ("busy", Role::User), ("other", Role::User)]
            .map(|(name, role)| room.key(name, role));
    let mut command = room.command_with_pools(POOL);
    command.args(["--max-sandboxes", "1000", "--memory-mib", "1000000"]);
    let mut daemon = Daemon::spawn(command);
    daemon.client = daemon.with(&admin);
    daemon.comes_to_rest().await;
    let (busy, other) = (daemon.with(&busy), daemon.with(&other));
    let mut burst = JoinSet::new();
    for _ in 0..BURST {
        let busy = busy.clone();
        burst.spawn(async move { busy.create(Some("shell")).await.unwrap() });
    }
    // Each is served or in its line.
    wait::until(async || usage(&busy).await.used.sandboxes == BURST as u64).await;
    let id = other.create(Some("shell")).await.unwrap().id;
    burst.join_all().await;
    let events = events(&daemon.client).await;
    let at = |kind| {
        let is_it = |event: &SandboxEvent| event.sandbox == id && event.event == kind;
        events.iter().position(is_it).unwrap()
    };
    let (asked, was_served) = (at(SandboxEventKind::Created), at(SandboxEventKind::Running));
    let waited = BURST - served(&events[..asked]);
    let first = served(&events[asked..was_served]);
    println!("{waited} of {BURST} waited before it, {first} were served before it");
    // First come, first served would be after all of them. In turn, it is after those that were
    // being restored and one more.
    assert!(waited > BURST / 4, "{waited} waited: there was nothing to be unfair about");
    assert!(first < waited / 2, "{first} of {waited}");
    assert_eq!(served(&events), BURST + 1);
    daemon.stop(Signal::TERM).await;
    room.close().await;
}
