//! `/metrics`: what is counted, and that dashboards and rules name only what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use emberd_api::CreateSandbox;
use tokio::task::JoinSet;

use super::{Api, body, refusal};

/// Directory of the dashboard and the rules.
pub const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");

/// The value of the series `name` in `text`.
pub fn value(text: &str, name: &str) -> Option<f64> {
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

/// Every series of counters, with its value.
fn counters(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let series = lines.filter_map(|line| line.rsplit_once(' '));
    let is_counter = |name: &str| {
        let name = name.split('{').next().unwrap_or(name);
        ["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end))
    };
    let counters = series.filter(|(name, _)| is_counter(name));
    counters.map(|(name, value)| (name, value.parse().unwrap())).collect()
}

#[tokio::test]
async fn scrapes_under_load_are_whole_and_counters_only_rise() {
    const CALLERS: usize = 8;
    const ROUNDS: usize = 25;
    let api = Api::start().await;
    let id = api.create().await;
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (client, id) = (api.client.clone(), id.clone());
        callers.spawn(async move {
            for _ in 0..ROUNDS {
                client.exec(&id, &body("true")).await.unwrap();
                client.get("sb_000000000000").await.unwrap_err();
            }
        });
    }
    let mut scrapes = vec![api.client.daemon_metrics().await.unwrap()];
    while !callers.is_empty() {
        while let Some(done) = callers.try_join_next() {
            done.unwrap();
        }
        scrapes.push(api.client.daemon_metrics().await.unwrap());
    }
    scrapes.push(api.client.daemon_metrics().await.unwrap());
    for two in scrapes.windows(2) {
        let [earlier, later] = [&two[0], &two[1]].map(|text| counters(text));
        for (name, value) in earlier {
            assert!(later.get(name).is_some_and(|now| *now >= value), "{name} in {}", two[1]);
        }
        // The last lines: the scrape is whole.
        assert!(two[1].contains("\nemberd_audit_waiting ") && two[1].ends_with('\n'), "{}", two[1]);
    }
    let last = scrapes.last().unwrap();
    let count = |count: usize| f64::from(u32::try_from(count).unwrap());
    let (execs, before) = (count(CALLERS * ROUNDS), count(scrapes.len() - 1));
    for (name, expect) in [
        (r#"emberd_exec_seconds_count{started_by="spawn"}"#, execs),
        (r#"emberd_requests_total{method="GET",route="/sandboxes/{id}",code="404"}"#, execs),
        (r#"emberd_requests_total{method="GET",route="/metrics",code="200"}"#, before),
    ] {
        assert_eq!(value(last, name), Some(expect), "{name} in {last}");
    }
    api.client.delete(&id).await.unwrap();
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
    let api = Api::with_all_metrics().await;
    api.client.build_template("shell").await.unwrap();
    let id = api.create().await;
    api.exec(&id, "true").await.unwrap();
    api.raw("GET", "/nowhere", "").await;
    let there = names(&api.client.daemon_metrics().await.unwrap());
    for file in ["grafana/emberd.json", "prometheus/rules.yml"] {
        let text = fs::read_to_string(format!("{DEPLOY}/{file}")).unwrap();
        let named = names(&text);
        assert!(named.len() > 4, "{file}: {named:?}");
        let unknown: Vec<_> = named.difference(&there).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    let dashboard = fs::read(format!("{DEPLOY}/grafana/emberd.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_slice(&dashboard).unwrap();
    assert!(!dashboard["panels"].as_array().unwrap().is_empty());
    api.client.delete(&id).await.unwrap();
    api.stop().await;
}
