//! What Prometheus itself says of a scrape, of the rules, and of the queries of the dashboard.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::{env, fs};

use emberd_testing::needs;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::Api;
use super::scrape::DEPLOY;

/// `promtool`, which `PROMTOOL` may name. Without one, nothing: the test is skipped.
fn promtool() -> Option<Command> {
    let program = env::var_os("PROMTOOL").unwrap_or_else(|| "promtool".into());
    let is_there = Command::new(&program).arg("--version").output().is_ok();
    needs(is_there, "no promtool; scripts/test.sh gets one").then(|| Command::new(program))
}

/// Runs `promtool check` over `input`; it must find nothing.
fn check(arguments: &[&str], input: &str) {
    let Some(mut promtool) = promtool() else { return };
    promtool
        .arg("check")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = promtool.spawn().unwrap();
    running.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = running.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
    assert!(output.status.success(), "{arguments:?}: {said:?}\n{input}");
    assert_eq!(said[1], "", "{arguments:?} of\n{input}");
}

#[tokio::test]
async fn prometheus_finds_no_fault_in_a_scrape() {
    let api = Api::with_all_metrics().await;
    api.client.build_template("shell").await.unwrap();
    let id = api.create().await;
    api.exec(&id, "true").await.unwrap();
    api.raw("GET", "/nowhere", "").await;
    check(&["metrics"], &api.client.daemon_metrics().await.unwrap());
    api.client.delete(&id).await.unwrap();
    api.stop().await;
}

/// Every expression of a panel.
fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn prometheus_understands_the_rules_and_the_dashboard() {
    check(&["rules", &format!("{DEPLOY}/prometheus/rules.yml")], "");
    let dashboard = fs::read(format!("{DEPLOY}/grafana/emberd.json")).unwrap();
    let expressions = expressions(&serde_json::from_slice(&dashboard).unwrap());
    assert!(expressions.len() > 10, "{expressions:?}");
    // As recording rules, with what Grafana puts in. JSON is YAML.
    let rules = expressions.iter().enumerate().map(|(at, expression)| {
        let expression = expression.replace("$__rate_interval", "5m").replace("$instance", ".*");
        json!({"record": format!("panel_{at}"), "expr": expression})
    });
    let rules = json!({"groups": [{"name": "dashboard", "rules": rules.collect::<Vec<_>>()}]});
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(rules.to_string().as_bytes()).unwrap();
    check(&["rules", file.path().to_str().unwrap()], &rules.to_string());
}
