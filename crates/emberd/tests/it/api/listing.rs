//! Lists of sandboxes over HTTP: narrowed down, and page by page.

use emberd_api::{ErrorCode, ListSandboxes, SandboxPhase};
use serde_json::json;

use super::Api;
use crate::wait;

impl Api {
    /// Ids of the sandboxes that `list` asks for, and where the next page begins.
    async fn listed(&self, list: ListSandboxes) -> (Vec<String>, Option<u64>) {
        let list = self.client.list_with(&list).await.unwrap();
        (list.sandboxes.into_iter().map(|sandbox| sandbox.id).collect(), list.next)
    }

    async fn in_phases(&self, phases: &[SandboxPhase]) -> Vec<String> {
        let phases = phases.to_vec();
        self.listed(ListSandboxes { phases, ..ListSandboxes::default() }).await.0
    }
}

fn page(limit: usize, after: Option<u64>) -> ListSandboxes {
    ListSandboxes { limit: Some(limit), after, ..ListSandboxes::default() }
}

#[tokio::test]
async fn sandboxes_are_listed_by_phase() {
    let api = Api::start().await;
    let frozen = api.create_as(json!({"idle": {"freeze_ms": 1_000}})).await.unwrap();
    let gone = api.create().await;
    let running = api.create().await;
    let pid = api.client.get(&gone).await.unwrap().vmm_pid.unwrap();
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait::until(async || api.in_phases(&[SandboxPhase::Gone]).await == [gone.as_str()]).await;
    wait::until(async || api.in_phases(&[SandboxPhase::Frozen]).await == [frozen.as_str()]).await;
    assert_eq!(api.in_phases(&[SandboxPhase::Running]).await, [running.as_str()]);
    let both = [SandboxPhase::Running, SandboxPhase::Frozen];
    assert_eq!(api.in_phases(&both).await, [frozen.as_str(), &running]);
    assert_eq!(api.in_phases(&[SandboxPhase::Creating]).await, [""; 0]);
    assert_eq!(api.in_phases(&[]).await.len(), 3);
    api.client.delete(&gone).await.unwrap();
    api.stop().await;
}

#[tokio::test]
async fn pages_go_on_where_the_last_ended_whatever_was_deleted_meanwhile() {
    let api = Api::with(|config| config.sandboxes_max = 6).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let parity = ["even", "odd"][number % 2];
        ids.push(api.create_as(json!({"metadata": {"is": parity}})).await.unwrap());
    }
    let (first, next) = api.listed(page(2, None)).await;
    assert_eq!(first, ids[..2]);
    assert!(next.is_some());
    // The one that the first page ended with, and one of the next.
    api.client.delete(&ids[1]).await.unwrap();
    api.client.delete(&ids[2]).await.unwrap();
    let newer = api.create().await;
    let (second, next) = api.listed(page(2, next)).await;
    assert_eq!(second, ids[3..5]);
    let (last, next) = api.listed(page(2, next)).await;
    assert_eq!((last.as_slice(), next), (&[newer][..], None));
    // A page is of those that remain when the list is narrowed down.
    let metadata = vec![("is".to_owned(), "even".to_owned())];
    let (even, next) =
        api.listed(ListSandboxes { metadata: metadata.clone(), ..page(1, None) }).await;
    assert_eq!(even, ids[..1]);
    let (even, next) = api.listed(ListSandboxes { metadata, ..page(1, next) }).await;
    assert_eq!((even.as_slice(), next), (&ids[4..5], None));
    assert_eq!(api.listed(page(1_000, Some(u64::MAX))).await, (Vec::new(), None));
    api.stop().await;
}

#[tokio::test]
async fn bad_filters_are_refused_by_name() {
    let api = Api::start().await;
    for (query, expect) in [
        ("phase=ready", "`phase=ready` is not one of creating, running, frozen, gone"),
        ("phase=running&phase=", "`phase=` is not one of"),
        ("limit=0", "`limit=0` is not from 1 to 1000"),
        ("limit=1001", "`limit=1001` is not from 1 to 1000"),
        ("limit=-1", "`limit=-1` is not a number"),
        ("after=sb_000000000000", "`after=sb_000000000000` is not a number"),
        ("metadata=a", "`metadata` in the query is not NAME=VALUE"),
    ] {
        let answer = api.raw("GET", &format!("/sandboxes?{query}"), "").await;
        let error = answer.error();
        assert_eq!((answer.status, error.code), (400, ErrorCode::InvalidRequest), "{query}");
        assert!(error.error.contains(expect), "{error:?}");
    }
    api.stop().await;
}
