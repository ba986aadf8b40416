//! Processes over HTTP: every route, events twice over, terminals, and what clients do wrong.

use emberd_api::{
    ErrorCode, Process, ProcessEvent, ProcessEventKind, ProcessList, ProcessSpec, SignalName,
    TtySize, WEBSOCKET_MESSAGE_BYTES_MAX,
};
use emberd_client::{Attachment, Client};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Api, refusal};
use crate::wait;

const SIZE: TtySize = TtySize { cols: 80, rows: 24 };

fn sh(script: &str) -> ProcessSpec {
    ProcessSpec::of_argv(["sh", "-c", script])
}

/// Reads to the end: the numbers seen, and standard output.
async fn follow(attachment: &mut Attachment) -> (Vec<u64>, String) {
    let (mut ids, mut text) = (Vec::new(), String::new());
    while let Some(event) = attachment.event().await.unwrap() {
        ids.push(event.id);
        if let ProcessEventKind::Stdout(said) = event.kind {
            text += &said.text;
        }
    }
    (ids, text)
}

#[tokio::test]
async fn whole_life() {
    let api = Api::start().await;
    let id = api.create().await;
    let script = "trap 'echo bye; exit 3' USR1; read x; echo got $x; while :; do sleep 0.01; done";
    let started = api.client.start_process(&id, &sh(script)).await.unwrap();
    assert_eq!((started.argv.len(), started.tty, &started.exit), (3, false, &None));
    api.client.write_stdin(&id, started.pid, "hello\n", false).await.unwrap();
    let mut attachment = api.client.attach(&id, started.pid, 0).await.unwrap();
    let first = attachment.event().await.unwrap().unwrap();
    assert_eq!(first.kind, ProcessEventKind::Started { pid: started.pid });
    attachment.event().await.unwrap().unwrap();
    wait::until(async || api.client.process(&id, started.pid).await.unwrap().next_event == 2).await;
    let list = api.client.processes(&id).await.unwrap();
    assert_eq!(list.processes.len(), 1);
    api.client.signal_process(&id, started.pid, SignalName::SigUsr1).await.unwrap();
    assert_eq!(follow(&mut attachment).await.1, "bye\n");
    let ended = api.client.process(&id, started.pid).await.unwrap();
    assert_eq!(ended.exit.unwrap().exit_code, 3);
    let late = api.client.write_stdin(&id, started.pid, "x", false).await;
    assert_eq!(refusal(late).1.code, ErrorCode::ProcessEnded);
    api.client.delete_process(&id, started.pid).await.unwrap();
    let gone = api.client.process(&id, started.pid).await;
    assert_eq!(refusal(gone).1.code, ErrorCode::NotFound);
    api.stop().await;
}

/// The body of a stream of events, until `end` comes.
async fn sse(api: &Api, path: &str, header: &str, end: &str) -> String {
    let mut stream = TcpStream::connect(&api.authority).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{header}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut chunk = [0; 4096];
    while !text.contains(end) {
        let bytes = stream.read(&mut chunk).await.unwrap();
        assert_ne!(bytes, 0, "no {end} in {text}");
        text += std::str::from_utf8(&chunk[..bytes]).unwrap();
    }
    text
}

