//! Limits of keys: each of them, at once and in turn, and what a caller is told.

use std::time::Instant;

use emberd_api::{
    AuditRecord, CreateSandbox, ErrorBody, ErrorCode, PolicySpec, ReadAudit, TouchSandbox, Usage,
    Used,
};
use emberd_client::{Client, ClientError};
use emberd_keys::{KeyLimits, KeyRecord, Role};
use emberd_sandbox::{DiskConfig, SandboxesConfig};
use futures::future::join_all;
use serde_json::{Value, json};

use super::{Api, refusal};
use crate::{raw, wait};

/// Room for all that a test creates.
fn roomy(config: &mut SandboxesConfig) {
    config.sandboxes_max = 100;
    config.memory_mib_total = 100 * 64;
}

impl Api {
    /// A key with `limits`, and a client that sends it.
    async fn limited(&self, limits: Value) -> (KeyRecord, Client) {
        let (key, client) = self.key(Role::User).await;
        (self.limit(&key, limits), client)
    }

    /// Gives the key other limits.
    fn limit(&self, key: &KeyRecord, limits: Value) -> KeyRecord {
        let limits: KeyLimits = serde_json::from_value(limits).unwrap();
        emberd_keys::limit(&self.keys, key.id.as_str(), |present| *present = limits).unwrap()
    }
}

async fn create(client: &Client, wanted: Value) -> Result<String, ClientError> {
    let wanted: CreateSandbox = serde_json::from_value(wanted).unwrap();
    let language_pack = wanted.language_pack.or_else(|| Some("shell".to_owned()));
    let wanted = CreateSandbox { language_pack, ..wanted };
    Ok(client.create_with(&wanted).await?.answer.id)
}

/// Waits until the daemon has read that `client` may have so much of `name`.
async fn heeds(client: &Client, name: &str, value: impl Into<Value>) {
    let value = value.into();
    wait::until(async || {
        let limits = usage(client).await.limits;
        serde_json::to_value(limits).unwrap().get(name) == Some(&value)
    })
    .await;
}

async fn usage(client: &Client) -> Usage {
    client.usage(false).await.unwrap().callers.remove(0)
}

/// Checks that a limit has refused: `value` of it may be had.
#[track_caller]
fn check<T: std::fmt::Debug>(outcome: Result<T, ClientError>, name: &str, value: u64) -> String {
    let (status, body) = refusal(outcome);
    assert_eq!((status, body.code), (429, ErrorCode::QuotaExceeded), "{body:?}");
    let ErrorBody { error, hint, limit, .. } = body;
    let limit = limit.unwrap();
    assert_eq!((limit.name.as_str(), limit.value), (name, Some(value)), "{error}");
    assert!(hint.unwrap().contains(&format!("`{name}`")) && error.contains("may"), "{error}");
    error
}

