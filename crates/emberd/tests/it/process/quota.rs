//! Limits of keys over daemons that are killed and restarted, and while they are changed.

use emberd_api::{CreateSandbox, EgressState, ErrorCode, PolicySpec, Usage};
use emberd_client::Client;
use emberd_keys::{KeyLimits, Role};
use rustix::process::Signal;

use super::Room;
use crate::api::refusal;
use crate::wait;

impl Room {
    pub fn limit(&self, name: &str, change: impl FnOnce(&mut KeyLimits)) {
        emberd_keys::limit(&self.keys(), name, change).unwrap();
    }
}

pub async fn usage(client: &Client) -> Usage {
    client.usage(false).await.unwrap().callers.remove(0)
}

#[tokio::test]
async fn what_stands_counts_for_the_next_daemon() {
    let room = Room::new();
    let (_, secret) = room.key("one", Role::User);
    room.limit("one", |limits| limits.sandboxes = Some(2));
    let daemon = room.keeping();
    let client = daemon.with(&secret);
    let first = client.create(Some("shell")).await.unwrap().id;
    client.create(Some("shell")).await.unwrap();
    let before = usage(&client).await.used;
    assert_eq!((before.sandboxes, before.vcpus), (2, 1 + 1));
    daemon.crash().await;
    let next = room.keeping();
    let client = next.with(&secret);
    // At once: no guest is waited for.
    assert_eq!(usage(&client).await.used, before);
    assert_eq!(refusal(client.create(Some("shell")).await).1.code, ErrorCode::QuotaExceeded);
    next.stop(Signal::TERM).await;
    let last = room.start();
    let client = last.with(&secret);
    let (status, body) = refusal(client.create(Some("shell")).await);
    assert_eq!((status, body.limit.unwrap().name.as_str()), (429, "sandboxes"));
    client.delete(&first).await.unwrap();
    client.create(Some("shell")).await.unwrap();
    last.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn a_limit_that_changes_ends_nothing() {
    let room = Room::new();
    let (_, secret) = room.key("one", Role::User);
    room.limit("one", |limits| limits.sandboxes = Some(1));
    let daemon = room.start();
    let client = daemon.with(&secret);
    let id = client.create(Some("shell")).await.unwrap().id;
    let mut events = client.events(&[], None, true).await.unwrap();
    events.next().await.unwrap();
    assert_eq!(refusal(client.create(Some("shell")).await).0, 429);
    room.limit("one", |limits| limits.sandboxes = None);
    wait::until(async || usage(&client).await.limits.sandboxes.is_none()).await;
    client.create(Some("shell")).await.unwrap();
    // The stream of before tells of it.
    loop {
        let event = serde_json::to_value(events.next().await.unwrap().unwrap()).unwrap();
        if event["sandbox"] != id.as_str() {
            break;
        }
    }
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn the_ceiling_of_a_key_outlives_the_key_and_the_daemon() {
    let room = Room::new();
    let (_, secret) = room.key("one", Role::User);
    let (_, admin) = room.key("admin", Role::Admin);
    let ceiling = vec!["a.example".to_owned()];
    room.limit("one", |limits| limits.egress = Some(ceiling));
    let daemon = room.keeping();
    let policy = PolicySpec { allow: vec!["a.example".into()], ..PolicySpec::default() };
    let wanted = CreateSandbox {
        language_pack: Some("shell".into()),
        egress: Some(policy),
        ..CreateSandbox::default()
    };
    let id = daemon.with(&secret).create_with(&wanted).await.unwrap().answer.id;
    emberd_keys::remove(&room.keys(), &["one".to_owned()]).unwrap();
    daemon.crash().await;
    let next = room.start();
    let client = next.with(&admin);
    wait::until(async || client.egress(&id).await.unwrap().state != EgressState::Connecting).await;
    assert_eq!(client.egress(&id).await.unwrap().policy.allow, ["a.example".into()]);
    let over = PolicySpec { allow: vec!["b.example".into()], ..PolicySpec::default() };
    let (status, body) = refusal(client.set_egress(&id, &over).await);
    assert_eq!((status, body.code), (403, ErrorCode::KeyForbids), "{}", body.error);
    next.stop(Signal::TERM).await;
    room.close().await;
}
