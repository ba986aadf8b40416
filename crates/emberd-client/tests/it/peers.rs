//! Every error a call can end with, and what is sent.

use emberd_client::{Client, ClientError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

/// A peer that says `answer` to one request and closes; the client for it, and the request.
async fn peer(answer: impl Into<String>) -> (Client, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&listener.local_addr().unwrap().to_string()).unwrap();
    let answer = answer.into();
    let request = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request[..length].to_vec()).unwrap()
    });
    (client, request)
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    drop(listener);
    for addr in [authority.as_str(), "unix:/nonexistent/emberd.sock"] {
        let error = Client::new(addr).unwrap().healthz().await.unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
        assert!(error.to_string().ends_with(addr), "{error}");
    }
}

#[tokio::test]
async fn peer_is_no_emberd() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
    ] {
        let (client, _) = peer(answer).await;
        let error = client.info().await.unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn connection_breaks() {
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"] {
        let (client, _) = peer(answer).await;
        let error = client.info().await.unwrap_err();
        assert!(matches!(error, ClientError::Broken { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn events_of_a_run_that_are_cut_are_no_end() {
    let started = "{\"id\":1,\"event\":\"started\",\"execution_count\":1}\n";
    let end = "{\"id\":2,\"event\":\"end\",\"execution_count\":1,\"timed_out\":false,\
        \"truncated\":false,\"duration_us\":1}\n";
    let (half, cut) = (end.split_at(20).0, "{\"event\":\"end\"");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let run = emberd_api::ContextRun { code: String::new(), ..emberd_api::ContextRun::default() };
    let events = async |body: String| {
        let (client, _) = peer(format!("{chunked}{body}")).await;
        let mut events = client.run_context("x", "y", &run).await.unwrap();
        let first = events.next().await.unwrap();
        assert_eq!(first, Some(emberd_api::RunEvent::Started { execution_count: 1 }));
        events
    };
    for rest in ["", "0\r\n\r\n", &chunk(half), &format!("{}0\r\n\r\n", chunk(cut)), "5\r\n{"] {
        let mut events = events(format!("{}{rest}", chunk(started))).await;
        let error = events.next().await.unwrap_err();
        assert!(matches!(error, ClientError::Broken { .. }), "{rest:?}: {error:?}");
    }
    let mut events = events(format!("{}{}", chunk(started), chunk(end))).await;
    assert!(matches!(events.next().await, Ok(Some(emberd_api::RunEvent::End { .. }))));
    assert_eq!(events.next().await.unwrap(), None, "what comes after the end does not matter");
}

#[tokio::test]
async fn events_of_a_run_that_are_none_are_told_apart_from_a_cut() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n";
    let (client, _) = peer(format!("{head}hello\n")).await;
    let run = emberd_api::ContextRun { code: String::new(), ..emberd_api::ContextRun::default() };
    let mut events = client.run_context("x", "y", &run).await.unwrap();
    let error = events.next().await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { status: 200, .. }), "{error:?}");
}

#[tokio::test]
async fn error_body_is_told() {
    let body = r#"{"error":"unknown sandbox","code":"from_the_future"}"#;
    let head = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n", body.len());
    let (client, _) = peer(head + body).await;
    let error = client.get("x").await.unwrap_err();
    assert_eq!(error.to_string(), "unknown sandbox");
    let ClientError::Api { status, body } = error else { panic!("{error:?}") };
    assert_eq!((status, body.code), (404, emberd_api::ErrorCode::Other));
}

#[tokio::test]
async fn where_the_time_went_is_told_and_nonsense_about_it_is_passed_over() {
    let told = "Server-Timing: turn;dur=0.004, total;dur=1.5\r\n";
    for (header, total_us) in [(told, Some(1500)), ("", None), ("Server-Timing: a b\r\n", None)] {
        let (client, _) = peer(format!("HTTP/1.1 204 No Content\r\n{header}\r\n")).await;
        let traced = client.delete_traced("x").await.unwrap();
        let total = traced.timing.duration(emberd_api::STAGE_TOTAL);
        assert_eq!(total, total_us.map(std::time::Duration::from_micros), "{header}");
        assert!(!traced.round_trip.is_zero());
    }
}

#[tokio::test]
async fn template_of_a_pack_is_asked_for_by_its_path() {
    let template = r#"{"language_pack":"python","state":"ready"}"#;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", template.len());
    let (client, request) = peer(head + template).await;
    let built = client.build_template("python").await.unwrap();
    assert_eq!(built.state, emberd_api::TemplateState::Ready);
    assert!(request.await.unwrap().starts_with("POST /templates/python HTTP/1.1\r\n"));
}

#[tokio::test]
async fn connection_is_used_again_until_the_peer_closes_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&listener.local_addr().unwrap().to_string()).unwrap();
    let (closed, is_closed) = tokio::sync::oneshot::channel();
    let peer = tokio::spawn(async move {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"status\":\"ok\"}";
        let (mut first, _) = listener.accept().await.unwrap();
        for _ in 0..2 {
            assert_ne!(first.read(&mut [0; 4096]).await.unwrap(), 0);
            first.write_all(answer).await.unwrap();
        }
        drop(first);
        closed.send(()).unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        assert_ne!(second.read(&mut [0; 4096]).await.unwrap(), 0);
        second.write_all(answer).await.unwrap();
    });
    client.healthz().await.unwrap();
    client.clone().healthz().await.unwrap();
    is_closed.await.unwrap();
    client.healthz().await.unwrap();
    peer.await.unwrap();
}

#[tokio::test]
async fn call_that_is_given_up_closes_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&listener.local_addr().unwrap().to_string()).unwrap();
    let call = tokio::spawn(async move { client.healthz().await });
    let (mut stream, _) = listener.accept().await.unwrap();
    assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
    call.abort();
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn hostile_id_stays_one_segment_of_the_path() {
    let (client, request) = peer("HTTP/1.1 204 No Content\r\n\r\n").await;
    client.delete("../info HTTP/1.1\r\nx").await.unwrap();
    let request = request.await.unwrap();
    let line = request.lines().next().unwrap();
    assert_eq!(line, "DELETE /sandboxes/%2E%2E%2Finfo%20HTTP%2F1%2E1%0D%0Ax HTTP/1.1");
}

#[tokio::test]
async fn unix_sockets_work_alike() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let client = Client::new(&format!("unix:{}", path.display())).unwrap();
    let answer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
        let health = "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"status\":\"ok\"}";
        stream.write_all(health.as_bytes()).await.unwrap();
    };
    let (health, ()) = tokio::join!(client.healthz(), answer);
    assert_eq!(health.unwrap().status, "ok");
}
