//! Timeouts and metadata of sandboxes over HTTP.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use emberd_api::{
    CreateSandbox, DaemonEvent, ErrorCode, ListSandboxes, METADATA_PAIRS_MAX, OnTimeout, Sandbox,
    SandboxEventKind, TIMEOUT_MS_MIN, TouchSandbox, UpdateSandbox,
};
use emberd_client::ClientError;
use serde_json::{Value, json};

use super::{Api, refusal};
use crate::wait;

const HOUR_MS: u64 = 3_600_000;

impl Api {
    pub async fn create_as(&self, wanted: Value) -> Result<String, ClientError> {
        let wanted: CreateSandbox = serde_json::from_value(wanted).unwrap();
        let language_pack = Some("shell".to_owned());
        let wanted = CreateSandbox { language_pack, ..wanted };
        Ok(self.client.create_with(&wanted).await?.answer.id)
    }

    async fn update(&self, id: &str, change: Value) -> Result<Sandbox, ClientError> {
        let change: UpdateSandbox = serde_json::from_value(change).unwrap();
        self.client.update(id, &change).await
    }

    async fn touch(&self, id: &str, timeout_ms: Option<u64>) -> Sandbox {
        self.client.touch(id, &TouchSandbox { timeout_ms }).await.unwrap()
    }

    async fn is_unknown(&self, id: &str) -> bool {
        match self.client.get(id).await {
            Ok(_) => false,
            Err(error) => {
                let (_, body) = refusal::<()>(Err(error));
                assert_eq!(body.code, ErrorCode::UnknownSandbox);
                true
            }
        }
    }
}

