//! Network access over HTTP: policies, dry runs, the log and profiles. The guests are processes of
//! this host, which capture nothing.

use std::os::unix::fs::PermissionsExt as _;

use emberd_api::{
    CheckEgress, CreateSandbox, EgressDecision, EgressEvent, EgressLists, EgressPatch,
    EgressReason, EgressState, EntrySpec, ErrorCode, PolicySpec, SandboxEgress,
};
use emberd_client::ClientError;
use serde_json::{Value, json};

use super::{Api, EGRESS_FILE, refusal};
use crate::wait;

const OPERATOR: &str = r#"
default = ["corp"]
ceiling = ["corp", "*.example", "1.1.1.1:53", "10.0.0.0/8"]
deny = ["never.example"]
[profiles.corp]
allow = ["nexus.corp.test:8443"]
"#;

fn spec(json: Value) -> PolicySpec {
    serde_json::from_value(json).unwrap()
}

impl Api {
    async fn create_with(&self, egress: Value) -> Result<String, ClientError> {
        let language_pack = Some("shell".to_owned());
        let wanted =
            CreateSandbox { language_pack, egress: Some(spec(egress)), ..CreateSandbox::default() };
        Ok(self.client.create_with(&wanted).await?.answer.id)
    }

    /// Network access of a sandbox once its guest has said what it can.
    async fn settled(&self, id: &str) -> SandboxEgress {
        let asked = async || self.client.egress(id).await.unwrap().state != EgressState::Connecting;
        wait::until(asked).await;
        self.client.egress(id).await.unwrap()
    }

    async fn check(&self, id: &str, host: &str, port: u16) -> Value {
        let check = CheckEgress { host: host.to_owned(), port };
        serde_json::to_value(self.client.check_egress(id, &check).await.unwrap()).unwrap()
    }
}

fn in_force(egress: &SandboxEgress) -> Vec<String> {
    egress.in_force.iter().map(|rule| format!("{} {}", rule.entry, rule.from)).collect()
}

#[tokio::test]
async fn a_policy_is_in_force_from_the_creation_on() {
    let api = Api::with_egress(OPERATOR).await;
    let policy = json!({"profiles": ["corp"], "allow": ["a.example", "b.example:443"],
        "deny": ["b.example"], "log": "denied"});
    let id = api.create_with(policy.clone()).await.unwrap();
    let egress = api.settled(&id).await;
    assert_eq!(egress.policy, spec(policy));
    assert_eq!(in_force(&egress), ["a.example sandbox", "nexus.corp.test:8443 profile:corp"]);
    assert_eq!(egress.state, EgressState::Unavailable);
    assert!(egress.why.is_some() && egress.reset.is_none());
    // Without a policy of its own, a sandbox has the operator's default; with an empty one, none.
    let of_default = api.client.egress(&api.create().await).await.unwrap();
    assert_eq!(in_force(&of_default), ["nexus.corp.test:8443 profile:corp"]);
    let id = api.create_with(json!({})).await.unwrap();
    assert_eq!(in_force(&api.client.egress(&id).await.unwrap()), Vec::<String>::new());
    api.stop().await;
}

