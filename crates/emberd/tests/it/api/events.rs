//! What becomes of sandboxes, over HTTP: in order, to everybody who follows, and read on by number.

use emberd_api::{DaemonEvent, ErrorCode, SandboxEvent, SandboxEventKind, SandboxPhase};
use emberd_client::Events;
use serde_json::json;

use super::{Api, refusal};
use crate::raw;

use SandboxEventKind::{Created, Deleted, Expired, Frozen, Gone, Running, Thawed};

impl Api {
    /// The events so far of the sandboxes, or of all.
    async fn events(&self, sandboxes: &[&str], after: Option<u64>) -> Vec<SandboxEvent> {
        let sandboxes: Vec<_> = sandboxes.iter().map(|id| (*id).to_owned()).collect();
        let mut events = self.client.events(&sandboxes, after, false).await.unwrap();
        let mut all = Vec::new();
        while let Some(event) = events.next().await.unwrap() {
            let DaemonEvent::Sandbox(event) = event else { panic!("{event:?}") };
            all.push(*event);
        }
        all
    }

    async fn follow(&self) -> Events<DaemonEvent> {
        self.client.events(&[], None, true).await.unwrap()
    }
}

/// Waits for the next event, which is one of a sandbox.
async fn next(events: &mut Events<DaemonEvent>) -> SandboxEvent {
    match events.next().await.unwrap() {
        Some(DaemonEvent::Sandbox(event)) => *event,
        other => panic!("{other:?}"),
    }
}

/// Waits until the sandbox has had all of `expect`, in this order.
async fn until(
    events: &mut Events<DaemonEvent>,
    id: &str,
    expect: &[SandboxEventKind],
) -> SandboxEvent {
    let mut last = None;
    for kind in expect {
        last = loop {
            let event = next(events).await;
            if event.sandbox == id {
                assert_eq!(event.event, *kind, "{event:?}");
                break Some(event);
            }
        };
    }
    last.unwrap()
}

fn kinds(events: &[SandboxEvent]) -> Vec<SandboxEventKind> {
    events.iter().map(|event| event.event).collect()
}

#[tokio::test]
async fn a_life_is_told_in_order_with_what_callers_wrote_on_it() {
    let api = Api::start().await;
    let mut follower = api.follow().await;
    let wanted = json!({"idle": {"freeze_ms": 1_000}, "metadata": {"user": "ada"}});
    let id = api.create_as(wanted).await.unwrap();
    let frozen = until(&mut follower, &id, &[Created, Running, Frozen]).await;
    assert_eq!((frozen.phase, frozen.metadata["user"].as_str()), (SandboxPhase::Frozen, "ada"));
    api.exec(&id, ":").await.unwrap();
    let thawed = until(&mut follower, &id, &[Thawed]).await;
    assert_eq!((thawed.seq, thawed.phase), (frozen.seq + 1, SandboxPhase::Running));
    api.client.delete(&id).await.unwrap();
    let deleted = until(&mut follower, &id, &[Deleted]).await;
    assert_eq!((deleted.phase, deleted.reason), (SandboxPhase::Gone, None));
    // All the same for those who come later.
    let all = api.events(&[], None).await;
    assert_eq!(kinds(&all), [Created, Running, Frozen, Thawed, Deleted]);
    assert!(all.windows(2).all(|two| two[1].seq == two[0].seq + 1), "{all:?}");
    api.stop().await;
}