/// Checks that a rule of the key has refused.
#[track_caller]
fn check_rule<T: std::fmt::Debug>(outcome: Result<T, ClientError>, name: &str) -> String {
    let (status, body) = refusal(outcome);
    assert_eq!((status, body.code), (403, ErrorCode::KeyForbids), "{body:?}");
    assert_eq!(body.limit.unwrap().name, name);
    body.error
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_creations_at_once_with_a_limit_of_8_8_succeed() {
    let api = Api::with(roomy).await;
    let (key, client) = api.limited(json!({"sandboxes": 8})).await;
    let (_, other) = api.key(Role::User).await;
    heeds(&client, "sandboxes", 8).await;
    let outcomes = join_all((0..64).map(|_| create(&client, json!({})))).await;
    let (mut ids, mut refused) = (Vec::new(), 0);
    for outcome in outcomes {
        match outcome {
            Ok(id) => ids.push(id),
            refusal => {
                let error = check(refusal, "sandboxes", 8);
                assert_eq!(error, "the caller may have 8 sandboxes, has 8, and asks for 1 more");
                refused += 1;
            }
        }
    }
    assert_eq!((ids.len(), refused), (8, 56));
    let Usage { owner, name, used, .. } = usage(&client).await;
    let expect = Used { sandboxes: 8, vcpus: 8, memory_mib: 512, ..Used::default() };
    assert_eq!(used, Used { requests: Some(0), ..expect });
    assert_eq!(owner.unwrap(), format!("key:{}", key.id));
    assert_eq!(name.unwrap(), key.name.as_str());
    // Nobody else has less for it, and one that ends makes room.
    create(&other, json!({})).await.unwrap();
    client.delete(&ids[0]).await.unwrap();
    ids[0] = create(&client, json!({})).await.unwrap();
    check(create(&client, json!({})).await, "sandboxes", 8);
    // A smaller limit takes nothing away.
    api.limit(&key, json!({"sandboxes": 2}));
    heeds(&client, "sandboxes", 2).await;
    assert_eq!(usage(&client).await.used.sandboxes, 8);
    client.delete(&ids[1]).await.unwrap();
    check(create(&client, json!({})).await, "sandboxes", 2);
    api.stop().await;
}

#[tokio::test]
async fn what_all_sandboxes_of_a_key_have_is_counted_together() {
    let api = Api::with(|config| {
        roomy(config);
        config.size.memory_mib = 256;
        let dir = config.run_dir.with_file_name("disks");
        config.disk = Some(DiskConfig { dir, size_mib: 128, size_mib_max: 2048 });
    })
    .await;
    let (key, client) = api.limited(json!({"vcpus": 2})).await;
    heeds(&client, "vcpus", 2).await;
    let ids =
        [create(&client, json!({})).await.unwrap(), create(&client, json!({})).await.unwrap()];
    check(create(&client, json!({})).await, "vcpus", 2);
    api.limit(&key, json!({"memory_mib": 640}));
    heeds(&client, "memory_mib", 640).await;
    let error = check(create(&client, json!({})).await, "memory_mib", 640);
    assert!(error.contains("640 MiB of memory, has 512, and asks for 256 more"), "{error}");
    let small = create(&client, json!({"resources": {"memory_mib": 128}})).await.unwrap();
    client.delete(&small).await.unwrap();
    api.limit(&key, json!({"disk_gib": 1}));
    heeds(&client, "disk_gib", 1).await;
    assert_eq!(usage(&client).await.used.disk_mib, 256);
    let large = json!({"resources": {"disk_mib": 769}});
    let error = check(create(&client, large).await, "disk_gib", 1);
    assert!(error.contains("1024 MiB of disk, has 256, and asks for 769 more"), "{error}");
    create(&client, json!({"resources": {"disk_mib": 768}})).await.unwrap();
    // What has ended by itself has its place only.
    for id in &ids {
        let pid = client.get(id).await.unwrap().vmm_pid.unwrap();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid.cast_signed()).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
    }
    wait::until(async || usage(&client).await.used.disk_mib == 768).await;
    let used = usage(&client).await.used;
    assert_eq!((used.sandboxes, used.vcpus, used.memory_mib), (3, 1, 256));
    create(&client, json!({})).await.unwrap();
    api.stop().await;
}

