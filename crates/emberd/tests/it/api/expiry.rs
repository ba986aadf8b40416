//! Many sandboxes whose time is over at once.

use std::collections::BTreeMap;
use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use emberd_api::{DaemonEvent, SandboxEventKind, TIMEOUT_MS_MIN, UpdateSandbox};
use futures::stream::{self, StreamExt as _};
use serde_json::json;

use super::Api;
use crate::wait;

/// How many, unless `EMBERD_EXPIRING` says otherwise.
const EXPIRING: usize = 32;

/// Creations and changes under way at once.
const AT_ONCE: usize = 16;

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_expire_at_once_end_and_are_told() {
    let count = env::var("EMBERD_EXPIRING").map_or(EXPIRING, |text| text.parse().unwrap());
    let api = Api::with(|config| {
        config.sandboxes_max = count;
        config.memory_mib_total = u64::MAX;
    })
    .await;
    let ids: Vec<_> = stream::iter(0..count)
        .map(|_| async { api.create_as(json!({})).await.unwrap() })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    // Later than all the changes take.
    let at_ms = now_ms() + 2_000 + 10 * u64::try_from(count).unwrap();
    let mut due: BTreeMap<_, _> = stream::iter(ids)
        .map(|id| {
            let client = &api.client;
            async move {
                let timeout_ms = at_ms.saturating_sub(now_ms()).max(TIMEOUT_MS_MIN);
                let timeout_ms = Some(Some(timeout_ms));
                let change = UpdateSandbox { timeout_ms, ..UpdateSandbox::default() };
                let changed = client.update(&id, &change).await.unwrap();
                (id, changed.expires_at_ms.unwrap())
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut events = api.client.events(&[], None, true).await.unwrap();
    let (mut late_ms, mut deleted) = (Vec::new(), 0);
    while deleted < count {
        let Some(DaemonEvent::Sandbox(event)) = events.next().await.unwrap() else {
            panic!("a gap or an end")
        };
        match event.event {
            SandboxEventKind::Expired => {
                let due_ms = due.remove(&event.sandbox).expect("told once");
                late_ms.push(event.at_ms.saturating_sub(due_ms));
            }
            SandboxEventKind::Deleted => deleted += 1,
            _ => {}
        }
    }
    assert!(due.is_empty(), "{due:?}");
    // For those who run this by hand.
    late_ms.sort_unstable();
    let median_ms = late_ms[late_ms.len() / 2];
    println!("{count} expired: median {median_ms} ms late, the last {} ms", late_ms[count - 1]);
    for left in (0..count).step_by(AT_ONCE).rev() {
        wait::until(async || api.sandboxes.reaping() <= left).await;
    }
    api.stop().await;
}
