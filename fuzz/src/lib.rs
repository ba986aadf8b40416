//! Scripted guests: the host's half of the wire over a stream whose other end sends the fuzzer's
//! messages.
//!
//! The clock is paused and advances only while every task waits, so time limits take no time.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use emberd_guest::{End, Guest, Host, Link};
use emberd_proto::message::GENERATION;
use emberd_proto::{Decoder, Frame, GuestMessage, HostMessage, Kind, Welcome, frame};
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// Longest wait for an operation in a guest, by the paused clock.
const ALL_MAX: Duration = Duration::from_secs(40_000);

/// A guest at the other end of a pipe.
pub type ScriptedGuest = Guest<DuplexStream>;

/// Answers of a guest, one for each frame of its host that needs an answer.
pub type Script = Arc<Mutex<VecDeque<Vec<u8>>>>;

/// Runs scripted guests.
struct ScriptHost {
    script: Script,
    /// Cancelled once the guest broke the protocol.
    ended: CancellationToken,
    closing: CancellationToken,
}

impl Host<DuplexStream> for ScriptHost {
    fn connect(&self) -> BoxFuture<'_, Result<DuplexStream, Box<dyn Error + Send + Sync>>> {
        Box::pin(async { Ok(open(&self.script)) })
    }

    fn ended(&self) -> BoxFuture<'static, End> {
        let ended = self.ended.clone();
        Box::pin(async move {
            ended.cancelled_owned().await;
            End::Gone("it was ended".to_owned())
        })
    }

    fn deleted(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.ended.clone().cancelled_owned())
    }

    fn closing(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.closing.clone().cancelled_owned())
    }

    fn end(&self) {
        self.ended.cancel();
    }

    fn stir(&self) {}
}

fn open(script: &Script) -> DuplexStream {
    let (host, guest) = tokio::io::duplex(256 << 10);
    tokio::spawn(speak(guest, Arc::clone(script)));
    host
}

/// Greets, then sends the next answer of the script for each message of the host.
async fn speak(mut stream: DuplexStream, script: Script) {
    let mut decoder = Decoder::default();
    loop {
        while let Ok(Some(heard)) = decoder.next_frame() {
            let said = match answer(&heard) {
                Some(said) => said,
                None => script.lock().unwrap().pop_front().unwrap_or_default(),
            };
            if stream.write_all(&said).await.is_err() {
                return;
            }
        }
        if stream.read_buf(decoder.buffer()).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

/// Answers that are the same for every guest, outside of the fuzzer's control.
fn answer(heard: &Frame) -> Option<Vec<u8>> {
    match heard.message() {
        Ok(HostMessage::Hello { .. }) => {
            let agent_version = "script".to_owned();
            let welcome = Welcome {
                generation: GENERATION,
                agent_version,
                init_started_us: None,
                serving_us: None,
            };
            let mut out = BytesMut::new();
            frame::encode_message(&GuestMessage::Welcome(welcome), &mut out);
            Some(out.to_vec())
        }
        // A guest does not answer most streamed frames.
        _ if heard.kind == Kind::Stdin => Some(Vec::new()),
        _ => None,
    }
}

/// Runs `what` in a new guest that sends `script`.
///
/// # Panics
/// When `what` does not end.
pub fn with_guest<F: Future<Output = ()>>(
    script: VecDeque<Vec<u8>>,
    what: impl FnOnce(ScriptedGuest, CancellationToken) -> F,
) {
    runtime().block_on(async {
        let script = Script::new(Mutex::new(script));
        let (first, _) = Link::greet(open(&script)).await.unwrap();
        let closing = CancellationToken::new();
        let host = ScriptHost { script, ended: CancellationToken::new(), closing: closing.clone() };
        let guest = Guest::new("sb_000000000000".to_owned(), host, first);
        tokio::time::timeout(ALL_MAX, what(guest, closing)).await.unwrap();
    });
}

fn runtime() -> Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap()
}