#[tokio::test]
async fn a_policy_that_is_refused_says_where_it_is_wrong() {
    let api = Api::with_egress(OPERATOR).await;
    for (policy, status, code, error) in [
        (json!({"allow": ["a..b"]}), 400, ErrorCode::InvalidRequest, "/egress/allow/0: `a..b`: "),
        (json!({"profiles": ["pop"]}), 400, ErrorCode::UnknownProfile, "/egress/profiles/0: "),
        (
            json!({"allow": ["a.example", "elsewhere.test"]}),
            403,
            ErrorCode::EgressForbidden,
            "/egress/allow/1: the operator does not permit `elsewhere.test`",
        ),
        (json!({"profiles": ["github"]}), 403, ErrorCode::EgressForbidden, "/egress/profiles/0: "),
        (json!({"limits": {"connections": 0}}), 400, ErrorCode::InvalidRequest, "/egress/limits/"),
    ] {
        let (answered, body) = refusal(api.create_with(policy).await);
        assert_eq!((answered, body.code), (status, code), "{body:?}");
        assert!(body.error.starts_with(error), "{body:?}");
    }
    // A misspelt restriction would allow more than was meant.
    for body in
        [r#"{"egress": {"denny": []}}"#, r#"{"egress": {"allow": [{"host": "a", "x": 1}]}}"#]
    {
        let answer = api.raw("POST", "/sandboxes", body).await;
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    let (status, body) = refusal(api.client.set_egress("sb_000000000000", &spec(json!({}))).await);
    assert_eq!((status, body.code), (404, ErrorCode::UnknownSandbox));
    assert_eq!(api.client.list().await.unwrap().sandboxes, []);
    api.stop().await;
}

#[tokio::test]
async fn a_guest_that_captures_nothing_gets_no_policy_that_allows_something() {
    let api = Api::with_egress(OPERATOR).await;
    let id = api.create_with(json!({"allow": ["a.example"]})).await.unwrap();
    api.settled(&id).await;
    let (status, body) =
        refusal(api.client.set_egress(&id, &spec(json!({"allow": ["b.example"]}))).await);
    assert_eq!((status, body.code), (409, ErrorCode::EgressUnavailable), "{body:?}");
    assert!(body.hint.is_some());
    // What is wrong with a policy is said first.
    let add = EgressLists { allow: vec![EntrySpec::from("x.test")], ..EgressLists::default() };
    let patch = EgressPatch { add, ..EgressPatch::default() };
    let (status, body) = refusal(api.client.patch_egress(&id, &patch).await);
    assert_eq!((status, body.code), (403, ErrorCode::EgressForbidden));
    assert!(body.error.starts_with("/add/allow/0: "), "{body:?}");
    assert_eq!(in_force(&api.client.egress(&id).await.unwrap()), ["a.example sandbox"]);

    let remove =
        EgressLists { allow: vec![EntrySpec::from("A.example")], ..EgressLists::default() };
    let patch = EgressPatch { remove, ..EgressPatch::default() };
    let patched = api.client.patch_egress(&id, &patch).await.unwrap();
    assert_eq!((patched.policy, patched.reset), (PolicySpec::default(), Some(0)));
    let replaced = api.client.set_egress(&id, &spec(json!({"deny": ["a.example"]}))).await.unwrap();
    assert_eq!(replaced.policy.deny, [EntrySpec::from("a.example")]);
    api.stop().await;
}

#[tokio::test]
async fn a_check_says_what_would_happen_and_what_to_ask_for() {
    let api = Api::with_egress(OPERATOR).await;
    let policy =
        json!({"allow": ["1.1.1.1:53", "a.example", "10.1.0.0/16"], "deny": ["t.example"]});
    let id = api.create_with(policy).await.unwrap();
    assert_eq!(
        api.check(&id, "1.1.1.1", 53).await,
        json!({"decision": "allowed", "entry": "1.1.1.1:53", "from": "sandbox",
            "addresses": ["1.1.1.1"]})
    );
    for (host, port, reason, hint) in [
        ("b.example", 443, "no_rule", Some("add \"b.example\" to `allow`")),
        ("a.example", 22, "port_not_allowed", Some("ask the operator to permit \"a.example:22\"")),
        ("x.test", 443, "no_rule", Some("ask the operator to permit \"x.test\"")),
        ("t.example", 443, "denied_by_rule", Some("remove \"t.example\" from `deny`")),
        ("never.example", 443, "operator_denied", Some("ask the operator to permit it")),
        ("127.0.0.1", 80, "no_rule", Some("ask the operator to permit \"127.0.0.1\"")),
    ] {
        let check = api.check(&id, host, port).await;
        assert_eq!((&check["decision"], &check["reason"]), (&json!("denied"), &json!(reason)));
        assert_eq!(check["hint"].as_str(), hint, "{host}:{port}");
    }
    let private = api.check(&id, "10.1.2.3", 443).await;
    assert_eq!(private["reason"], "private_address");
    assert!(private["hint"].as_str().unwrap().contains("`private`"), "{private}");
    let check = CheckEgress { host: "a.example".to_owned(), port: 0 };
    let (status, body) = refusal(api.client.check_egress(&id, &check).await);
    assert_eq!((status, body.code), (400, ErrorCode::InvalidRequest));
    api.stop().await;
}

#[tokio::test]
async fn a_log_is_read_in_parts_and_followed_to_the_end_of_its_sandbox() {
    let api = Api::with_egress(OPERATOR).await;
    let id = api.create_with(json!({})).await.unwrap();
    for _ in 0..3 {
        api.client.set_egress(&id, &spec(json!({}))).await.unwrap();
    }
    let first = api.client.egress_log(&id, 0, None, Some(2)).await.unwrap();
    assert_eq!((first.records.len(), first.next, first.gap), (2, 2, 0));
    let record = &first.records[0];
    assert_eq!((record.kind.as_str(), record.sandbox.as_str()), ("policy", id.as_str()));
    assert!(record.time.ends_with('Z') && record.time.len() == 27, "{record:?}");
    let rest = api.client.egress_log(&id, first.next, None, None).await.unwrap();
    assert_eq!((rest.records.len(), rest.next), (1, 3));
    let denied = Some(EgressDecision::Denied);
    assert_eq!(api.client.egress_log(&id, 0, denied, None).await.unwrap().records, []);

    let mut events = api.client.follow_egress_log(&id, 1, None).await.unwrap();
    for expected in [2, 3] {
        let Some(EgressEvent::Record(record)) = events.next().await.unwrap() else {
            panic!("a record");
        };
        assert_eq!(record.seq, expected);
    }
    api.client.set_egress(&id, &spec(json!({}))).await.unwrap();
    let event = events.next().await.unwrap();
    assert!(matches!(event, Some(EgressEvent::Record(record)) if record.seq == 4));
    api.client.delete(&id).await.unwrap();
    assert_eq!(events.next().await.unwrap(), None);
    let answer = api.raw("GET", &format!("/sandboxes/{id}/egress/log?after=x"), "").await;
    assert_eq!(answer.status, 400);
    api.stop().await;
}

#[tokio::test]
async fn a_file_that_is_read_again_applies_to_every_sandbox() {
    let api = Api::with_egress(OPERATOR).await;
    let id = api.create_with(json!({"allow": ["a.example", "b.example"]})).await.unwrap();
    let file = api.run_dir.with_file_name(EGRESS_FILE);
    std::fs::write(&file, "ceiling = [\"b.example\"]").unwrap();
    api.egress.read_again(&api.sandboxes);
    assert_eq!(in_force(&api.client.egress(&id).await.unwrap()), ["b.example sandbox"]);
    assert_eq!(api.check(&id, "a.example", 443).await["reason"], "over_ceiling");
    // An invalid file changes nothing.
    std::fs::write(&file, "ceiling = [\"b..example\"]").unwrap();
    api.egress.read_again(&api.sandboxes);
    assert_eq!(in_force(&api.client.egress(&id).await.unwrap()), ["b.example sandbox"]);
    assert_eq!(api.client.info().await.unwrap().egress.unwrap().ceiling, ["b.example"]);
    std::fs::write(&file, OPERATOR).unwrap();
    api.egress.read_again(&api.sandboxes);
    assert_eq!(in_force(&api.client.egress(&id).await.unwrap()).len(), 2);
    api.stop().await;
}

#[tokio::test]
async fn records_of_all_sandboxes_are_in_the_operators_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("egress.jsonl");
    let api = Api::with_egress(&format!("log = {path:?}")).await;
    let ids = [api.create_with(json!({})).await.unwrap(), api.create().await];
    for id in &ids {
        api.client.set_egress(id, &spec(json!({}))).await.unwrap();
    }
    let egress = api.egress.clone();
    api.stop().await;
    egress.written().await;
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sandboxes: Vec<_> = lines.iter().map(|line| line["sandbox"].as_str().unwrap()).collect();
    assert!(lines.len() == 2 && ids.iter().all(|id| sandboxes.contains(&id.as_str())), "{text}");
    assert_eq!(lines[0]["kind"], "policy");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn profiles_are_listed_with_their_origin() {
    let api = Api::with_egress(&format!("{OPERATOR}[profiles.github]\nallow = []")).await;
    let profiles = api.client.egress_profiles().await.unwrap().profiles;
    let of = |name: &str| {
        let mut named = profiles.iter().filter(|profile| profile.name == name);
        let found = named.next().unwrap();
        assert!(named.next().is_none(), "{name}");
        (found.from.as_str(), found.allow.len())
    };
    assert_eq!(
        [of("corp"), of("github"), of("public")],
        [("operator", 1), ("operator", 0), ("built-in", 1)]
    );
    assert!(profiles.is_sorted_by(|a, b| a.name < b.name));
    let info = api.client.info().await.unwrap().egress.unwrap();
    assert_eq!(info.default, ["corp"]);
    assert_eq!(info.profiles.len(), profiles.len());
    api.stop().await;
}

#[tokio::test]
async fn without_egress_a_policy_is_refused() {
    let api = Api::start().await;
    let (status, body) = refusal(api.create_with(json!({"allow": ["a.example"]})).await);
    assert_eq!((status, body.code), (409, ErrorCode::EgressUnavailable));
    let id = api.create_with(json!({"deny": ["a.example"]})).await.unwrap();
    let egress = api.client.egress(&id).await.unwrap();
    assert_eq!((egress.state, egress.policy), (EgressState::Unavailable, PolicySpec::default()));
    for refused in [
        refusal(api.client.set_egress(&id, &spec(json!({}))).await),
        refusal(api.client.egress_log(&id, 0, None, None).await),
        refusal(
            api.client
                .check_egress(&id, &CheckEgress { host: "a.example".to_owned(), port: 443 })
                .await,
        ),
    ] {
        assert_eq!((refused.0, refused.1.code), (409, ErrorCode::EgressUnavailable));
    }
    assert_eq!(api.client.info().await.unwrap().egress, None);
    assert_eq!(serde_json::to_value(EgressReason::NoRule).unwrap(), "no_rule");
    api.stop().await;
}
