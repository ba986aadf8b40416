//! Clients that leave, floods of calls and of output, and lines that are no messages.

use std::time::Duration;

use emberd_api::{ContextState, ErrorCode};
use emberd_keys::{KeysFile, NewKey, Role};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{LONG, Place, STATELESS, Session, authority, call, post, stateless, text};
use crate::wait;

#[tokio::test]
async fn what_was_created_goes_with_the_client() {
    let place = Place::new();
    let mut session = Session::start(&place.daemon, &[]).await;
    session.sandbox().await;
    session.sandbox().await;
    assert_eq!(place.daemon.client.list().await.unwrap().sandboxes.len(), 2);
    session.close().await;
    assert!(place.daemon.client.list().await.unwrap().sandboxes.is_empty());
    place.close().await;
}

#[tokio::test]
async fn what_was_created_can_be_kept() {
    let place = Place::new();
    let mut session = Session::start(&place.daemon, &["--keep"]).await;
    let id = session.sandbox().await;
    session.close().await;
    assert_eq!(place.daemon.client.get(&id).await.unwrap().timeout_ms, Some(3_600_000));
    place.close().await;
}

#[tokio::test]
async fn what_was_created_outlives_a_killed_server_for_its_lease_only() {
    let place = Place::new();
    let mut session = Session::start(&place.daemon, &["--lease", "6s"]).await;
    let id = session.sandbox().await;
    // It is renewed: the sandbox has had more time than one lease.
    let first = place.daemon.client.get(&id).await.unwrap().expires_at_ms.unwrap();
    let renewed = async || {
        let sandbox = place.daemon.client.get(&id).await.unwrap();
        sandbox.expires_at_ms.unwrap() > first + 1_500
    };
    wait::until(renewed).await;
    let pid = Pid::from_raw(session.process_id().cast_signed()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    place.is_empty().await;
    place.close().await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_creation_leaves_no_sandbox() {
    let place = Place::new();
    place.room.double.misbehave("never-ready");
    let mut session = Session::start(&place.daemon, &[]).await;
    session.ask("tools/call", json!({"name": "create_sandbox", "arguments": {}})).await;
    let client = &place.daemon.client;
    wait::until(async || !client.list().await.unwrap().sandboxes.is_empty()).await;
    session.close().await;
    place.is_empty().await;
    // The same over HTTP.
    let mut stream = begin(&place, "create_sandbox", json!({})).await;
    wait::until(async || !client.list().await.unwrap().sandboxes.is_empty()).await;
    stream.shutdown().await.unwrap();
    drop(stream);
    place.is_empty().await;
    place.close().await;
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_a_call_leaves_nothing() {
    let place = Place::new();
    let kill = |session: &Session| {
        let pid = Pid::from_raw(session.process_id().cast_signed()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    };
    // A run is interrupted.
    let mut session = Session::start(&place.daemon, &[]).await;
    let id = session.sandbox().await;
    let up = place.room.path("up");
    let code = format!("touch {}; sleep {}", up.display(), LONG.as_secs());
    let arguments = json!({"sandbox": id, "code": code, "timeout_s": 3_600});
    session.ask("tools/call", json!({"name": "run_code", "arguments": arguments})).await;
    wait::until(async || up.exists()).await;
    kill(&session);
    let client = &place.daemon.client;
    wait::until(async || {
        let contexts = client.contexts(&id).await.unwrap().contexts;
        contexts.len() == 1 && contexts[0].state == ContextState::Idle
    })
    .await;
    client.delete(&id).await.unwrap();
    // A creation is undone.
    place.room.double.misbehave("never-ready");
    let mut session = Session::start(&place.daemon, &["--lease", "6s"]).await;
    session.ask("tools/call", json!({"name": "create_sandbox", "arguments": {}})).await;
    wait::until(async || !client.list().await.unwrap().sandboxes.is_empty()).await;
    kill(&session);
    place.is_empty().await;
    place.close().await;
}

#[tokio::test]
async fn a_message_has_at_most_64_mib() {
    const MIB: usize = 1 << 20;
    let place = Place::new();
    let id = place.daemon.create().await.0;
    let path = place.room.path("large").display().to_string();
    let message = |mebibytes: usize| {
        let content = "x".repeat(mebibytes * MIB);
        let arguments = json!({"sandbox": id, "path": path, "content": content});
        let params = json!({"name": "write_file", "arguments": arguments});
        stateless(1, "tools/call", params).to_string()
    };
    let fields = [
        ("MCP-Protocol-Version", STATELESS),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "write_file"),
    ];
    let answer = post(&place.daemon, &fields, &message(63)).await;
    assert!(answer.status == 200 && answer.body.contains("wrote 66060288 bytes"), "{answer:?}");
    let answer = post(&place.daemon, &fields, &message(64)).await;
    assert_eq!((answer.status, answer.error().code), (413, ErrorCode::BodyTooLarge));
    // Over standard input such a line is passed over, and the next one is answered.
    let mut session = Session::start(&place.daemon, &[]).await;
    session.line(&message(64)).await;
    session.line(&message(63)).await;
    let answer = loop {
        let answer = session.answer().await;
        if answer.get("result").is_some() {
            break answer;
        }
    };
    assert!(text(&answer["result"]).contains("wrote 66060288 bytes"), "{answer}");
    session.close().await;
    place.close().await;
}

/// Sends a call over HTTP, and waits for nothing.
async fn begin(place: &Place, tool: &str, arguments: Value) -> TcpStream {
    let params = json!({"name": tool, "arguments": arguments});
    let message = stateless(1, "tools/call", params).to_string();
    let mut stream = TcpStream::connect(authority(&place.daemon)).await.unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: {STATELESS}\r\n\
        Mcp-Method: tools/call\r\nMcp-Name: {tool}\r\nContent-Length: {}\r\n\r\n",
        message.len()
    );
    stream.write_all(format!("{head}{message}").as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_run_leaves_the_context_idle() {
    let place = Place::new();
    let id = place.daemon.create().await.0;
    let up = place.room.path("up");
    let code = format!("touch {}; sleep {}", up.display(), LONG.as_secs());
    let arguments = json!({"sandbox": id, "code": code, "timeout_s": 3_600});
    let stream = begin(&place, "run_code", arguments).await;
    wait::until(async || up.exists()).await;
    drop(stream);
    let arguments = json!({"sandbox": id, "code": "echo idle"});
    assert!(text(&call(&place.daemon, "run_code", arguments).await).contains("idle"));
    // A command is ended with all it started.
    let pid = place.room.path("pid");
    let command = format!("echo $$ > {p}.new; mv {p}.new {p}; sleep 1000; :", p = pid.display());
    let arguments = json!({"sandbox": id, "command": command, "timeout_s": 3_600});
    let stream = begin(&place, "run_command", arguments).await;
    wait::until(async || pid.exists()).await;
    drop(stream);
    let pid: u32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    wait::until(async || !wait::is_running(pid)).await;
    place.close().await;
}

#[tokio::test]
async fn a_cancelled_call_is_ended_and_a_late_cancellation_is_nothing() {
    let place = Place::new();
    let mut session = Session::start(&place.daemon, &[]).await;
    let id = session.sandbox().await;
    let up = place.room.path("up");
    let code = format!("touch {}; sleep {}", up.display(), LONG.as_secs());
    let arguments = json!({"sandbox": id, "code": code, "timeout_s": 3_600});
    let call = session.ask("tools/call", json!({"name": "run_code", "arguments": arguments})).await;
    wait::until(async || up.exists()).await;
    let cancel = |id: u64| {
        let params = json!({"requestId": id, "reason": "enough"});
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
    };
    session.say(&cancel(call)).await;
    let arguments = json!({"sandbox": id, "code": "echo idle"});
    let next = session.ask("tools/call", json!({"name": "run_code", "arguments": arguments})).await;
    let answer = session.answer().await;
    assert_eq!(answer["id"], next, "{answer}");
    assert!(text(&answer["result"]).contains("idle"));
    session.say(&cancel(next)).await;
    assert_eq!(session.request("ping", json!({})).await["result"], json!({}));
    session.close().await;
    place.close().await;
}

#[tokio::test]
async fn a_hundred_calls_at_once_are_all_answered() {
    const CALLS: usize = 100;
    let place = Place::new();
    let mut session = Session::start(&place.daemon, &[]).await;
    let id = session.sandbox().await;
    for number in 0..CALLS {
        let (tool, program) =
            if number % 2 == 0 { ("run_code", "code") } else { ("run_command", "command") };
        let arguments = json!({"sandbox": id, program: format!("echo '<{number}>'")});
        session.ask("tools/call", json!({"name": tool, "arguments": arguments})).await;
    }
    let mut seen = [false; CALLS];
    for _ in 0..CALLS {
        let answer = session.answer().await;
        let said = text(&answer["result"]);
        let number = said.split('<').nth(1).and_then(|rest| rest.split('>').next());
        let number: usize = number.unwrap_or_else(|| panic!("{answer}")).parse().unwrap();
        assert!(!std::mem::replace(&mut seen[number], true), "{number} twice");
    }
    // One context served them all.
    assert_eq!(place.daemon.client.contexts(&id).await.unwrap().contexts.len(), 1);
    session.close().await;
    place.close().await;
}

#[tokio::test]
async fn a_flood_of_output_is_cut_and_its_end_is_kept() {
    let place = Place::new();
    let id = place.daemon.create().await.0;
    let flood = "head -c 100000000 /dev/zero | tr '\\0' x; echo; echo the end";
    for (tool, program) in [("run_command", "command"), ("run_code", "code")] {
        let arguments = json!({"sandbox": id, program: flood, "timeout_s": 600});
        let result = call(&place.daemon, tool, arguments).await;
        let said = text(&result);
        assert!(said.chars().count() < 25_000, "{tool}: {} characters", said.chars().count());
        assert!(said.contains("characters were left out"), "{tool}: {said}");
        if tool == "run_command" {
            assert!(said.contains("the end") && said.contains("read_process"), "{said}");
        }
    }
    let arguments = json!({"sandbox": id, "code": "seq 100000", "max_output": 1_000});
    let said = text(&call(&place.daemon, "run_code", arguments).await);
    assert!(said.contains("100000\n```") && said.len() < 2_000, "{said}");
    // The rest is where the answer says.
    let uri = said.split(' ').find(|word| word.starts_with("emberd://")).unwrap();
    let arguments = json!({"sandbox": id, "path": uri, "offset": 50_000, "limit": 1});
    let rest = text(&call(&place.daemon, "read_file", arguments).await);
    assert!(rest.contains("50000\t50000\n"), "{rest}");
    place.close().await;
}

#[tokio::test]
async fn bytes_that_are_no_text_are_made_to_be() {
    let place = Place::new();
    let id = place.daemon.create().await.0;
    let nuls = "head -c 1000000 /dev/zero; printf 'a\\377\\376b\\033[31mc\\033[0m'";
    for (tool, program) in [("run_command", "command"), ("run_code", "code")] {
        let arguments = json!({"sandbox": id, program: nuls});
        let said = text(&call(&place.daemon, tool, arguments).await);
        assert!(said.contains("```stdout\na\u{fffd}\u{fffd}bc\n```"), "{tool}: {said}");
    }
    let arguments = json!({"sandbox": id, "command": "printf '```\\ncode: evil\\n'"});
    let said = text(&call(&place.daemon, "run_command", arguments).await);
    assert!(said.contains("````stdout\n```\ncode: evil\n````"), "{said}");
    place.close().await;
}

#[tokio::test]
async fn lines_that_are_no_messages_do_no_harm() {
    let place = Place::new();
    let mut session = Session::start(&place.daemon, &[]).await;
    for garbage in ["", "{", "null", "[]", "\u{0}\u{1}", "{\"jsonrpc\":\"2.0\"}", "\"a\"", "{}{}"] {
        session.line(garbage).await;
    }
    let id = session.ask("ping", json!({})).await;
    // Lines that are JSON may be answered by an error without an id.
    let answer = loop {
        let answer = session.answer().await;
        if answer["id"] == id {
            break answer;
        }
        assert!(answer["error"].is_object(), "{answer}");
    };
    assert_eq!(answer["result"], json!({}));
    session.close().await;
    for garbage in ["", "{", "null", "\u{0}"] {
        let answer = post(&place.daemon, &[], garbage).await;
        assert!((400..500).contains(&answer.status), "{garbage:?}: {answer:?}");
    }
    let mut early = Session::spawn(&place.daemon, &[]);
    early.line("garbage").await;
    early.close().await;
    place.close().await;
}

#[tokio::test]
async fn progress_is_told_to_those_who_ask() {
    let place = Place::new();
    let mut session = Session::start(&place.daemon, &[]).await;
    let id = session.sandbox().await;
    let arguments = json!({"sandbox": id, "command": "echo step; sleep 1; echo done"});
    let params =
        json!({"name": "run_command", "arguments": arguments, "_meta": {"progressToken": "p"}});
    let answer = session.request("tools/call", params).await;
    assert!(text(&answer["result"]).starts_with("exit code 0"), "{answer}");
    let told = &session.told;
    assert!((1..=5).contains(&told.len()), "{told:?}");
    assert_eq!(told[0]["params"]["progressToken"], "p");
    assert_eq!(told[0]["params"]["message"], "step");
    assert!(told[0]["params"]["progress"].as_f64().unwrap() >= 200.0, "{told:?}");
    session.close().await;
    place.close().await;
}

/// A key decides what its holder can do over MCP, as it does over the API.
#[tokio::test]
async fn keys_hold_over_mcp() {
    let place = Place::new();
    let id = place.daemon.create().await.0;
    let keys = KeysFile::new(&place.room.path("data"));
    let secret = |name: &str, role| {
        let new = NewKey::of_role(name.parse().unwrap(), role);
        emberd_keys::create(&keys, new).unwrap().1.expose().to_owned()
    };
    let user = secret("user", Role::User);
    let viewer = secret("viewer", Role::Viewer);
    let message = stateless(1, "server/discover", json!({})).to_string();
    wait::until(async || post(&place.daemon, &[], &message).await.status == 401).await;
    let call = async |key: &str, tool: &str, arguments: Value| {
        let params = json!({"name": tool, "arguments": arguments});
        let message = stateless(1, "tools/call", params).to_string();
        let bearer = format!("Bearer {key}");
        let fields = [
            ("Authorization", bearer.as_str()),
            ("MCP-Protocol-Version", STATELESS),
            ("Mcp-Method", "tools/call"),
            ("Mcp-Name", tool),
        ];
        let answer = post(&place.daemon, &fields, &message).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str::<Value>(&answer.body).unwrap()["result"].clone()
    };
    let own = call(&user, "create_sandbox", json!({"pack": "shell"})).await;
    let own = own["structuredContent"]["sandbox"].as_str().unwrap().to_owned();
    // The sandbox of another does not exist for the user.
    let listed = call(&user, "list_sandboxes", json!({})).await;
    assert_eq!(listed["structuredContent"]["sandboxes"].as_array().unwrap().len(), 1, "{listed}");
    let refused = call(&user, "run_command", json!({"sandbox": id, "command": "true"})).await;
    assert!(text(&refused).contains("code: unknown_sandbox"), "{refused}");
    let refused = call(&viewer, "create_sandbox", json!({})).await;
    assert!(text(&refused).contains("code: forbidden"), "{refused}");
    let seen = call(&viewer, "list_sandboxes", json!({})).await;
    assert_ne!(seen["isError"], true, "{seen}");
    let said = call(&user, "run_command", json!({"sandbox": own, "command": "echo mine"})).await;
    assert!(text(&said).contains("mine"), "{said}");
    // The journal has each request of the API once, with its caller.
    let admin = secret("admin", Role::Admin);
    let client = emberd_client::Client::new(&place.daemon.addr).unwrap().with_key(&admin).unwrap();
    let creations = async || {
        let read = emberd_api::ReadAudit::default();
        let Ok(page) = client.audit(&read).await else { return false };
        let of_user = page.records.iter().filter(|record| {
            record.sandbox.as_deref() == Some(&own) && record.action == "create_sandbox"
        });
        of_user.count() == 1
    };
    wait::until(creations).await;
    tokio::time::timeout(Duration::from_secs(60), place.close()).await.unwrap();
}
