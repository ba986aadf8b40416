//! `/metrics`: what is counted, and that dashboards and rules name only what there is.

use std::collections::BTreeSet;
use std::fs;

use emberd_api::CreateSandbox;

use super::{Api, refusal};

/// The value of the series `name` in `text`.
fn value(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")))?;
    Some(line.rsplit_once(' ')?.1.parse().unwrap())
}

#[tokio::test]
async fn what_happened_is_counted_and_what_exists_is_shown() {
    let api = Api::start().await;
    let scrape = async || api.client.daemon_metrics().await.unwrap();
    let before = scrape().await;
    assert_eq!(value(&before, "emberd_sandboxes_max"), Some(4.0));
    assert!(!before.contains("emberd_sandboxes{"), "{before}");
    let id = api.create().await;
    for code in ["true", "false"] {
        api.exec(&id, code).await.unwrap();
    }
    let unknown = CreateSandbox { language_pack: Some("none".into()), ..CreateSandbox::default() };
    assert_eq!(refusal(api.client.create_with(&unknown).await).0, 400);
    for path in ["/nowhere", "/nowhere/else", "/sandboxes/sb_000000000000"] {
        assert_eq!(api.raw("GET", path, "").await.status, 404);
    }
    let text = scrape().await;
    for (name, expect) in [
        (r#"emberd_sandboxes{pack="shell",phase="running"}"#, 1.0),
        (r#"emberd_requests_total{method="POST",route="/sandboxes",code="201"}"#, 1.0),
        (r#"emberd_requests_total{method="POST",route="/sandboxes",code="400"}"#, 1.0),
        (r#"emberd_requests_total{method="POST",route="/sandboxes/{id}/exec",code="200"}"#, 2.0),
        (r#"emberd_requests_total{method="GET",route="none",code="404"}"#, 2.0),
        (r#"emberd_requests_total{method="GET",route="/sandboxes/{id}",code="404"}"#, 1.0),
        (r#"emberd_errors_total{code="unknown_pack"}"#, 1.0),
        (r#"emberd_errors_total{code="unknown_sandbox"}"#, 1.0),
        (r#"emberd_create_seconds_count{path="cold-boot"}"#, 1.0),
        (r#"emberd_exec_seconds_count{started_by="spawn"}"#, 2.0),
        ("emberd_exec_overhead_seconds_count", 2.0),
        ("emberd_sandboxes_memory_bytes", f64::from(64 << 20)),
    ] {
        assert_eq!(value(&text, name), Some(expect), "{name} in {text}");
    }
    assert!(value(&text, r#"emberd_vmm_resident_bytes{pack="shell"}"#).unwrap() > 0.0);
    assert!(!text.contains(&id) && !text.contains("sb_"), "{text}");
    api.stop().await;
}

#[tokio::test]
async fn a_server_in_a_sandbox_and_a_strange_method_make_no_series_of_their_own() {
    let api = Api::start().await;
    let count = async || api.client.daemon_metrics().await.unwrap().lines().count();
    assert_eq!(api.raw("BREW", "/info", "").await.status, 405);
    let before = count().await;
    for method in ["BREW1", "BREW2", "BREW3"] {
        assert_eq!(api.raw(method, "/info", "").await.status, 405);
    }
    for n in 0..20 {
        assert_eq!(api.raw("BREW", &format!("/nowhere/{n}"), "").await.status, 404);
    }
    // One of the paths that do not exist, one of their error, and the first scrape.
    assert_eq!(count().await, before + 3);
    api.stop().await;
}

/// Every name that begins with `emberd_` in `text`.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c)).filter(|word| word.starts_with("emberd_"));
    words.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_dashboard_and_the_rules_name_only_what_there_is() {
    let api = Api::with_templates(|_| {}).await;
    api.client.build_template("shell").await.unwrap();
    let id = api.create().await;
    api.exec(&id, "true").await.unwrap();
    api.raw("GET", "/nowhere", "").await;
    let there = names(&api.client.daemon_metrics().await.unwrap());
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");
    for file in ["grafana/emberd.json", "prometheus/rules.yml"] {
        let text = fs::read_to_string(format!("{deploy}/{file}")).unwrap();
        let named = names(&text);
        assert!(named.len() > 4, "{file}: {named:?}");
        let unknown: Vec<_> = named.difference(&there).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    let dashboard = fs::read(format!("{deploy}/grafana/emberd.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_slice(&dashboard).unwrap();
    assert!(!dashboard["panels"].as_array().unwrap().is_empty());
    api.client.delete(&id).await.unwrap();
    api.stop().await;
}
