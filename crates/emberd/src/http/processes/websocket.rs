//! A process over one WebSocket: its events one way, input, signals and sizes the other.
//!
//! Signals and sizes are passed on at once. Standard input waits for the program, up to a limit
//! beyond which the socket is closed: `POST …/stdin` waits where a program does not read.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use bytes::Bytes;
use emberd_api::{ProcessMessage, WEBSOCKET_MESSAGE_BYTES_MAX};
use emberd_sandbox::{Handle, Process, ProcessError};
use futures::SinkExt as _;
use futures::future::pending;
use futures::stream::{SplitSink, SplitStream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::json;
use super::super::views::IntoBody as _;

/// Most standard input that waits for the program here, in bytes (1 MiB). The guest keeps some too.
const STDIN_BYTES_MAX: usize = WEBSOCKET_MESSAGE_BYTES_MAX;

/// How long the close frame may take to be sent.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// A process, and the sandbox it is in.
pub struct Attached {
    pub sandbox: Handle,
    pub process: Process,
}

/// Why the daemon closes a socket.
struct Closing {
    code: u16,
    reason: String,
}

/// A piece of standard input, or its end, that waits for the program.
struct Input {
    bytes: Option<Bytes>,
    _room: OwnedSemaphorePermit,
}

/// Accepts the upgrade. The socket keeps `permit` to its end.
pub fn serve(
    upgrade: WebSocketUpgrade,
    attached: Attached,
    from: u64,
    closing: CancellationToken,
    permit: OwnedSemaphorePermit,
) -> Response {
    let upgrade = upgrade
        .max_message_size(WEBSOCKET_MESSAGE_BYTES_MAX)
        .max_frame_size(WEBSOCKET_MESSAGE_BYTES_MAX);
    upgrade.on_upgrade(async move |socket| {
        converse(socket, attached, from, closing).await;
        drop(permit);
    })
}

async fn converse(socket: WebSocket, attached: Attached, from: u64, closing: CancellationToken) {
    let (mut sink, stream) = socket.split();
    let end = tokio::select! {
        end = tell(&mut sink, &attached, from) => end,
        end = listen(stream, &attached) => end,
        () = closing.cancelled() => Some(Closing {
            code: close_code::AWAY,
            reason: "the daemon is shutting down".to_owned(),
        }),
    };
    if let Some(Closing { code, reason }) = end {
        let frame = CloseFrame { code, reason: reason.into() };
        // The client may have left, or take nothing.
        timeout(CLOSE_MAX, sink.send(Message::Close(Some(frame)))).await.ok();
    }
}

/// Sends every event. Returns `None` when the client has left.
async fn tell(
    sink: &mut SplitSink<WebSocket, Message>,
    Attached { sandbox, process }: &Attached,
    from: u64,
) -> Option<Closing> {
    let mut events = process.events(from);
    while let Some(event) = events.next().await {
        let event = (process.pid(), event).into_body();
        let json = serde_json::to_string(&event).expect("events have string keys only");
        sandbox.stir();
        sink.send(Message::Text(json.into())).await.ok()?;
    }
    Some(Closing { code: close_code::NORMAL, reason: "the process has ended".to_owned() })
}

/// Passes on what the client sends. Returns `None` when it has left.
async fn listen(
    mut stream: SplitStream<WebSocket>,
    Attached { sandbox, process }: &Attached,
) -> Option<Closing> {
    let (input, waiting) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(STDIN_BYTES_MAX));
    let listen = async {
        loop {
            let message = match stream.next().await? {
                Ok(message) => message,
                Err(error) => return Some(violation(error.to_string())),
            };
            let said = match message {
                Message::Binary(bytes) => {
                    sandbox.knock();
                    give(&input, &room, Some(bytes))
                }
                Message::Text(json) => match json::parse(json.as_bytes()) {
                    Ok(word) => {
                        sandbox.knock();
                        say(&input, &room, process, word).await
                    }
                    Err(error) => {
                        Err(violation(format!("malformed message for the process: {error}")))
                    }
                },
                // Pings are answered below this.
                Message::Ping(_) | Message::Pong(_) => Ok(()),
                Message::Close(_) => return None,
            };
            if let Err(closing) = said {
                return Some(closing);
            }
        }
    };
    tokio::select! {
        end = listen => end,
        never = write(waiting, process) => match never {},
    }
}

async fn say(
    input: &mpsc::UnboundedSender<Input>,
    room: &Arc<Semaphore>,
    process: &Process,
    word: ProcessMessage,
) -> Result<(), Closing> {
    let said = match word {
        ProcessMessage::Stdin { text } => return give(input, room, Some(text.into())),
        ProcessMessage::StdinEnd => return give(input, room, None),
        ProcessMessage::Signal(body) => process.signal(body.signal).await,
        ProcessMessage::Resize(size) => process.resize(size).await,
    };
    match said {
        Ok(()) | Err(ProcessError::Ended(_)) => Ok(()),
        Err(error) => Err(violation(error.to_string())),
    }
}

/// Queues `bytes`, or the end of input, for the program. Each counts as at least one byte.
fn give(
    input: &mpsc::UnboundedSender<Input>,
    room: &Arc<Semaphore>,
    bytes: Option<Bytes>,
) -> Result<(), Closing> {
    let amount = bytes.as_ref().map_or(1, |bytes| bytes.len().max(1));
    let amount = u32::try_from(amount).unwrap_or(u32::MAX);
    let Ok(room) = Arc::clone(room).try_acquire_many_owned(amount) else {
        let reason = "the process does not read its input: use POST .../stdin, which waits";
        return Err(violation(reason.to_owned()));
    };
    // The receiver lives as long as the sender.
    input.send(Input { bytes, _room: room }).ok();
    Ok(())
}

/// Writes what is queued to the program, without end. Input that the program can no longer take
/// is dropped.
async fn write(mut waiting: mpsc::UnboundedReceiver<Input>, process: &Process) -> Infallible {
    while let Some(Input { bytes, _room }) = waiting.recv().await {
        // Locked for one piece, so that other clients can write too.
        let Ok(mut stdin) = process.stdin().await else { continue };
        match bytes {
            Some(bytes) => stdin.write(bytes).await.ok(),
            None => stdin.end().await.ok(),
        };
    }
    pending().await
}

fn violation(mut reason: String) -> Closing {
    // A control frame has room for 125 bytes, of which two are the code (RFC 6455 §5.5).
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    Closing { code: close_code::POLICY, reason }
}
