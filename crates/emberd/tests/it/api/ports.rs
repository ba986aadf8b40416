//! Ports of sandboxes over HTTP. The double's loopback is the host's: what listens here listens
//! in the sandbox.

use std::time::Duration;

use emberd_api::{ErrorCode, PORT_HEADER, SANDBOX_HEADER};
use emberd_client::ClientError;
use futures::future::join_all;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{Api, refusal};
use crate::raw::{self, Answer};
use crate::wait;

/// A port on which each connection gets what `serve` does.
async fn listen<F: Future<Output = ()> + Send>(
    serve: impl Fn(BufReader<TcpStream>) -> F + Clone + Send + 'static,
) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let serve = serve.clone();
            tokio::spawn(async move { serve(BufReader::new(stream)).await });
        }
    });
    (port, server)
}

/// A port nothing listens on.
async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// A request's head, and a chunked or sized body.
async fn read_request(stream: &mut BufReader<TcpStream>) -> (String, Vec<u8>) {
    let head = read_head(stream).await;
    let mut body = Vec::new();
    if head.contains("transfer-encoding: chunked\r\n") {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size).await.unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).await.unwrap();
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return (head, body);
            }
        }
    }
    if let Some((_, rest)) = head.split_once("content-length: ") {
        body.resize(rest.split_once("\r\n").unwrap().0.parse().unwrap(), 0);
        stream.read_exact(&mut body).await.unwrap();
    }
    (head, body)
}

async fn read_head(stream: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "{head}");
    }
    head
}

async fn respond(stream: &mut BufReader<TcpStream>, fields: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
}

/// Answers every request with what it was.
async fn mirror() -> (u16, JoinHandle<()>) {
    listen(async |mut stream| {
        let (head, body) = read_request(&mut stream).await;
        let said = [head.as_bytes(), &body].concat();
        let fields = "X-Request-Id: the app's\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n";
        respond(&mut stream, fields, &said).await;
    })
    .await
}

fn host(port: u16, id: &str) -> String {
    format!("{port}-{}.localhost:7777", id.replace('_', "-"))
}

/// Sends a request to `host`; `rest` is what follows the host in it.
async fn send(api: &Api, line: &str, host: &str, rest: &str) -> Answer {
    let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{rest}");
    raw::send(&api.authority, request.into_bytes()).await
}

async fn get(api: &Api, host: &str, path: &str) -> Answer {
    send(api, &format!("GET {path}"), host, "\r\n").await
}

#[tokio::test]
async fn server_started_in_the_sandbox_is_seen_from_outside() {
    let api = Api::start().await;
    let id = api.create().await;
    let dir = api.client.get(&id).await.unwrap().dir;
    // The port is the kernel's choice, told by a file.
    let program = format!(
        "cd {dir} && mkdir -p www && echo hello from inside > www/index.html && cd www && \
         exec python3 -c 'import http.server as h\n\
         server = h.ThreadingHTTPServer((\"127.0.0.1\", 0), h.SimpleHTTPRequestHandler)\n\
         open(\"../port.new\", \"w\").write(str(server.server_port))\n\
         import os; os.rename(\"../port.new\", \"../port\")\n\
         server.serve_forever()'"
    );
    let (client, of) = (api.client.clone(), id.clone());
    let served = tokio::spawn(async move { client.exec(&of, &super::body(&program)).await });
    let told = std::path::Path::new(&dir).join("port");
    wait::until(async || told.exists()).await;
    let port = std::fs::read_to_string(told).unwrap().parse().unwrap();
    let answer = get(&api, &host(port, &id), "/").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello from inside\n"));
    assert_eq!(get(&api, &host(port, &id), "/none").await.status, 404);
    api.client.delete(&id).await.unwrap();
    served.await.unwrap().unwrap_err();
    api.stop().await;
}

