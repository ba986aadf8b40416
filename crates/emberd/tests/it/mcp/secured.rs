//! MCP over TLS, of callers with keys.

use std::path::Path;
use std::sync::Arc;

use emberd_keys::{KeysFile, NewKey, Role};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{STATELESS, Session, posted, stateless, text};
use crate::process::Room;
use crate::process::tls::secured;
use crate::{raw, wait};

#[tokio::test]
async fn a_key_is_asked_for_over_tls_too_in_both_ways() {
    let room = Room::new();
    let (mut daemon, ca, _) = secured(&room);
    let new = NewKey::of_role("user".parse().unwrap(), Role::User);
    let keys = KeysFile::new(&room.path("data"));
    let key = emberd_keys::create(&keys, new).unwrap().1.expose().to_owned();
    let authority = daemon.addr.strip_prefix("https://").unwrap().to_owned();

    let bearer = format!("Bearer {key}");
    let call = async |fields: &[(&str, &str)]| {
        let params = json!({"name": "create_sandbox", "arguments": {"pack": "shell"}});
        let mut all = vec![
            ("MCP-Protocol-Version", STATELESS),
            ("Mcp-Method", "tools/call"),
            ("Mcp-Name", "create_sandbox"),
        ];
        all.extend(fields);
        let bytes = posted(&all, &stateless(1, "tools/call", params).to_string());
        raw::exchange(connect(&authority, &ca.cert).await, bytes).await
    };
    wait::until(async || call(&[]).await.status == 401).await;
    let answer = call(&[("Authorization", &bearer)]).await;
    let answer: Value = serde_json::from_str(&answer.body).unwrap();
    let id = answer["result"]["structuredContent"]["sandbox"].as_str().unwrap().to_owned();

    let secure = |key: &str| {
        let mut command = Session::command(&daemon, &["--pack", "shell"]);
        command.env("EMBERD_CA_CERT", &ca.cert).env("EMBERD_API_KEY", key);
        command
    };
    let mut session = Session::greet(secure(&key)).await;
    let said = json!({"sandbox": id, "command": "echo mine"});
    assert!(session.text("run_command", said).await.contains("mine"));
    let url = session.text("get_url", json!({"sandbox": id, "port": 80})).await;
    assert!(url.starts_with("https://80-"), "{url}");
    session.text("delete_sandbox", json!({"sandbox": id})).await;
    session.close().await;
    let mut session = Session::greet(secure(&key.replace("emb_", "emb_x"))).await;
    let refused = session.call("list_sandboxes", json!({})).await;
    assert!(text(&refused).contains("code: unauthenticated"), "{refused}");
    session.close().await;

    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
    room.close().await;
}

/// A connection to a daemon whose certificate the one in the file `issuer` has signed.
async fn connect(authority: &str, issuer: &Path) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(issuer).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(authority).await.unwrap();
    let name = "127.0.0.1".try_into().unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}