#[tokio::test]
async fn who_must_wait_is_told_how_long_and_who_waits_in_vain_is_not() {
    let api = Api::with(roomy).await;
    let (key, secret) = api.secret(Some(Role::User), &[]).await;
    let client = Client::new(&api.authority).unwrap().with_key(&secret).unwrap();
    let ask = async |body: &str| {
        let length = body.len();
        let head = format!(
            "POST /sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: {secret}\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        let answer = raw::send(&api.authority, head.into_bytes()).await;
        let field = answer.head.lines().find_map(|line| line.strip_prefix("retry-after: "));
        (answer.status, field.map(|text| text.trim().parse::<u64>().unwrap()))
    };
    api.limit(&key, json!({"memory_mib": 64}));
    heeds(&client, "memory_mib", 64).await;
    let shell = r#"{"language_pack":"shell","timeout_ms":9000}"#;
    let id = create(&client, json!({"timeout_ms": 9_000})).await.unwrap();
    let (status, wait) = ask(shell).await;
    assert!(status == 429 && (1..=9).contains(&wait.unwrap()), "until the first one ends");
    client
        .update(&id, &serde_json::from_value(json!({"timeout_ms": null})).unwrap())
        .await
        .unwrap();
    assert_eq!(ask(shell).await, (429, Some(30)));
    let large = r#"{"language_pack":"shell","resources":{"memory_mib":128}}"#;
    assert_eq!(ask(large).await, (429, None), "more than all of it never fits");
    api.limit(&key, json!({"creates_per_minute": 1}));
    heeds(&client, "creates_per_minute", 1).await;
    create(&client, json!({})).await.unwrap();
    let (status, wait) = ask(shell).await;
    assert!(status == 429 && (1..=60).contains(&wait.unwrap()));
    api.limit(&key, json!({"packs": ["python"]}));
    heeds(&client, "packs", json!(["python"])).await;
    assert_eq!(ask(shell).await, (403, None));
    api.stop().await;
}

#[tokio::test]
async fn a_timeout_is_at_most_that_of_the_key() {
    let api = Api::start().await;
    let (key, client) = api.limited(json!({"timeout_ms": 60_000})).await;
    heeds(&client, "timeout_ms", 60_000).await;
    let timeout = async |id: &str| client.get(id).await.unwrap().timeout_ms;
    let id = create(&client, json!({})).await.unwrap();
    assert_eq!(timeout(&id).await, Some(60_000));
    let error = check_rule(create(&client, json!({"timeout_ms": 60_001})).await, "timeout_ms");
    assert!(error.contains("up to 60000 ms, not 60001"), "{error}");
    check_rule(create(&client, json!({"timeout_ms": null})).await, "timeout_ms");
    let change = |json: Value| serde_json::from_value(json).unwrap();
    for over in [json!({"timeout_ms": 60_001}), json!({"timeout_ms": null})] {
        check_rule(client.update(&id, &change(over)).await, "timeout_ms");
    }
    let touch = |timeout_ms| TouchSandbox { timeout_ms };
    check_rule(client.touch(&id, &touch(Some(60_001))).await, "timeout_ms");
    let named = json!({"metadata": {"a": "b"}});
    assert_eq!(client.update(&id, &change(named)).await.unwrap().timeout_ms, Some(60_000));
    client.update(&id, &change(json!({"timeout_ms": 59_000}))).await.unwrap();
    // A limit that is newer than a sandbox holds for what is asked from then on.
    api.limit(&key, json!({"timeout_ms": 2_000}));
    heeds(&client, "timeout_ms", 2_000).await;
    let before = client.get(&id).await.unwrap().expires_at_ms.unwrap();
    let after = client.touch(&id, &touch(None)).await.unwrap().expires_at_ms.unwrap();
    assert!(after <= before + 1_000, "no 59 s more: {before} {after}");
    api.stop().await;
    // The daemon's own timeout, if that is shorter.
    let api = Api::with(|config| config.timeout = Some(std::time::Duration::from_secs(30))).await;
    let (_, client) = api.limited(json!({"timeout_ms": 60_000})).await;
    heeds(&client, "timeout_ms", 60_000).await;
    let id = create(&client, json!({})).await.unwrap();
    assert_eq!(client.get(&id).await.unwrap().timeout_ms, Some(30_000));
    api.stop().await;
}

#[tokio::test]
async fn packs_are_those_of_the_key() {
    let api = Api::start().await;
    let (key, client) = api.limited(json!({"packs": ["shell"]})).await;
    heeds(&client, "packs", json!(["shell"])).await;
    create(&client, json!({})).await.unwrap();
    let error = check_rule(create(&client, json!({"language_pack": "python"})).await, "packs");
    assert!(error.contains("the language packs `shell`, not `python`"), "{error}");
    api.limit(&key, json!({"packs": []}));
    heeds(&client, "packs", json!([])).await;
    check_rule(create(&client, json!({})).await, "packs");
    api.stop().await;
}

#[tokio::test]
async fn network_access_is_within_the_ceiling_of_the_key() {
    let operator = "default = [\"corp\"]\nceiling = [\"corp\", \"*.example\"]\n\
        [profiles.corp]\nallow = [\"nexus.test\"]\n[profiles.mirrors]\nallow = [\"m.example\"]";
    let api = Api::with_egress(operator).await;
    let (key, client) = api.limited(json!({"egress": ["a.example", "corp"]})).await;
    heeds(&client, "egress", json!(["a.example", "corp"])).await;
    let allow = |entries: &[&str]| json!({"egress": {"allow": entries}});
    let id = create(&client, allow(&["a.example"])).await.unwrap();
    let error = check_rule(create(&client, allow(&["a.example", "b.example"])).await, "egress");
    let expect = "/egress/allow/1: the key of the sandbox does not permit `b.example`";
    assert_eq!(error, expect);
    check_rule(create(&client, json!({"egress": {"profiles": ["mirrors"]}})).await, "egress");
    // Also later, and by an administrator: the ceiling is the sandbox's.
    let (_, admin) = api.key(Role::Admin).await;
    let policy = |json: Value| serde_json::from_value::<PolicySpec>(json).unwrap();
    for client in [&client, &admin] {
        let over = policy(json!({"allow": ["*.example"]}));
        check_rule(client.set_egress(&id, &over).await, "egress");
        let over = serde_json::from_value(json!({"add": {"allow": ["b.example"]}})).unwrap();
        let error = check_rule(client.patch_egress(&id, &over).await, "egress");
        assert!(error.starts_with("/add/allow/0: the key"), "{error}");
    }
    // The guest is a process of this host and captures nothing, so that it gets no policy later
    // that allows something.
    client.set_egress(&id, &policy(json!({"deny": ["a.example"]}))).await.unwrap();
    admin
        .create_with(&CreateSandbox {
            language_pack: Some("shell".into()),
            egress: Some(policy(json!({"allow": ["b.example"]}))),
            ..CreateSandbox::default()
        })
        .await
        .unwrap();
    // What the operator forbids is the operator's to say.
    let (status, body) = refusal(create(&client, allow(&["a.test"])).await);
    assert_eq!((status, body.code, body.limit), (403, ErrorCode::EgressForbidden, None));
    // Who says nothing gets the operator's default, as far as the key has it.
    api.limit(&key, json!({"egress": []}));
    heeds(&client, "egress", json!([])).await;
    let silent = create(&client, json!({})).await.unwrap();
    let egress = client.egress(&silent).await.unwrap();
    assert_eq!((egress.policy.profiles.len(), egress.in_force.len()), (1, 0));
    // A ceiling that nobody can read permits nothing.
    api.limit(&key, json!({"egress": ["a..example"]}));
    heeds(&client, "egress", json!(["a..example"])).await;
    let error = check_rule(create(&client, json!({})).await, "egress");
    assert!(error.starts_with("the limit `egress` of the key: "), "{error}");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_thousand_creations_the_bucket_lets_its_share_pass() {
    const MOST: u64 = 12;
    let api = Api::with(roomy).await;
    let (_, client) = api.limited(json!({"creates_per_minute": MOST, "sandboxes": 90})).await;
    heeds(&client, "creates_per_minute", MOST).await;
    assert_eq!(usage(&client).await.used.creates_left, Some(MOST));
    let began = Instant::now();
    let caller = async || {
        let mut created = 0;
        for _ in 0..1_250 {
            match create(&client, json!({})).await {
                Ok(_) => created += 1,
                refusal => drop(check(refusal, "creates_per_minute", MOST)),
            }
        }
        created
    };
    let created: u64 = join_all((0..8).map(|_| caller())).await.into_iter().sum();
    let refilled = began.elapsed().as_secs() / (60 / MOST) + 1;
    assert!((MOST..=MOST + refilled).contains(&created), "{created} in {:?}", began.elapsed());
    api.stop().await;
}

#[tokio::test]
async fn a_creation_that_another_limit_refuses_or_that_is_repeated_costs_no_turn() {
    let api = Api::start().await;
    let (_, client) = api.limited(json!({"creates_per_minute": 3, "sandboxes": 1})).await;
    heeds(&client, "sandboxes", 1).await;
    let left = async || usage(&client).await.used.creates_left.unwrap();
    let wanted = CreateSandbox { language_pack: Some("shell".into()), ..CreateSandbox::default() };
    for _ in 0..3 {
        client.create_once(&wanted, Some("once")).await.unwrap();
        check(create(&client, json!({})).await, "sandboxes", 1);
        check_rule_free(create(&client, json!({"language_pack": "none"})).await);
    }
    assert_eq!(left().await, 2);
    api.stop().await;
}

#[track_caller]
fn check_rule_free<T: std::fmt::Debug>(outcome: Result<T, ClientError>) {
    let (status, body) = refusal(outcome);
    assert_eq!((status, body.limit), (400, None));
}

#[tokio::test]
async fn requests_count_until_their_answers_have_ended() {
    let api = Api::start().await;
    let (_, client) = api.limited(json!({"requests": 2})).await;
    heeds(&client, "requests", 2).await;
    let (_, other) = api.key(Role::User).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(client.events(&[], None, true).await.unwrap());
    }
    check(client.list().await, "requests", 2);
    check(client.events(&[], None, true).await, "requests", 2);
    // Who is at the limit can see it.
    assert_eq!(usage(&client).await.used.requests, Some(2));
    other.list().await.unwrap();
    streams.pop();
    wait::until(async || usage(&client).await.used.requests == Some(1)).await;
    client.list().await.unwrap();
    let id = create(&client, json!({})).await.unwrap();
    // An upgrade, as this one to a WebSocket or a tunnel, counts as well.
    let spec = serde_json::from_value(json!({"argv": ["sleep", "1000"]})).unwrap();
    let process = client.start_process(&id, &spec).await.unwrap();
    drop(streams);
    wait::until(async || usage(&client).await.used.requests == Some(0)).await;
    client.delete_process(&id, process.pid).await.unwrap();
    api.stop().await;
}

#[tokio::test]
async fn a_limit_that_refuses_is_counted_and_recorded() {
    let api = Api::start().await;
    let limits = json!({"sandboxes": 1, "packs": ["shell"]});
    let (key, client) = api.limited(limits).await;
    heeds(&client, "sandboxes", 1).await;
    let (_, admin) = api.key(Role::Admin).await;
    create(&client, json!({})).await.unwrap();
    for _ in 0..3 {
        check(create(&client, json!({})).await, "sandboxes", 1);
    }
    check_rule(create(&client, json!({"language_pack": "python"})).await, "packs");
    let text = admin.daemon_metrics().await.unwrap();
    for line in [
        "emberd_quota_refused_total{limit=\"sandboxes\"} 3",
        "emberd_quota_refused_total{limit=\"packs\"} 1",
        "emberd_errors_total{code=\"quota_exceeded\"} 3",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let principal = Some(format!("key:{}", key.id));
    let refused = async || -> Vec<AuditRecord> {
        let read = ReadAudit { action: Some("create_sandbox".into()), ..ReadAudit::default() };
        let records = admin.audit(&read).await.unwrap().records;
        records.into_iter().filter(|record| record.status != Some(201)).collect()
    };
    wait::until(async || refused().await.len() == 4).await;
    let records = refused().await;
    for (record, name) in records.iter().zip(["sandboxes", "sandboxes", "sandboxes", "packs"]) {
        assert_eq!((&record.principal, &record.limits[..]), (&principal, &[name.to_owned()][..]));
    }
    api.stop().await;
}

#[tokio::test]
async fn an_administrator_sees_what_everybody_uses() {
    let api = Api::start().await;
    let nobodys = api.create().await;
    let (one, client) = api.limited(json!({"sandboxes": 2})).await;
    let (_, admin) = api.key(Role::Admin).await;
    create(&client, json!({})).await.unwrap();
    let (status, body) = refusal(client.usage(true).await);
    assert_eq!((status, body.code), (403, ErrorCode::Forbidden));
    heeds(&client, "sandboxes", 2).await;
    let all = admin.usage(true).await.unwrap().callers;
    assert_eq!(all.len(), 3, "{all:?}");
    let of = |owner: Option<String>| all.iter().find(|usage| usage.owner == owner).unwrap();
    let [own, none] = [of(Some(format!("key:{}", one.id))), of(None)];
    assert_eq!((own.used.sandboxes, own.limits.sandboxes), (1, Some(2)));
    assert_eq!((none.used.sandboxes, none.used.requests, &none.name), (1, None, &None));
    admin.delete(&nobodys).await.unwrap();
    assert_eq!(usage(&admin).await.used.sandboxes, 0);
    api.stop().await;
}