#[tokio::test]
async fn request_arrives_as_it_was_sent_and_so_does_the_answer() {
    let api = Api::start().await;
    let id = api.create().await;
    let (port, server) = mirror().await;
    let host = host(port, &id);
    let fields = "X-App: 1\r\nOrigin: http://page.example\r\nConnection: x-mine\r\nX-Mine: 1\r\n\
        Content-Length: 4\r\n\r\nbody";
    let answer = send(&api, "POST /sandboxes?q=%20", &host, fields).await;
    assert_eq!(answer.status, 200);
    let (head, body) = answer.body.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /sandboxes?q=%20 HTTP/1.1\r\n"), "{head}");
    for part in
        [&format!("host: {host}"), "x-app: 1", "origin: http://page.example", "connection: close"]
    {
        assert!(head.contains(part), "{part}: {head}");
    }
    assert!(head.contains(&format!("x-forwarded-host: {host}")), "{head}");
    assert!(!head.contains("x-mine"), "{head}");
    assert_eq!(body, "body");
    let answered = answer.head.to_lowercase();
    assert!(answered.contains("x-request-id: the app's\r\n"), "{answered}");
    assert!(!answered.contains("x-hop"), "{answered}");
    server.abort();
    api.stop().await;
}

#[tokio::test]
async fn headers_name_a_port_too() {
    let api = Api::start().await;
    let id = api.create().await;
    let (port, server) = mirror().await;
    let named = format!("{SANDBOX_HEADER}: {id}\r\n{PORT_HEADER}: {port}\r\n\r\n");
    let answer = send(&api, "GET /info", "outer.example", &named).await;
    assert!(answer.body.starts_with("GET /info HTTP/1.1\r\n"), "{answer:?}");
    assert!(answer.body.contains("host: outer.example\r\n"), "{answer:?}");
    assert!(!answer.body.contains("x-emberd"), "{answer:?}");
    let half = format!("{SANDBOX_HEADER}: {id}\r\n\r\n");
    let answer = send(&api, "GET /info", "outer.example", &half).await;
    assert_eq!((answer.status, answer.error().code), (400, ErrorCode::InvalidRequest));
    server.abort();
    api.stop().await;
}

#[tokio::test]
async fn the_api_is_at_no_host_of_a_port() {
    let api = Api::start().await;
    let id = api.create().await;
    let closed = closed_port().await;
    let answer = get(&api, &host(closed, &id), "/info").await;
    assert_eq!((answer.status, answer.error().code), (502, ErrorCode::PortClosed));
    assert!(answer.error().error.contains(&format!("port {closed} of sandbox {id}")));
    assert!(answer.error().hint.is_some());
    for (host, status, code) in [
        ("80-sb-000000000000.localhost", 404, ErrorCode::UnknownSandbox),
        ("80-SB_zzz.LOCALHOST", 404, ErrorCode::UnknownSandbox),
        ("99999-sb-000000000000.localhost", 400, ErrorCode::InvalidRequest),
        ("0-sb-000000000000.localhost", 400, ErrorCode::InvalidRequest),
    ] {
        let answer = get(&api, host, "/info").await;
        assert_eq!((answer.status, answer.error().code), (status, code), "{host}");
    }
    let absolute = "GET http://80-sb-000000000000.localhost/info";
    let answer = send(&api, absolute, "localhost", "\r\n").await;
    assert_eq!((answer.status, answer.error().code), (404, ErrorCode::UnknownSandbox));
    let twice = "Host: localhost\r\n\r\n";
    let answer = send(&api, "GET /info", "80-sb-000000000000.localhost", twice).await;
    assert_eq!((answer.status, answer.error().code), (400, ErrorCode::InvalidRequest));
    let connect = format!("CONNECT {}", host(closed, &id));
    let answer = send(&api, &connect, &host(closed, &id), "\r\n").await;
    assert_eq!((answer.status, answer.error().code), (405, ErrorCode::MethodNotAllowed));
    // And the API stays closed to pages.
    let answer = send(&api, "GET /info", "localhost", "Origin: http://page.example\r\n\r\n").await;
    assert_eq!((answer.status, answer.error().code), (403, ErrorCode::ForeignOrigin));
    api.stop().await;
}