#[tokio::test]
async fn server_sent_events_go_on_after_the_last_one_seen() {
    let api = Api::start().await;
    let id = api.create().await;
    let spec = sh("echo één; printf '\\377\\n' >&2; exit 4");
    let pid = api.client.start_process(&id, &spec).await.unwrap().pid;
    let path = format!("/sandboxes/{id}/processes/{pid}/events");
    let whole = sse(&api, &path, "", "event: exit").await;
    assert!(whole.contains("content-type: text/event-stream"), "{whole}");
    assert!(whole.contains("id: 0\nevent: started\n"), "{whole}");
    assert!(whole.contains(r#""event":"stdout","text":"één\n""#), "{whole}");
    assert!(whole.contains(r#""base64":"/wo=""#), "{whole}");
    let later = sse(&api, &format!("{path}?from=0"), "Last-Event-ID: 2\r\n", "event: exit").await;
    assert!(later.contains("id: 3\n") && !later.contains("id: 2\n"), "{later}");
    let from = sse(&api, &format!("{path}?from=3"), "", r#""exit_code":4"#).await;
    assert!(!from.contains("id: 2\n"), "{from}");
    api.stop().await;
}

#[tokio::test]
async fn terminal_over_one_connection() {
    let api = Api::start().await;
    let id = api.create().await;
    let mut spec = sh("trap 'stty size; exit 7' WINCH; while read x; do echo =$x; done");
    spec.tty = Some(SIZE);
    let pid = api.client.start_process(&id, &spec).await.unwrap().pid;
    let mut attachment = api.client.attach(&id, pid, 0).await.unwrap();
    attachment.write(b"typed\n").await.unwrap();
    let mut text = String::new();
    while !text.contains("=typed\r\n") {
        if let ProcessEventKind::Stdout(said) = attachment.event().await.unwrap().unwrap().kind {
            text += &said.text;
        }
    }
    attachment.resize(TtySize { cols: 9, rows: 8 }).await.unwrap();
    attachment.write(b"\n").await.unwrap();
    assert!(follow(&mut attachment).await.1.contains("8 9\r\n"));
    let ended = api.client.process(&id, pid).await.unwrap();
    assert_eq!(ended.exit.unwrap().exit_code, 7);
    api.stop().await;
}

#[tokio::test]
async fn input_ends_and_signals_pass_over_one_connection() {
    let api = Api::start().await;
    let id = api.create().await;
    let cat = api.client.start_process(&id, &ProcessSpec::of_argv(["cat"])).await.unwrap().pid;
    let mut attachment = api.client.attach(&id, cat, 1).await.unwrap();
    attachment.write(b"all of it").await.unwrap();
    attachment.end_input().await.unwrap();
    assert_eq!(follow(&mut attachment).await.1, "all of it");
    let sleep = sh("exec sleep 1000");
    let sleep = api.client.start_process(&id, &sleep).await.unwrap().pid;
    let mut attachment = api.client.attach(&id, sleep, 1).await.unwrap();
    attachment.signal(SignalName::SigTerm).await.unwrap();
    let Some(ProcessEvent { kind: ProcessEventKind::Exit(exit), .. }) =
        attachment.event().await.unwrap()
    else {
        panic!("no exit")
    };
    assert_eq!(exit.signal, Some(15));
    api.stop().await;
}

/// Passes bytes between clients and the API, and cuts each connection after `bytes` of answers.
async fn cutting(authority: String, bytes: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(&authority).await.unwrap();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (from_server, mut to_server) = server.into_split();
                let mut answers = from_server.take(bytes as u64);
                tokio::select! {
                    _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                    _ = tokio::io::copy(&mut answers, &mut to_client) => {}
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn client_that_is_cut_off_comes_back_without_loss_or_duplicates() {
    let api = Api::start().await;
    let id = api.create().await;
    let spec = sh("for n in $(seq 500); do echo line $n; sleep 0.001; done");
    let pid = api.client.start_process(&id, &spec).await.unwrap().pid;
    let client = Client::new(&cutting(api.authority.clone(), 2000).await).unwrap();
    let mut attachment = client.attach(&id, pid, 0).await.unwrap();
    let (ids, text) = follow(&mut attachment).await;
    assert!(ids.iter().zip(0..).all(|(id, expect)| *id == expect), "{ids:?}");
    let expect: Vec<_> = (1..=500).map(|n| format!("line {n}")).collect();
    assert_eq!(text.lines().collect::<Vec<_>>(), expect);
    api.stop().await;
}

#[tokio::test]
async fn two_clients_see_the_same() {
    let api = Api::start().await;
    let id = api.create().await;
    let spec = sh("exec seq 20000");
    let pid = api.client.start_process(&id, &spec).await.unwrap().pid;
    let mut one = api.client.attach(&id, pid, 0).await.unwrap();
    let mut other = api.client.attach(&id, pid, 0).await.unwrap();
    let (seen, also_seen) = tokio::join!(follow(&mut one), follow(&mut other));
    assert_eq!(seen, also_seen);
    assert_eq!(seen.1.lines().count(), 20_000);
    api.stop().await;
}

#[tokio::test]
async fn refusals() {
    use ErrorCode::{InvalidJson, InvalidRequest, MethodNotAllowed, NotFound, NotStarted};
    use ErrorCode::{ProcessEnded, UnknownSandbox};
    let api = Api::start().await;
    let id = api.create().await;
    let pid = api.client.start_process(&id, &sh("exec sleep 1000")).await.unwrap().pid;
    let ended = api.client.start_process(&id, &sh("true")).await.unwrap().pid;
    wait::until(async || api.client.process(&id, ended).await.unwrap().exit.is_some()).await;
    let all = format!("/sandboxes/{id}/processes");
    let one = format!("{all}/{pid}");
    let (dead, none) = (format!("{all}/{ended}"), format!("{all}/999999999"));
    let unknown = "/sandboxes/sb_000000000000/processes".to_owned();
    let cases: &[(&str, String, &str, u16, ErrorCode)] = &[
        ("POST", all.clone(), "", 400, InvalidJson),
        ("POST", all.clone(), "{}", 400, InvalidRequest),
        ("POST", all.clone(), r#"{"argv":"sh"}"#, 400, InvalidJson),
        ("POST", all.clone(), r#"{"argv":["sh"],"code":""}"#, 400, InvalidRequest),
        ("POST", all.clone(), r#"{"argv":["a\u0000"]}"#, 400, InvalidRequest),
        ("POST", all.clone(), r#"{"argv":["sh"],"tty":{"cols":0,"rows":1}}"#, 400, InvalidRequest),
        ("POST", all.clone(), r#"{"argv":["sh"],"tty":{"cols":-1,"rows":1}}"#, 400, InvalidJson),
        ("POST", all.clone(), r#"{"argv":["sh"],"limits":{"pids":0}}"#, 400, InvalidRequest),
        ("POST", all.clone(), r#"{"argv":["sh"],"limits":{"pids":9}}"#, 400, InvalidRequest),
        ("POST", all.clone(), r#"{"argv":["sh"],"user":"no-such-user"}"#, 404, NotFound),
        ("POST", all.clone(), r#"{"argv":["sh"],"user":"a:b"}"#, 400, InvalidRequest),
        ("POST", all.clone(), r#"{"argv":["/nowhere"]}"#, 422, NotStarted),
        ("POST", all.clone(), r#"{"argv":["sh"],"cwd":"/nowhere"}"#, 422, NotStarted),
        ("POST", unknown.clone(), r#"{"argv":["sh"]}"#, 404, UnknownSandbox),
        ("GET", unknown.clone(), "", 404, UnknownSandbox),
        ("GET", format!("{unknown}/1/events"), "", 404, UnknownSandbox),
        ("GET", none.clone(), "", 404, NotFound),
        ("GET", format!("{all}/-1"), "", 404, NotFound),
        ("GET", format!("{all}/%ff"), "", 404, UnknownSandbox),
        ("DELETE", none.clone(), "", 404, NotFound),
        ("GET", format!("{none}/events"), "", 404, NotFound),
        ("GET", format!("{one}/events?from=x"), "", 400, InvalidRequest),
        ("GET", format!("{one}/events?from=-1"), "", 400, InvalidRequest),
        ("POST", format!("{one}/events"), "", 405, MethodNotAllowed),
        ("POST", format!("{none}/stdin"), "x", 404, NotFound),
        ("POST", format!("{one}/stdin?end=x"), "x", 400, InvalidRequest),
        ("POST", format!("{dead}/stdin"), "x", 409, ProcessEnded),
        ("POST", format!("{one}/signal"), "", 400, InvalidJson),
        ("POST", format!("{one}/signal"), r#"{"signal":"SIGSEGV"}"#, 400, InvalidJson),
        ("POST", format!("{one}/signal"), r#"{"signal":9}"#, 400, InvalidJson),
        ("POST", format!("{dead}/signal"), r#"{"signal":"SIGTERM"}"#, 409, ProcessEnded),
        ("POST", format!("{one}/resize"), r#"{"cols":80}"#, 400, InvalidJson),
        ("POST", format!("{one}/resize"), r#"{"cols":80,"rows":0}"#, 400, InvalidRequest),
        ("POST", format!("{one}/resize"), r#"{"cols":80,"rows":24}"#, 400, InvalidRequest),
    ];
    for (method, path, body, status, code) in cases {
        let answer = api.raw(method, path, body).await;
        let what = format!("{method} {path} {body:.60}: {answer:?}");
        assert_eq!((answer.status, answer.error().code), (*status, *code), "{what}");
    }
    let listed = api.raw("GET", &all, "").await;
    let listed: ProcessList = serde_json::from_str(&listed.body).unwrap();
    assert_eq!(listed.processes.len(), 2);
    api.stop().await;
}

/// Upgrades to a WebSocket by hand, sends `frames`, and reads until the end.
async fn websocket(api: &Api, path: &str, frames: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(&api.authority).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    // A server that has enough may close before all is written.
    stream.write_all(frames).await.ok();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(wait::PATIENCE, stream.read_to_end(&mut answer)).await;
    let frames = &frames[..frames.len().min(40)];
    read.unwrap_or_else(|_| panic!("the server does not close after {frames:?}")).ok();
    answer
}

/// One masked frame (RFC 6455 §5.2), the mask all zeroes.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, 0x80 | 127];
    frame.extend((payload.len() as u64).to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

#[tokio::test]
async fn websocket_garbage_closes_that_socket_alone() {
    let api = Api::start().await;
    let id = api.create().await;
    let pid = api.client.start_process(&id, &sh("exec sleep 1000")).await.unwrap().pid;
    let path = format!("/sandboxes/{id}/processes/{pid}/events");
    let mut witness = api.client.attach(&id, pid, 0).await.unwrap();
    witness.event().await.unwrap().unwrap();
    let nested = "[".repeat(100_000);
    let cases: [&[u8]; 9] = [
        &[0xff; 32],
        // Unmasked.
        b"\x81\x02{}",
        // A length beyond any.
        b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
        &frame(1, b"not json"),
        &frame(1, br#"{"say":"teleport"}"#),
        &frame(1, br#"{"say":"resize","cols":0,"rows":0}"#),
        &frame(1, nested.as_bytes()),
        &frame(1, b"\xff\xfe"),
        // More than a message may have, and more than may wait for the program.
        &frame(2, &vec![b'x'; WEBSOCKET_MESSAGE_BYTES_MAX + 1]),
    ];
    for (case, frames) in cases.into_iter().enumerate() {
        let answer = websocket(&api, &path, frames).await;
        assert!(answer.starts_with(b"HTTP/1.1 101"), "case {case}");
    }
    let many: Vec<u8> = (0..40).flat_map(|_| frame(2, &vec![b'x'; 64 << 10])).collect();
    let answer = websocket(&api, &path, &many).await;
    let says = String::from_utf8_lossy(&answer).into_owned();
    assert!(says.contains("does not read its input"), "{says}");
    // Half an upgrade is none.
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n");
    let request = format!("{head}Connection: close\r\n\r\n").into_bytes();
    let answer = crate::raw::send(&api.authority, request).await;
    assert_eq!((answer.status, answer.error().code), (400, ErrorCode::InvalidRequest));
    let process: Process = api.client.process(&id, pid).await.unwrap();
    assert_eq!(process.exit, None);
    api.client.delete_process(&id, pid).await.unwrap();
    assert!(follow(&mut witness).await.0.len() == 1);
    api.stop().await;
}

#[tokio::test]
async fn sixty_four_mebibytes_of_input_to_a_program_that_does_not_read() {
    let api = Api::start().await;
    let id = api.create().await;
    let pid = api.client.start_process(&id, &sh("exec sleep 1000")).await.unwrap().pid;
    let client = api.client.clone();
    let body = vec![b'x'; 64 << 20];
    let write = {
        let id = id.clone();
        tokio::spawn(async move { client.write_stdin(&id, pid, body, true).await })
    };
    api.client.signal_process(&id, pid, SignalName::SigTerm).await.unwrap();
    let mut attachment = api.client.attach(&id, pid, 1).await.unwrap();
    follow(&mut attachment).await;
    // The answer says so, or the rest of the body meets a closed connection.
    assert!(write.await.unwrap().is_err());
    api.stop().await;
}

#[tokio::test]
async fn listeners_do_not_hold_up_a_daemon_that_stops() {
    let api = Api::start().await;
    let id = api.create().await;
    let pid = api.client.start_process(&id, &sh("exec sleep 1000")).await.unwrap().pid;
    let path = format!("/sandboxes/{id}/processes/{pid}/events");
    let mut stream = TcpStream::connect(&api.authority).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut attachment = api.client.attach(&id, pid, 0).await.unwrap();
    attachment.event().await.unwrap().unwrap();
    api.sandboxes.close();
    let mut text = Vec::new();
    let ended = tokio::time::timeout(wait::PATIENCE, stream.read_to_end(&mut text)).await;
    ended.expect("the stream ends").unwrap();
    assert!(text.ends_with(b"\r\n\r\n"), "{}", String::from_utf8_lossy(&text));
    api.stop().await;
}