#[tokio::test]
async fn ends_by_a_timeout_by_a_vmm_and_of_a_failed_creation_are_told() {
    let api = Api::start().await;
    let mut follower = api.follow().await;
    let expires = api.create_as(json!({"timeout_ms": 1_000})).await.unwrap();
    until(&mut follower, &expires, &[Created, Running, Expired, Deleted]).await;
    let killed = api.create().await;
    let pid = api.client.get(&killed).await.unwrap().vmm_pid.unwrap();
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // Nobody looks at the sandbox.
    let gone = until(&mut follower, &killed, &[Created, Running, Gone]).await;
    assert_eq!(gone.phase, SandboxPhase::Gone);
    assert!(gone.reason.unwrap().contains("signal 9"));
    api.client.delete(&killed).await.unwrap();
    until(&mut follower, &killed, &[Deleted]).await;
    api.double.misbehave("refuse-at=PUT /vsock");
    let (_, refused) = refusal(api.client.create(Some("shell")).await);
    assert_eq!(refused.code, ErrorCode::BootFailed);
    let created = next(&mut follower).await;
    let deleted = next(&mut follower).await;
    assert_eq!((created.event, deleted.event), (Created, Deleted));
    assert_eq!(created.sandbox, deleted.sandbox);
    api.stop().await;
}

#[tokio::test]
async fn a_follower_goes_on_after_the_last_event_it_received() {
    let api = Api::start().await;
    let [one, two, three] = [api.create().await, api.create().await, api.create().await];
    api.client.delete(&one).await.unwrap();
    let all = api.events(&[], None).await;
    assert_eq!(all.len(), 7);
    assert_eq!(api.events(&[], Some(all[4].seq)).await, all[5..]);
    assert_eq!(api.events(&[], Some(all[6].seq)).await, []);
    assert_eq!(kinds(&api.events(&[&one], None).await), [Created, Running, Deleted]);
    let some = api.events(&[&one, &three], Some(all[1].seq)).await;
    assert!(some.iter().all(|event| event.sandbox != two), "{some:?}");
    assert_eq!(kinds(&some), [Created, Running, Deleted]);
    // As a browser does it. The header goes before.
    let request = format!(
        "GET /events?follow=false&after={} HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {}\r\n\
         Connection: close\r\n\r\n",
        all[0].seq, all[5].seq
    );
    let answer = raw::send(&api.authority, request.into_bytes()).await;
    assert!(answer.head.contains("content-type: text/event-stream"), "{answer:?}");
    let expect = format!("id: {}\nevent: deleted\ndata: {{", all[6].seq);
    assert_eq!(answer.body.matches("data: ").count(), 1, "{answer:?}");
    assert!(answer.body.contains(&expect), "{answer:?}");
    api.stop().await;
}

#[tokio::test]
async fn events_that_are_not_kept_are_a_gap() {
    let api = Api::start().await;
    api.create().await;
    let first = api.events(&[], None).await[0].clone();
    // Numbers of an earlier daemon, and of none.
    for stranger in [first.seq - 7, u64::MAX] {
        let mut events = api.client.events(&[], Some(stranger), false).await.unwrap();
        let gap = events.next().await.unwrap().unwrap();
        let DaemonEvent::Gap(gap) = gap else { panic!("{gap:?}") };
        assert_eq!((gap.after, gap.before), (stranger, first.seq));
        assert_eq!(next(&mut events).await, first);
    }
    api.stop().await;
}

#[tokio::test]
async fn followers_end_with_the_daemon() {
    let api = Api::start().await;
    let id = api.create().await;
    let mut follower = api.follow().await;
    until(&mut follower, &id, &[Created, Running]).await;
    api.sandboxes.close();
    while follower.next().await.unwrap().is_some() {}
    api.stop().await;
}

#[tokio::test]
async fn bad_queries_are_refused_by_name() {
    let api = Api::start().await;
    for (query, name) in [
        ("sandbox=x", "sandbox"),
        ("after=x", "after"),
        ("after=-1", "after"),
        ("follow=1", "follow"),
    ] {
        let answer = api.raw("GET", &format!("/events?{query}"), "").await;
        let error = answer.error();
        assert_eq!((answer.status, error.code), (400, ErrorCode::InvalidRequest), "{query}");
        assert!(error.error.contains(&format!("`{name}")), "{error:?}");
    }
    api.stop().await;
}