#[tokio::test]
async fn large_bodies_cross_both_ways() {
    let api = Api::start().await;
    let id = api.create().await;
    let (port, server) = mirror().await;
    // Over the API's own limit of a body.
    let mut request = format!(
        "PUT / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        host(port, &id)
    )
    .into_bytes();
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..65 {
        request.extend_from_slice(b"100000\r\n");
        request.extend_from_slice(&chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let answer = raw::send(&api.authority, request).await;
    let (_, body) = answer.body.split_once("\r\n\r\n").unwrap();
    assert_eq!((answer.status, body.len()), (200, 65 << 20));
    server.abort();
    api.stop().await;
}

#[tokio::test]
async fn pieces_of_an_answer_arrive_before_its_end() {
    let api = Api::start().await;
    let id = api.create().await;
    // Each further piece is sent when the caller says that it has the one before.
    let (port, server) = listen(async |mut stream| {
        read_head(&mut stream).await;
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head).await.unwrap();
        for piece in ["one", "two"] {
            stream.write_all(format!("3\r\n{piece}\r\n").as_bytes()).await.unwrap();
            let mut word = [0; 3];
            stream.read_exact(&mut word).await.unwrap();
            assert_eq!(&word, b"ack");
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    })
    .await;
    let mut caller = BufReader::new(TcpStream::connect(&api.authority).await.unwrap());
    let head = format!("POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: 6\r\n\r\n", host(port, &id));
    caller.write_all(head.as_bytes()).await.unwrap();
    read_head(&mut caller).await;
    for piece in ["one", "two"] {
        let mut chunk = [0; 8];
        caller.read_exact(&mut chunk).await.unwrap();
        assert_eq!(chunk, format!("3\r\n{piece}\r\n").as_bytes());
        caller.write_all(b"ack").await.unwrap();
    }
    let mut end = [0; 5];
    caller.read_exact(&mut end).await.unwrap();
    assert_eq!(&end, b"0\r\n\r\n");
    server.abort();
    api.stop().await;
}

/// The least of RFC 6455 a server needs to echo one short masked text.
async fn echo_websocket(mut stream: BufReader<TcpStream>) {
    let head = read_head(&mut stream).await;
    assert!(head.contains("connection: Upgrade\r\n") && head.contains("upgrade: websocket\r\n"));
    assert!(head.contains("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "{head}");
    let agreed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    stream.write_all(agreed).await.unwrap();
    loop {
        let mut frame = [0; 6];
        if stream.read_exact(&mut frame).await.is_err() {
            return;
        }
        let mut text = vec![0; usize::from(frame[1] & 0x7f)];
        stream.read_exact(&mut text).await.unwrap();
        let unmasked = text.iter().zip(frame[2..].iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let mut echo = vec![frame[0], frame[1] & 0x7f];
        echo.extend(unmasked);
        stream.write_all(&echo).await.unwrap();
    }
}

#[tokio::test]
async fn websocket_passes_through() {
    let api = Api::start().await;
    let id = api.create().await;
    let (port, server) = listen(echo_websocket).await;
    let mut caller = BufReader::new(TcpStream::connect(&api.authority).await.unwrap());
    let asked = format!(
        "GET /socket HTTP/1.1\r\nHost: {}\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: websocket\r\nOrigin: http://page.example\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        host(port, &id)
    );
    caller.write_all(asked.as_bytes()).await.unwrap();
    let head = read_head(&mut caller).await.to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"));
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
    for text in ["hello", "again"] {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![0x81, 0x80 | 5];
        frame.extend(mask);
        frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        caller.write_all(&frame).await.unwrap();
        let mut echo = [0; 7];
        caller.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo, [&[0x81, 5][..], text.as_bytes()].concat()[..]);
    }
    drop(caller);
    server.abort();
    api.stop().await;
}

#[tokio::test]
async fn upgrade_that_is_declined_is_an_answer() {
    let api = Api::start().await;
    let id = api.create().await;
    let (port, server) = mirror().await;
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let answer = send(&api, "GET /", &host(port, &id), fields).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    server.abort();
    api.stop().await;
}

#[tokio::test]
async fn what_is_no_http_is_told() {
    let api = Api::start().await;
    let id = api.create().await;
    let (port, server) = listen(async |mut stream| {
        stream.write_all(b"SSH-2.0-none\r\n").await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    })
    .await;
    let answer = get(&api, &host(port, &id), "/").await;
    assert_eq!((answer.status, answer.error().code), (502, ErrorCode::PortFailed));
    let (hangs_up, silent) = listen(async |stream| drop(stream)).await;
    let answer = get(&api, &host(hangs_up, &id), "/").await;
    assert_eq!((answer.status, answer.error().code), (502, ErrorCode::PortFailed));
    let endless = listen(async |mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        while stream
            .write_all(b"X-More: 0123456789012345678901234567890123456789\r\n")
            .await
            .is_ok()
        {}
    });
    let (endless, third) = endless.await;
    let answer = get(&api, &host(endless, &id), "/").await;
    assert_eq!((answer.status, answer.error().code), (502, ErrorCode::PortFailed));
    let (unasked, fourth) = listen(async |mut stream| {
        read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
            .await
            .unwrap();
        stream.read_to_end(&mut Vec::new()).await.ok();
    })
    .await;
    let answer = get(&api, &host(unasked, &id), "/").await;
    assert_eq!((answer.status, answer.error().code), (502, ErrorCode::PortFailed));
    for server in [server, silent, third, fourth] {
        server.abort();
    }
    api.stop().await;
}

#[tokio::test]
async fn caller_that_hangs_up_closes_the_connection_inside() {
    let api = Api::start().await;
    let id = api.create().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = host(listener.local_addr().unwrap().port(), &id);
    // Before the answer, and in the middle of it.
    for begun in ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"] {
        let mut caller = BufReader::new(TcpStream::connect(&api.authority).await.unwrap());
        let asked = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        caller.write_all(asked.as_bytes()).await.unwrap();
        let mut inside = BufReader::new(listener.accept().await.unwrap().0);
        read_head(&mut inside).await;
        inside.write_all(begun.as_bytes()).await.unwrap();
        if !begun.is_empty() {
            read_head(&mut caller).await;
        }
        drop(caller);
        assert_eq!(inside.read(&mut [0]).await.unwrap_or(0), 0);
    }
    api.stop().await;
}

#[tokio::test]
async fn answer_cut_inside_is_cut_outside() {
    let api = Api::start().await;
    let id = api.create().await;
    let (port, server) = listen(async |mut stream| {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf").await.unwrap();
        stream.get_mut().set_zero_linger().unwrap();
    })
    .await;
    let mut caller = TcpStream::connect(&api.authority).await.unwrap();
    let asked = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", host(port, &id));
    caller.write_all(asked.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    drop(caller.read_to_end(&mut answer).await);
    let answer = String::from_utf8(answer).unwrap();
    // Chunked, and without the last chunk: the caller knows that something is missing.
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
    server.abort();
    api.stop().await;
}

#[tokio::test]
async fn hundred_at_once() {
    let api = Api::start().await;
    let id = api.create().await;
    let (port, server) = mirror().await;
    let host = host(port, &id);
    let answers = (0..100).map(async |number| {
        let answer = get(&api, &host, &format!("/{number}")).await;
        assert!(answer.body.starts_with(&format!("GET /{number} ")), "{answer:?}");
    });
    join_all(answers).await;
    server.abort();
    api.stop().await;
}

#[tokio::test]
async fn connection_serves_ports_and_the_api_in_turn() {
    let api = Api::start().await;
    let id = api.create().await;
    let (port, server) = mirror().await;
    let mut caller = BufReader::new(TcpStream::connect(&api.authority).await.unwrap());
    for (host, expect) in [
        (host(port, &id), "GET /healthz HTTP/1.1"),
        ("localhost".to_owned(), r#"{"status":"ok"}"#),
        (host(port, &id), "GET /healthz HTTP/1.1"),
    ] {
        let asked = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n");
        caller.write_all(asked.as_bytes()).await.unwrap();
        let (_, body) = read_request(&mut caller).await;
        let body = String::from_utf8(body).unwrap();
        assert!(body.starts_with(expect), "{body}");
    }
    server.abort();
    api.stop().await;
}

#[tokio::test]
async fn tunnel_carries_bytes_both_ways() {
    let api = Api::start().await;
    let id = api.create().await;
    let (port, server) = listen(async |mut stream| {
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        heard.reverse();
        stream.write_all(&heard).await.unwrap();
    })
    .await;
    let callers = (0..10).map(async |_| {
        let mut tunnel = api.client.connect_port(&id, port).await.unwrap();
        tunnel.write_all(b"forwards").await.unwrap();
        tunnel.shutdown().await.unwrap();
        let mut heard = String::new();
        tunnel.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "sdrawrof");
    });
    join_all(callers).await;
    server.abort();
    api.stop().await;
}

#[tokio::test]
async fn tunnel_is_refused_as_other_calls_are() {
    let api = Api::start().await;
    let id = api.create().await;
    let closed = closed_port().await;
    let refused = api.client.connect_port(&id, closed).await;
    assert_eq!(refusal(refused).1.code, ErrorCode::PortClosed);
    let refused = api.client.connect_port("sb_000000000000", closed).await;
    assert_eq!(refusal(refused).1.code, ErrorCode::UnknownSandbox);
    let refused = api.client.connect_port(&id, 0).await;
    assert_eq!(refusal(refused).1.code, ErrorCode::InvalidRequest);
    let plain = api.raw("GET", &format!("/sandboxes/{id}/ports/{closed}"), "").await;
    assert_eq!((plain.status, plain.error().code), (400, ErrorCode::InvalidRequest));
    assert!(plain.error().hint.unwrap().contains("Upgrade: tcp"));
    api.stop().await;
}

#[tokio::test]
async fn metrics_and_logs_are_told() {
    let api = Api::start().await;
    let id = api.create().await;
    let metrics = api.client.metrics(&id).await.unwrap();
    assert!(metrics.memory_total_bytes > 0, "{metrics:?}");
    let log = std::path::Path::new(&api.client.get(&id).await.unwrap().dir).join("vm.log");
    std::fs::write(&log, "one\n\x1b[2Jtwo\n").unwrap();
    let answer = api.raw("GET", &format!("/sandboxes/{id}/logs?tail=1"), "").await;
    assert_eq!((answer.status, answer.body.contains("two\n")), (200, true), "{answer:?}");
    assert!(answer.head.contains("content-type: text/plain; charset=utf-8"), "{answer:?}");
    assert!(!answer.body.contains('\x1b') && !answer.body.contains("one"), "{answer:?}");
    for wrong in ["tail=-1", "follow=maybe", "tail=x"] {
        let answer = api.raw("GET", &format!("/sandboxes/{id}/logs?{wrong}"), "").await;
        assert_eq!((answer.status, answer.error().code), (400, ErrorCode::InvalidRequest));
    }
    let mut logs = api.client.logs(&id, Some(0), true).await.unwrap();
    std::fs::write(&log, "one\n\x1b[2Jtwo\nthree\n").unwrap();
    assert_eq!(logs.next().await.unwrap().unwrap(), "three\n");
    // The end of the sandbox is the end of its log.
    api.client.delete(&id).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(60), async {
        while logs.next().await?.is_some() {}
        Ok::<_, ClientError>(())
    });
    end.await.unwrap().unwrap();
    let refused = api.client.logs(&id, None, false).await.map(drop);
    assert_eq!(refusal(refused).1.code, ErrorCode::UnknownSandbox);
    assert_eq!(refusal(api.client.metrics(&id).await).1.code, ErrorCode::UnknownSandbox);
    api.stop().await;
}
