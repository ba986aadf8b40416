//! Both eras of the protocol, over both ways.

use serde_json::{Value, json};

use super::{Place, STATELESS, Session, WITH_SESSIONS, authority, post, stateless};

#[tokio::test]
async fn a_client_with_a_session_is_served_on_standard_input_and_output() {
    let place = Place::new();
    let mut session = Session::spawn(&place.daemon, &[]);
    let hello = json!({
        "protocolVersion": WITH_SESSIONS,
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    });
    let answer = session.request("initialize", hello).await;
    let result = &answer["result"];
    assert_eq!(result["protocolVersion"], WITH_SESSIONS);
    assert_eq!(result["serverInfo"]["name"], "emberd");
    assert!(result["capabilities"]["tools"].is_object(), "{result}");
    assert!(result["instructions"].as_str().unwrap().contains("create_sandbox"));
    session.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    assert_eq!(session.request("ping", json!({})).await["result"], json!({}));
    check_lists(&mut session).await;
    let unknown = session.request("tools/call", json!({"name": "fly", "arguments": {}})).await;
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
    session.close().await;
    place.close().await;
}

async fn check_lists(session: &mut Session) {
    let listed = session.request("tools/list", json!({})).await["result"].take();
    let tools = listed["tools"].as_array().unwrap();
    assert_eq!(tools.len(), 12);
    assert!(listed.to_string().len() <= 6 << 10, "{} bytes", listed.to_string().len());
    let resources = session.request("resources/list", json!({})).await["result"].take();
    assert_eq!(resources["resources"].as_array().unwrap().len(), 2, "{resources}");
    let templates = session.request("resources/templates/list", json!({})).await["result"].take();
    assert_eq!(templates["resourceTemplates"].as_array().unwrap().len(), 2, "{templates}");
    let packs = session.request("resources/read", json!({"uri": "emberd://packs"})).await;
    let packs = packs["result"]["contents"][0]["text"].as_str().unwrap().to_owned();
    assert!(packs.contains("the host's shell"), "{packs}");
    let unknown = session.request("resources/read", json!({"uri": "emberd://x"})).await;
    assert_eq!(unknown["error"]["code"], -32002, "{unknown}");
}

#[tokio::test]
async fn older_versions_are_agreed_on() {
    let place = Place::new();
    for version in ["2024-11-05", "2025-03-26", "2025-06-18"] {
        let mut session = Session::spawn(&place.daemon, &[]);
        let about = json!({"name": "test", "version": "1"});
        let hello = json!({"protocolVersion": version, "capabilities": {}, "clientInfo": about});
        let answer = session.request("initialize", hello).await;
        assert_eq!(answer["result"]["protocolVersion"], version);
        session.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        assert!(session.text("list_sandboxes", json!({})).await.contains("no sandboxes"));
        session.close().await;
    }
    place.close().await;
}

#[tokio::test]
async fn a_stateless_client_is_served_on_standard_input_and_output() {
    let place = Place::new();
    let mut session = Session::spawn(&place.daemon, &[]);
    session.say(&stateless(1, "server/discover", json!({}))).await;
    let found = session.answer().await;
    let versions = found["result"]["supportedVersions"].as_array().unwrap();
    assert!(versions.contains(&json!(STATELESS)) && versions.contains(&json!(WITH_SESSIONS)));
    session.say(&stateless(2, "tools/list", json!({}))).await;
    let listed = session.answer().await["result"].take();
    assert_eq!(listed["tools"].as_array().unwrap().len(), 12, "{listed}");
    assert!(listed["ttlMs"].is_u64() && listed["cacheScope"].is_string(), "{listed}");
    assert!(listed.to_string().len() <= 6 << 10, "{} bytes", listed.to_string().len());
    let params = json!({"name": "list_sandboxes", "arguments": {}});
    session.say(&stateless(3, "tools/call", params)).await;
    let called = session.answer().await;
    assert_eq!(called["result"]["resultType"], "complete", "{called}");
    session.close().await;
    place.close().await;
}

#[tokio::test]
async fn a_stateless_client_is_served_over_http() {
    let place = Place::new();
    let daemon = &place.daemon;
    let fields = |method| [("MCP-Protocol-Version", STATELESS), ("Mcp-Method", method)];
    let message = stateless(1, "server/discover", json!({})).to_string();
    let answer = post(daemon, &fields("server/discover"), &message).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains(STATELESS), "{answer:?}");
    let message = stateless(2, "tools/list", json!({})).to_string();
    let answer = post(daemon, &fields("tools/list"), &message).await;
    let listed: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 12);
    // A header that differs from the body is refused.
    let answer = post(daemon, &fields("tools/call"), &message).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    let refused: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(refused["error"]["code"], -32020, "{refused}");
    let fields = [("MCP-Protocol-Version", "1999-01-01"), ("Mcp-Method", "tools/list")];
    assert_eq!(post(daemon, &fields, &message).await.status, 400);
    place.close().await;
}

#[tokio::test]
async fn a_client_with_a_session_is_served_over_http_without_one() {
    let place = Place::new();
    let daemon = &place.daemon;
    let about = json!({"name": "test", "version": "1"});
    let hello = json!({"protocolVersion": WITH_SESSIONS, "capabilities": {}, "clientInfo": about});
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello});
    let answer = post(daemon, &[], &hello.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!answer.head.to_lowercase().contains("mcp-session-id"), "{answer:?}");
    let version = [("MCP-Protocol-Version", WITH_SESSIONS)];
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
    assert_eq!(post(daemon, &version, &ready).await.status, 202);
    let params = json!({"name": "list_sandboxes", "arguments": {}});
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params});
    let answer = post(daemon, &version, &call.to_string()).await;
    let called: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(called["result"]["structuredContent"]["sandboxes"], json!([]), "{called}");
    let get = crate::raw::request(authority(daemon), "GET", "/mcp", "").await;
    assert_eq!(get.status, 405);
    place.close().await;
}

#[tokio::test]
async fn a_daemon_may_be_told_not_to_serve_mcp() {
    let place = Place::with(&["--mcp", "off"]);
    let message = stateless(1, "server/discover", json!({})).to_string();
    assert_eq!(post(&place.daemon, &[], &message).await.status, 404);
    place.close().await;
}
