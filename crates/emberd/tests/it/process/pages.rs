//! `--allowed-origin` as only a process shows it: at start, over a Unix socket, to agents, and in
//! the log and the journal.

use std::path::Path;

use emberd_api::{ErrorCode, ReadAudit};
use emberd_keys::Role;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::{Daemon, Room};
use crate::mcp::{STATELESS, post, stateless, text};
use crate::{raw, wait};

const ORIGIN: &str = "https://console.example";

/// A daemon that allows the pages of [`ORIGIN`], with `socket` beside.
fn start(room: &Room, socket: &Path) -> Daemon {
    let mut command = room.command();
    command.args(["--allowed-origin", ORIGIN]).arg("--socket").arg(socket);
    Daemon::spawn(command)
}

/// The answer to a page over a Unix socket, as through a proxy on this machine.
async fn over_socket(socket: &Path, line: &str, fields: &str) -> raw::Answer {
    let stream = UnixStream::connect(socket).await.unwrap();
    let head = format!("{line} HTTP/1.1\r\nHost: emberd\r\n{fields}Connection: close\r\n\r\n");
    raw::exchange(stream, head.into_bytes()).await
}

#[test]
fn an_origin_that_is_none_is_refused_at_start() {
    let room = Room::new();
    for (origin, said) in [
        ("https://console.example/app", "not an origin without a path: write https://console.ex"),
        ("*", "not one origin: write each"),
        ("http://8000-sb-0123456789ab.localhost:7777", "not an origin of yours: programs in a"),
    ] {
        let mut command = room.command();
        command.args(["--allowed-origin", origin]);
        let words = Room::refused(command);
        assert!(words.contains(&format!("--allowed-origin is `{origin}`, {said}")), "{words}");
        assert!(words.contains("hint: values: up to 16"), "{words}");
    }
}

#[tokio::test]
async fn the_user_of_a_socket_is_not_the_key_of_a_page() {
    let room = Room::new();
    let socket = room.path("s");
    let daemon = start(&room, &socket);
    let page = format!("Origin: {ORIGIN}\r\nSec-Fetch-Site: cross-site\r\n");
    // This user may do everything over the socket, but a page is not this user.
    assert_eq!(over_socket(&socket, "GET /info", "").await.status, 200);
    let refused = over_socket(&socket, "GET /info", &page).await;
    assert_eq!((refused.status, refused.error().code), (401, ErrorCode::Unauthenticated));
    let stray = format!("{page}Authorization: Bearer x\r\n");
    assert_eq!(over_socket(&socket, "GET /info", &stray).await.status, 401);
    let evil = "Origin: https://evil.example\r\n";
    let refused = over_socket(&socket, "GET /info", evil).await;
    assert_eq!((refused.status, refused.error().code), (403, ErrorCode::ForeignOrigin));
    let (_, secret) = room.key("page", Role::Viewer);
    let keyed = format!("{page}Authorization: Bearer {secret}\r\n");
    let info = over_socket(&socket, "GET /info", &keyed).await;
    assert_eq!(info.status, 200, "{info:?}");
    assert!(info.head.contains("access-control-allow-origin: https://console.example"));
    // Of the two, the key counts: a viewer makes no sandbox.
    let refused = over_socket(&socket, "POST /sandboxes", &keyed).await;
    assert_eq!((refused.status, refused.error().code), (403, ErrorCode::Forbidden));
    let log = daemon.stop(Signal::TERM).await;
    room.close().await;
    assert!(log.contains("--allowed-origin: there are no access keys"), "{log}");
}

#[tokio::test]
async fn pages_are_served_over_mcp_and_told_in_the_journal() {
    let room = Room::new();
    let (record, secret) = room.key("page", Role::User);
    let (_, admin) = room.key("admin", Role::Admin);
    let socket = room.path("s");
    let daemon = start(&room, &socket);
    let params = json!({"name": "list_sandboxes", "arguments": {}});
    let message = stateless(1, "tools/call", params).to_string();
    let call = async |origin: &str, more: &[(&str, &str)]| {
        let fields = [
            ("Origin", origin),
            ("MCP-Protocol-Version", STATELESS),
            ("Mcp-Method", "tools/call"),
            ("Mcp-Name", "list_sandboxes"),
        ];
        post(&daemon, &[&fields, more].concat(), &message).await
    };
    let bearer = format!("Bearer {secret}");
    let key = ("Authorization", bearer.as_str());
    let listed = call(ORIGIN, &[key, ("Sec-Fetch-Site", "cross-site")]).await;
    assert_eq!(listed.status, 200, "{listed:?}");
    assert!(listed.head.contains("access-control-allow-origin: https://console.example"));
    let result: Value = serde_json::from_str(&listed.body).unwrap();
    assert!(result["result"]["isError"] != true, "{result}");
    assert!(!text(&result["result"]).is_empty(), "{result}");
    let refused = call(ORIGIN, &[]).await;
    assert_eq!((refused.status, refused.error().code), (401, ErrorCode::Unauthenticated));
    for origin in ["https://evil.example", "null", "http://8000-sb-0123456789ab.localhost:7777"] {
        let refused = call(origin, &[key]).await;
        assert_eq!((refused.status, refused.error().code), (403, ErrorCode::ForeignOrigin));
        assert!(!refused.head.contains("access-control"), "{refused:?}");
    }
    let client = daemon.with(&admin);
    let read = ReadAudit { action: Some("call_mcp".to_owned()), ..ReadAudit::default() };
    let told = async || client.audit(&read).await.unwrap().records;
    wait::until(async || told().await.len() == 4).await;
    let told = told().await;
    let codes: Vec<_> = told.iter().map(|record| record.code.as_deref().unwrap()).collect();
    assert_eq!(codes, ["unauthenticated", "foreign_origin", "foreign_origin", "foreign_origin"]);
    assert_eq!(told[0].principal.as_deref(), Some("ip:127.0.0.1"));
    assert_eq!(told[1].principal, Some(format!("key:{}", record.id)));
    let log = daemon.stop(Signal::TERM).await;
    room.close().await;
    assert_eq!(log.matches("refused a web page").count(), 3, "{log}");
    assert!(!log.contains("there are no access keys"), "{log}");
}
