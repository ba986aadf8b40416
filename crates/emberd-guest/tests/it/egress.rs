//! The egress session of a guest that says what a script holds.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::BytesMut;
use emberd_guest::{EgressLink, Guest, GuestError, Link};
use emberd_proto::message::GENERATION;
use emberd_proto::{
    Decoder, EgressCapture, GuestMessage, HostMessage, Refusal, RefusalCode, Welcome, frame,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_util::sync::CancellationToken;

use crate::host::TestHost;

fn encode(message: &GuestMessage) -> BytesMut {
    let mut out = BytesMut::new();
    frame::encode_message(message, &mut out);
    out
}

fn welcome() -> BytesMut {
    encode(&GuestMessage::Welcome(Welcome {
        generation: GENERATION,
        agent_version: "script".to_owned(),
        init_started_us: None,
        serving_us: None,
    }))
}

/// Greets, answers the request for egress, says more, and sends back what comes then.
async fn speak(mut stream: DuplexStream, answer: GuestMessage, more: &'static [u8]) {
    stream.write_all(&welcome()).await.unwrap();
    let mut decoder = Decoder::default();
    loop {
        while let Ok(Some(frame)) = decoder.next_frame() {
            if let Ok(HostMessage::Egress) = frame.message() {
                // In one write: what follows the answer comes with it.
                let said = [&encode(&answer), more].concat();
                stream.write_all(&said).await.unwrap();
                let (mut reader, mut writer) = tokio::io::split(stream);
                tokio::io::copy(&mut reader, &mut writer).await.ok();
                return;
            }
        }
        if stream.read_buf(decoder.buffer()).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

/// A guest with an idle connection, of which later ones answer a request for egress.
async fn guest(
    answer: GuestMessage,
    more: &'static [u8],
) -> (Guest<DuplexStream>, Arc<AtomicBool>) {
    let (host, mut first) = tokio::io::duplex(1 << 16);
    first.write_all(&welcome()).await.unwrap();
    let (link, _) = Link::greet(host).await.unwrap();
    let broke = Arc::new(AtomicBool::new(false));
    // Kept open with the host.
    let first = Arc::new(first);
    let host = TestHost {
        connect: Box::new(move || {
            let (answer, first) = (answer.clone(), Arc::clone(&first));
            Box::pin(async move {
                let (near, far) = tokio::io::duplex(1 << 16);
                tokio::spawn(async move {
                    speak(far, answer, more).await;
                    drop(first);
                });
                Ok(near)
            })
        }),
        ended: CancellationToken::new(),
        closing: CancellationToken::new(),
        broke: Arc::clone(&broke),
    };
    (Guest::new("test".to_owned(), host, link), broke)
}

#[tokio::test]
async fn the_session_begins_right_after_the_answer() {
    let (guest, _) = guest(GuestMessage::Egress(EgressCapture::Ready), b"first").await;
    let Ok(EgressLink::Ready(mut stream)) = guest.egress().await else { panic!("no session") };
    let mut ahead = [0; 5];
    stream.read_exact(&mut ahead).await.unwrap();
    assert_eq!(&ahead, b"first");
    stream.write_all(b"echo").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"echo");
    // The idle connection is for execs.
    assert!(guest.is_idle());
}

#[tokio::test]
async fn guests_that_capture_nothing_say_why() {
    let why = "the kernel has no BPF".to_owned();
    let unavailable = GuestMessage::Egress(EgressCapture::Unavailable { why: why.clone() });
    let (capturing, _) = guest(unavailable, b"").await;
    let answer = capturing.egress().await;
    assert!(matches!(answer, Ok(EgressLink::Unavailable { why: said }) if said == why));
    let refusal = |code| GuestMessage::Refused(Refusal { code, message: "no".to_owned() });
    let (older, _) = guest(refusal(RefusalCode::UnknownOperation), b"").await;
    let answer = older.egress().await;
    assert!(matches!(answer, Ok(EgressLink::Unavailable { why }) if why.contains("initramfs")));
    let (failing, _) = guest(refusal(RefusalCode::Failed), b"").await;
    assert!(matches!(failing.egress().await, Err(GuestError::Refused(_))));
}

#[tokio::test]
async fn a_guest_that_answers_something_else_is_ended() {
    let (guest, broke) = guest(GuestMessage::Pong, b"").await;
    assert!(matches!(guest.egress().await, Err(GuestError::Failed { .. })));
    assert!(broke.load(std::sync::atomic::Ordering::Relaxed));
}
