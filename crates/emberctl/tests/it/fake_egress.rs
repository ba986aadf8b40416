//! Network access of the fake daemon's sandboxes: lists of texts, and a log of two records.

use serde_json::{Value, json};

/// The host that a check allows.
pub const ALLOWED: &str = "a.example";

pub fn profiles() -> Value {
    json!({"profiles": [
        {"name": "pip", "allow": ["index.example", "files.example"], "from": "pack:python"},
        {"name": "public", "allow": ["*:*"], "from": "built-in"},
    ]})
}

/// Answers a request below `/sandboxes/{id}/egress`.
pub fn answer(method: &str, rest: &[&str], body: &[u8], policy: &mut Value) -> String {
    match (method, rest) {
        ("PATCH", []) => {
            let patch: Value = serde_json::from_slice(body).unwrap();
            for list in ["profiles", "allow", "deny"] {
                let mut entries = entries(&policy[list]);
                let removed = self::entries(&patch["remove"][list]);
                entries.retain(|entry| !removed.contains(entry));
                entries.extend(self::entries(&patch["add"][list]));
                policy[list] = json!(entries);
            }
            let mut shown = shown(policy);
            shown["reset"] = json!(1);
            shown.to_string()
        }
        ("GET", []) => shown(policy).to_string(),
        ("POST", ["check"]) => {
            let asked: Value = serde_json::from_slice(body).unwrap();
            let check = if asked["host"] == ALLOWED {
                json!({"decision": "allowed", "entry": "*.example", "from": "sandbox",
                    "addresses": ["192.0.2.1", "2001:db8::1"]})
            } else {
                json!({"decision": "denied", "reason": "no_rule", "addresses": [],
                    "hint": "add it to `allow`"})
            };
            check.to_string()
        }
        ("GET", [log]) if log.ends_with("follow=true") => {
            assert!(log.contains("decision=denied"), "{log}");
            format!("{}\n{}\n", json!({"gap": 3}), records()[1])
        }
        ("GET", [log]) if log.starts_with("log?after=0&") => {
            json!({"records": records(), "next": 9, "gap": 2}).to_string()
        }
        ("GET", [_]) => json!({"records": [], "next": 9, "gap": 0}).to_string(),
        other => panic!("{other:?}"),
    }
}

fn entries(list: &Value) -> Vec<Value> {
    list.as_array().cloned().unwrap_or_default()
}

fn shown(policy: &Value) -> Value {
    let rule = |entry: &Value| json!({"entry": entry, "from": "sandbox"});
    let rules: Vec<_> = entries(&policy["allow"]).iter().map(rule).collect();
    let policy = if policy.is_null() { json!({}) } else { policy.clone() };
    json!({
        "policy": policy, "in_force": rules, "state": "unavailable", "why": "no BPF",
        "connections": 2,
        "totals": {"opened": 5, "denied": 4, "failed": 1, "sent_bytes": 2048, "received_bytes": 3},
    })
}

fn records() -> [Value; 2] {
    [
        json!({"seq": 8, "time": "2026-11-28T03:50:01.123456Z", "sandbox": "sb_1",
            "kind": "connection", "decision": "allowed", "host": "a.example", "port": 443,
            "entry": "*.example", "from": "sandbox", "protocol": "tls", "sent_bytes": 1024,
            "received_bytes": 10, "duration_ms": 7, "count": 1}),
        json!({"seq": 9, "time": "2026-11-28T03:50:02.123456Z", "sandbox": "sb_1",
            "kind": "lookup", "decision": "denied", "reason": "no_rule", "host": "e\u{1b}[2Jvil",
            "sent_bytes": 0, "received_bytes": 0, "duration_ms": 0, "count": 3}),
    ]
}
