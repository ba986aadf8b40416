//! Ports, metrics and the console log of sandboxes. The double's loopback is the host's.

use std::io::ErrorKind;

use emberd_sandbox::{DialError, GuestTcp, PORT_CONNECTIONS_MAX, SandboxId, Unknown};
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::fixture::{ById as _, Fixture};

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Both ends of a connection to a port.
async fn dialed(fixture: &Fixture, id: SandboxId) -> (GuestTcp, TcpStream) {
    let (listener, port) = listener().await;
    let ports = fixture.sandboxes.ports(id);
    let (caller, server) = tokio::join!(ports.dial(port), listener.accept());
    (caller.unwrap(), server.unwrap().0)
}

#[tokio::test]
async fn bytes_cross_in_both_directions_at_once() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let (caller, server) = dialed(&fixture, id).await;
    let sent: Vec<u8> = (0..4 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    let (mut from_port, mut to_port) = tokio::io::split(caller);
    let (mut from_caller, mut to_caller) = server.into_split();
    let upwards = async {
        to_port.write_all(&sent).await.unwrap();
        to_port.shutdown().await.unwrap();
    };
    let downwards = async {
        to_caller.write_all(&sent).await.unwrap();
        drop(to_caller);
    };
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let ((), (), above, below) = tokio::join!(
        upwards,
        downwards,
        from_caller.read_to_end(&mut up),
        from_port.read_to_end(&mut down)
    );
    assert_eq!((above.unwrap(), below.unwrap()), (sent.len(), sent.len()));
    assert!(up == sent && down == sent);
    fixture.close().await;
}

#[tokio::test]
async fn many_connections_at_once_and_no_more_than_allowed() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let (listener, port) = listener().await;
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await
            });
        }
    });
    let ports = fixture.sandboxes.ports(id);
    let dials = (0..PORT_CONNECTIONS_MAX).map(|_| ports.dial(port));
    let callers: Vec<_> = join_all(dials).await.into_iter().map(Result::unwrap).collect();
    let refused = fixture.sandboxes.ports(id).dial(port).await;
    assert!(matches!(refused, Err(DialError::TooMany(_))), "{refused:?}");
    // Execs still get a permit.
    assert_eq!(fixture.exec(id, "echo in").await.unwrap().stdout, "in\n");
    let echoes = callers.into_iter().enumerate().map(async |(number, mut caller)| {
        let said = format!("caller {number}");
        caller.write_all(said.as_bytes()).await.unwrap();
        caller.shutdown().await.unwrap();
        let mut heard = String::new();
        caller.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, said);
    });
    join_all(echoes).await;
    server.abort();
    fixture.close().await;
}

#[tokio::test]
async fn nothing_listens() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let (listener, port) = listener().await;
    drop(listener);
    let refused = fixture.sandboxes.ports(id).dial(port).await;
    let Err(error @ DialError::NotListening { .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(error.to_string(), format!("nothing listens on port {port} of sandbox {id}"));
    let refused = fixture.sandboxes.get(SandboxId::random()).map(drop);
    assert!(matches!(refused, Err(Unknown(_))));
    fixture.close().await;
}

#[tokio::test]
async fn caller_that_leaves_closes_the_port() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let (mut caller, mut server) = dialed(&fixture, id).await;
    caller.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    server.read_exact(&mut heard).await.unwrap();
    drop(caller);
    assert_eq!(server.read(&mut heard).await.unwrap_or(0), 0);
    fixture.close().await;
}

#[tokio::test]
async fn port_that_breaks_is_an_error_and_not_an_end() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let (mut caller, server) = dialed(&fixture, id).await;
    server.set_zero_linger().unwrap();
    drop(server);
    let error = caller.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    fixture.close().await;
}

#[tokio::test]
async fn deletion_breaks_the_connection_and_says_so() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let (mut caller, _server) = dialed(&fixture, id).await;
    let (read, deleted) = tokio::join!(caller.read_u8(), fixture.sandboxes.delete(id));
    deleted.unwrap();
    let error = read.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(error.to_string().contains("was deleted during the operation"), "{error}");
    fixture.close().await;
}

#[tokio::test]
async fn metrics_come_from_the_guest() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let metrics = fixture.sandboxes.handle(id).metrics().await.unwrap();
    assert!(metrics.memory_total_bytes > 0 && metrics.cpu_count > 0, "{metrics:?}");
    let refused = fixture.sandboxes.get(SandboxId::random()).map(drop);
    assert!(matches!(refused, Err(Unknown(_))));
    fixture.close().await;
}

#[tokio::test]
async fn console_log_is_followed_until_the_sandbox_ends() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let log = fixture.sandboxes.get(id).unwrap().view().dir.join("vm.log");
    std::fs::write(&log, "one\ntwo\n").unwrap();
    let mut once = fixture.sandboxes.handle(id).console_log(Some(1), false).await.unwrap();
    assert_eq!(once.next().await.as_deref(), Some("two\n"));
    assert_eq!(once.next().await, None);
    let mut followed = fixture.sandboxes.handle(id).console_log(Some(0), true).await.unwrap();
    std::fs::write(&log, "one\ntwo\nthree\n").unwrap();
    assert_eq!(followed.next().await.as_deref(), Some("three\n"));
    fixture.sandboxes.delete(id).await.unwrap();
    while followed.next().await.is_some() {}
    fixture.close().await;
}
