//! `Idempotency-Key` of a creation, over HTTP: however often it is sent, there is one sandbox.

use emberd_api::{CreateSandbox, CreatedSandbox, ErrorCode};
use emberd_client::{Client, ClientError};
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Api, refusal};
use crate::{raw, wait};

fn wanted() -> CreateSandbox {
    let metadata = [("a".to_owned(), "1".to_owned())].into();
    CreateSandbox { language_pack: Some("shell".to_owned()), metadata, ..CreateSandbox::default() }
}

impl Api {
    async fn create_once(&self, key: &str) -> Result<String, ClientError> {
        Ok(self.client.create_once(&wanted(), Some(key)).await?.answer.id)
    }

    /// Sends a creation with these headers.
    async fn create_raw(&self, headers: &str, body: &str) -> raw::Answer {
        let length = body.len();
        let request = format!(
            "POST /sandboxes HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        raw::send(&self.authority, request.into_bytes()).await
    }
}

#[tokio::test]
async fn a_creation_that_is_repeated_is_answered_as_the_first_time() {
    let api = Api::start().await;
    let id = api.create_once("key").await.unwrap();
    assert_eq!(api.create_once("key").await.unwrap(), id);
    // The same JSON, written in another way.
    let header = "Idempotency-Key: key\r\n";
    let same = r#" {"metadata": {"a": "1"}, "language_pack": "shell"} "#;
    let answer = api.create_raw(header, same).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(serde_json::from_str::<CreatedSandbox>(&answer.body).unwrap().id, id);
    assert!(answer.head.contains("idempotent-replayed: true"), "{answer:?}");
    let other = api.create_raw(header, r#"{"language_pack": "shell"}"#).await;
    assert_eq!((other.status, other.error().code), (422, ErrorCode::KeyReused));
    assert_ne!(api.create_once("Key").await.unwrap(), id);
    let [first, second] = [api.create_raw("", same).await, api.create_raw("", same).await];
    assert_ne!(first.body, second.body);
    assert!(!first.head.contains("idempotent-replayed"), "{first:?}");
    assert_eq!(api.sandboxes.count(), 4);
    api.stop().await;
}

#[tokio::test]
async fn creations_at_once_make_one_sandbox() {
    let api = Api::start().await;
    api.double.misbehave("slow-boot=200");
    let ids = join_all((0..8).map(|_| api.create_once("key"))).await;
    let first = ids[0].as_ref().unwrap();
    assert!(ids.iter().all(|id| id.as_ref().unwrap() == first), "{ids:?}");
    assert_eq!(api.sandboxes.count(), 1);
    api.stop().await;
}

#[tokio::test]
async fn a_failed_creation_is_not_remembered() {
    let api = Api::start().await;
    api.double.misbehave("refuse-at=PUT /vsock");
    let both = join_all((0..2).map(|_| api.create_once("key"))).await;
    for failed in both {
        assert_eq!(refusal(failed).1.code, ErrorCode::BootFailed);
    }
    let wrong = r#"{"timeout_ms": 1}"#;
    let wrong = api.create_raw("Idempotency-Key: key\r\n", wrong).await;
    assert_eq!(wrong.error().code, ErrorCode::InvalidRequest);
    api.double.behave();
    api.create_once("key").await.unwrap();
    assert_eq!(api.sandboxes.count(), 1);
    api.stop().await;
}

#[tokio::test]
async fn a_caller_who_leaves_makes_room_for_the_next() {
    let api = Api::start().await;
    api.double.misbehave("never-ready");
    {
        let left = api.create_once("key");
        let seen = wait::until(async || api.sandboxes.count() == 1);
        futures::future::select(Box::pin(left), Box::pin(seen)).await;
    }
    api.double.behave();
    let id = api.create_once("key").await.unwrap();
    wait::until(async || api.sandboxes.count() == 1).await;
    assert_eq!(api.exec(&id, "echo on").await.unwrap().stdout, "on\n");
    api.stop().await;
}

#[tokio::test]
async fn a_key_still_stands_for_a_sandbox_that_was_deleted() {
    let api = Api::start().await;
    let id = api.create_once("key").await.unwrap();
    api.client.delete(&id).await.unwrap();
    assert_eq!(api.create_once("key").await.unwrap(), id);
    assert_eq!(refusal(api.client.get(&id).await).1.code, ErrorCode::UnknownSandbox);
    assert_eq!(api.sandboxes.count(), 0);
    api.stop().await;
}

#[tokio::test]
async fn bad_keys_are_refused_before_anything_is_created() {
    let api = Api::start().await;
    let longest = "k".repeat(128);
    for key in ["", "a b", "\u{e9}", &format!("{longest}k"), "a\r\nIdempotency-Key: a"] {
        let answer = api.create_raw(&format!("Idempotency-Key: {key}\r\n"), "{}").await;
        let error = answer.error();
        assert_eq!((answer.status, error.code), (400, ErrorCode::InvalidRequest), "{key}");
        assert!(error.error.contains("`Idempotency-Key`"), "{error:?}");
    }
    let (status, refused) = refusal(api.create_once("a\nb").await);
    assert_eq!((status, refused.code), (400, ErrorCode::InvalidRequest));
    assert_eq!(api.sandboxes.count(), 0);
    api.create_once(&longest).await.unwrap();
    api.stop().await;
}

#[tokio::test]
async fn a_client_whose_connection_breaks_asks_again_with_its_key() {
    let api = Api::start().await;
    let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&between.local_addr().unwrap().to_string()).unwrap();
    let authority = api.authority.clone();
    let proxy = tokio::spawn(async move {
        // The first answer is lost, the second connection gets none, and the third is left alone.
        let (mut first, _) = between.accept().await.unwrap();
        let mut daemon = TcpStream::connect(&authority).await.unwrap();
        let mut request = vec![0; 1 << 16];
        let length = first.read(&mut request).await.unwrap();
        daemon.write_all(&request[..length]).await.unwrap();
        daemon.read_exact(&mut [0; 12]).await.unwrap();
        drop(first);
        drop(between.accept().await.unwrap());
        let (mut third, _) = between.accept().await.unwrap();
        let mut daemon = TcpStream::connect(&authority).await.unwrap();
        drop(tokio::io::copy_bidirectional(&mut third, &mut daemon).await);
    });
    let created = client.create_once(&wanted(), None).await.unwrap().answer;
    let listed = api.client.list().await.unwrap().sandboxes;
    assert_eq!(listed.iter().map(|sandbox| &sandbox.id).collect::<Vec<_>>(), [&created.id]);
    drop(client);
    proxy.await.unwrap();
    api.stop().await;
}