/// Checks that the sandbox ends about `expect_ms` from now: at the most a minute earlier, which is
/// how long a test may take.
fn check_left(sandbox: &Sandbox, expect_ms: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let at_ms = sandbox.expires_at_ms.expect("it has a deadline");
    let left_ms = at_ms.saturating_sub(u64::try_from(now.as_millis()).unwrap());
    assert!((expect_ms - 60_000..=expect_ms).contains(&left_ms), "{left_ms} of {expect_ms}");
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn sandboxes_end_at_their_timeouts_and_no_others() {
    let api = Api::with(|config| config.sandboxes_max = 10).await;
    let stays = api.create_as(json!({})).await.unwrap();
    let later = api.create_as(json!({"timeout_ms": HOUR_MS})).await.unwrap();
    let mut ends = Vec::new();
    for _ in 0..8 {
        ends.push(api.create_as(json!({"timeout_ms": TIMEOUT_MS_MIN})).await.unwrap());
    }
    for id in &ends {
        wait::until(async || api.is_unknown(id).await).await;
    }
    wait::until(async || api.sandboxes.reaping() == 0).await;
    assert_eq!(api.sandboxes.count(), 2);
    assert_eq!(api.client.get(&stays).await.unwrap().expires_at_ms, None);
    check_left(&api.client.get(&later).await.unwrap(), HOUR_MS);
    let (_, body) = refusal(api.update(&ends[0], json!({"timeout_ms": null})).await);
    assert_eq!(body.code, ErrorCode::UnknownSandbox);
}

#[tokio::test]
async fn a_change_that_was_answered_came_before_the_end_and_one_that_came_later_is_refused() {
    let api = Api::start().await;
    let id = api.create_as(json!({})).await.unwrap();
    let first = json!({"timeout_ms": TIMEOUT_MS_MIN, "metadata": {"number": "1"}});
    api.update(&id, first).await.unwrap();
    let mut number = 1;
    let refused = loop {
        let change = json!({"metadata": {"number": (number + 1).to_string()}});
        match api.update(&id, change).await {
            Ok(_) => number += 1,
            refused => break refusal(refused).1,
        }
    };
    assert_eq!(refused.code, ErrorCode::UnknownSandbox);
    let mut events = api.client.events(&[id], None, true).await.unwrap();
    // It had what the last change set, and nothing of the one that was refused.
    let mut told = Vec::new();
    while told.last() != Some(&SandboxEventKind::Deleted) {
        let event = events.next().await.unwrap().unwrap();
        let DaemonEvent::Sandbox(event) = event else { panic!("{event:?}") };
        if event.event == SandboxEventKind::Expired {
            assert_eq!(event.metadata["number"], number.to_string());
        }
        told.push(event.event);
    }
    assert_eq!(told[told.len() - 2], SandboxEventKind::Expired);
}

#[tokio::test]
async fn an_operation_under_way_ends_with_its_sandbox() {
    let api = Api::start().await;
    let id = api.create_as(json!({})).await.unwrap();
    let running = api.run_dir.join(&id).join("running");
    let endless = super::body(&format!("> {}; sleep 1000", running.display()));
    let expires = async {
        wait::until(async || running.exists()).await;
        api.update(&id, json!({"timeout_ms": TIMEOUT_MS_MIN})).await.unwrap();
    };
    let (ended, ()) = tokio::join!(api.client.exec(&id, &endless), expires);
    let (_, body) = refusal(ended);
    assert_eq!(body.code, ErrorCode::SandboxGone, "{body:?}");
}

#[tokio::test]
async fn a_change_may_shorten_and_a_touch_only_extends() {
    let api = Api::start().await;
    let id = api.create_as(json!({"timeout_ms": HOUR_MS, "on_timeout": "delete"})).await.unwrap();
    check_left(&api.touch(&id, Some(HOUR_MS / 2)).await, HOUR_MS);
    check_left(&api.touch(&id, Some(3 * HOUR_MS)).await, 3 * HOUR_MS);
    check_left(&api.touch(&id, None).await, 3 * HOUR_MS);
    let sandbox = api.update(&id, json!({"timeout_ms": 2 * HOUR_MS})).await.unwrap();
    check_left(&sandbox, 2 * HOUR_MS);
    assert_eq!(sandbox.timeout_ms, Some(2 * HOUR_MS));
    check_left(&api.update(&id, json!({})).await.unwrap(), 2 * HOUR_MS);
    let sandbox = api.update(&id, json!({"timeout_ms": null})).await.unwrap();
    assert_eq!((sandbox.timeout_ms, sandbox.expires_at_ms), (None, None));
    assert_eq!(api.touch(&id, Some(HOUR_MS)).await.expires_at_ms, None);
    assert_eq!(sandbox.on_timeout, OnTimeout::Delete);
    // A sandbox without a timeout may get one, and end.
    api.update(&id, json!({"timeout_ms": TIMEOUT_MS_MIN})).await.unwrap();
    wait::until(async || api.is_unknown(&id).await).await;
}

#[tokio::test]
async fn metadata_are_shown_changed_and_listed_by() {
    let api = Api::start().await;
    let one = api.create_as(json!({"metadata": {"user": "a b&c", "run": "1"}})).await.unwrap();
    let two = api.create_as(json!({"metadata": {"user": "a b&c", "run": "2=3"}})).await.unwrap();
    api.create_as(json!({})).await.unwrap();
    let listed = async |wanted: &[(&str, &str)]| {
        let metadata = pairs(wanted).into_iter().collect();
        let wanted = ListSandboxes { metadata, ..ListSandboxes::default() };
        let list = api.client.list_with(&wanted).await.unwrap().sandboxes;
        list.into_iter().map(|sandbox| sandbox.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(&[]).await.len(), 3);
    assert_eq!(listed(&[("user", "a b&c"), ("run", "2=3")]).await, [two.as_str()]);
    assert_eq!(listed(&[("user", "a b&c")]).await, [one.as_str(), &two]);
    assert_eq!(listed(&[("user", "b")]).await, [""; 0]);
    assert_eq!(listed(&[("none", "")]).await, [""; 0]);
    let change = json!({"metadata": {"run": null, "none": null, "state": "done"}});
    let sandbox = api.update(&one, change).await.unwrap();
    assert_eq!(sandbox.metadata, pairs(&[("user", "a b&c"), ("state", "done")]));
    assert_eq!(listed(&[("state", "done")]).await, [one]);
}

#[tokio::test]
async fn bad_terms_are_refused_and_change_nothing() {
    let api = Api::start().await;
    let full: BTreeMap<_, _> = (0..METADATA_PAIRS_MAX).map(|n| (n.to_string(), "")).collect();
    let mut over = full.clone();
    over.insert("more".to_owned(), "");
    let over_30_days = 30 * 24 * HOUR_MS + 1;
    let bad = [
        (json!({"timeout_ms": 999}), "timeout_ms: 999 is not"),
        (json!({"timeout_ms": over_30_days}), "timeout_ms: 2592000001 is not"),
        (json!({"on_timeout": "pause"}), "on_timeout: this daemon cannot pause"),
        (json!({"on_timeout": "pause_disk"}), "on_timeout: this daemon cannot pause"),
        (json!({"idle": {"freeze_ms": 999}}), "idle.freeze_ms: 999 is not"),
        (json!({"idle": {"freeze_ms": over_30_days}}), "idle.freeze_ms: 2592000001 is not"),
        (json!({"idle": {"pause_ms": 60_000}}), "idle.pause_ms: this daemon cannot pause"),
        (json!({"metadata": {"": "x"}}), "metadata: a name is empty"),
        (json!({"metadata": over}), "metadata: 65 pairs"),
        (json!({"metadata": {"a": "x".repeat(8192)}}), "metadata: 1 pairs of 8193 bytes"),
    ];
    let first = json!({"timeout_ms": HOUR_MS, "metadata": {"a": "1"}});
    let id = api.create_as(first).await.unwrap();
    let before = api.client.get(&id).await.unwrap();
    for (terms, expect) in bad {
        let (_, body) = refusal(api.create_as(terms.clone()).await);
        assert_eq!(body.code, ErrorCode::InvalidRequest);
        assert!(body.error.contains(expect), "{}", body.error);
        let mut change = terms.clone();
        change["metadata"]["b"] = json!("2");
        let (_, body) = refusal(api.update(&id, change).await);
        assert_eq!(body.code, ErrorCode::InvalidRequest, "{terms}");
    }
    let after = api.client.get(&id).await.unwrap();
    assert_eq!((after.timeout_ms, &after.metadata), (before.timeout_ms, &before.metadata));
    assert_eq!(api.sandboxes.count(), 1);
    // A change is judged by what comes out.
    api.update(&id, json!({"metadata": {"a": null}})).await.unwrap();
    api.update(&id, json!({"metadata": full})).await.unwrap();
    let (_, body) = refusal(api.update(&id, json!({"metadata": {"more": ""}})).await);
    assert!(body.error.contains("metadata: 65 pairs"), "{}", body.error);
}
