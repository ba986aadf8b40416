//! `emberctl key`: secrets that are shown once, without a daemon.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{ADDR_DEAD, complaint, emberctl, printed, run};

fn key(data_dir: &Path, args: &[&str]) -> std::process::Output {
    emberctl(ADDR_DEAD, &["key"]).args(args).arg("--data-dir").arg(data_dir).output().unwrap()
}

fn listed(data_dir: &Path) -> Vec<Value> {
    let output = key(data_dir, &["ls", "--json"]);
    let document: Value = serde_json::from_str(printed(&output)).unwrap();
    document["keys"].as_array().unwrap().clone()
}

#[test]
fn a_key_is_created_listed_replaced_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(listed(dir.path()), Vec::<Value>::new());
    let output = key(dir.path(), &["create", "ci", "--expires", "90d"]);
    let secret = printed(&output).trim_end().to_owned();
    assert!(secret.starts_with("emb_") && secret.len() == 45, "{secret}");
    assert!(
        complaint(&output).contains("shown only this once")
            && !complaint(&output).contains(&secret)
    );
    let output = key(dir.path(), &["create", "sdk", "--e2b", "--scope", "sandbox:*", "--json"]);
    let sdk: Value = serde_json::from_str(printed(&output)).unwrap();
    assert!(sdk["key"].as_str().unwrap().starts_with("e2b_"), "{sdk}");
    let scopes = ["sandbox:read", "sandbox:create", "sandbox:use", "sandbox:delete"];
    assert_eq!((&sdk["role"], &sdk["scopes"]), (&Value::Null, &scopes.as_slice().into()));

    let keys = listed(dir.path());
    assert_eq!((&keys[0]["name"], &keys[0]["role"]), (&"ci".into(), &"user".into()));
    assert_eq!(&keys[1]["id"], &sdk["id"]);
    assert!(keys.iter().all(|key| key["key"].is_null() && key["is_expired"] == false), "{keys:?}");
    let ninety_days = 90 * 24 * 3_600_000;
    let [created, expires] =
        ["created_at_ms", "expires_at_ms"].map(|at| keys[0][at].as_u64().unwrap());
    assert_eq!(expires - created, ninety_days);
    let table = printed(&key(dir.path(), &["ls"])).to_owned();
    assert!(table.contains("ci") && table.contains("in 89d") && table.contains("never"), "{table}");

    let again = printed(&key(dir.path(), &["rotate", "ci"])).trim_end().to_owned();
    assert!(again != secret && again[..12] == secret[..12], "the id stays");
    let output = key(dir.path(), &["rm", "ci", sdk["id"].as_str().unwrap()]);
    assert_eq!(printed(&output).lines().count(), 2);
    assert!(complaint(&output).contains("no key is left, and TCP still needs one"));
    assert_eq!(listed(dir.path()), Vec::<Value>::new());
}

#[test]
fn limits_are_given_changed_and_lifted() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["create", "ci", "--limit", "sandboxes=8", "--limit", "timeout=2h", "--limit"];
    printed(&key(dir.path(), &[&args[..], &["packs=python,shell"]].concat()));
    let limits = || listed(dir.path())[0]["limits"].clone();
    let expect = r#"{"sandboxes":8,"timeout_ms":7200000,"packs":["python","shell"]}"#;
    assert_eq!(limits(), serde_json::from_str::<Value>(expect).unwrap());
    let table = printed(&key(dir.path(), &["ls"])).to_owned();
    assert!(table.contains("sandboxes=8 timeout=2h packs=python,shell"), "{table}");
    let output = key(dir.path(), &["limit", "ci", "sandboxes=2", "packs=off", "egress=none"]);
    assert_eq!(printed(&output), "ci: sandboxes=2 timeout=2h egress=none\n");
    for name in ["sandboxes", "timeout", "egress"] {
        printed(&key(dir.path(), &["limit", "ci", &format!("{name}=off")]));
    }
    assert_eq!(limits(), Value::Null);
}

#[test]
fn what_cannot_be_meant_is_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    printed(&key(dir.path(), &["create", "ci"]));
    for (args, error, hint) in [
        (&["create", "ci"][..], "there is a key with the name ci already", "hint: choose another"),
        (&["rm", "x"], "there is no key x", "hint: list the keys: emberctl key ls"),
        (&["rotate", "x"], "there is no key x", "hint: list the keys"),
        (&["create", "a b"], "the name of a key is 1 to 64 of", ""),
        (&["create", "x", "--role", "root"], "a role is viewer, user, operator or admin", ""),
        (&["create", "x", "--scope", "box:*"], "unknown scope `box:*`: one of daemon:read", ""),
        (&["create", "x", "--expires", "soon"], "soon", ""),
        (&["create", "x", "--limit", "boxes=1"], "unknown limit `boxes`: one of sandboxes,", ""),
        (&["create", "x", "--limit", "vcpus=0"], "the limit vcpus is 0, not 1 to 1000000", ""),
        (&["limit", "x", "vcpus=1"], "there is no key x", "hint: list the keys"),
        (&["limit", "ci", "vcpus=1", "vcpus=2"], "the limit vcpus is given twice", ""),
        (&["create", "x", "--expires", "999999d"], "a key lives for 1 second to 3650 days", ""),
    ] {
        let output = key(dir.path(), args);
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        let complaint = complaint(&output);
        assert!(complaint.contains(error) && complaint.contains(hint), "{args:?}: {complaint}");
    }
    assert_eq!(listed(dir.path()).len(), 1);
    fs::write(dir.path().join("keys.json"), "{\"version\": 1").unwrap();
    for args in [&["ls"][..], &["create", "x"], &["rm", "ci"], &["rotate", "ci"]] {
        let complaint = complaint(&key(dir.path(), args));
        assert!(complaint.contains("keys.json is not a file of keys: EOF"), "{complaint}");
        assert!(complaint.contains("hint: restore the file from a copy"), "{complaint}");
    }
}

#[test]
fn a_key_that_is_none_is_not_repeated() {
    let mut command = emberctl(ADDR_DEAD, &["ping"]);
    let output = command.env("EMBERD_API_KEY", "emb_0a1b2c3d s3cret").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let complaint = complaint(&output);
    assert!(complaint.contains("cannot use EMBERD_API_KEY: the access key is not"), "{complaint}");
    assert!(!complaint.contains("s3cret"));
    let help = printed(&run(ADDR_DEAD, &["--help"])).to_owned();
    assert!(help.contains("EMBERD_API_KEY is sent to the daemon as the access key"));
}
