//! A process at the other end of one WebSocket.
//!
//! A connection that breaks is made anew from the event after the last one seen, so that none
//! is lost and none comes twice.

use std::time::Duration;

use bytes::Bytes;
use emberd_api::{
    ProcessEvent, ProcessEventKind, ProcessWord, SignalName, SignalProcess, TtySize, paths,
};
use futures::{SinkExt as _, StreamExt as _};
use hyper::StatusCode;
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::either::Either;

use crate::client::{Client, ClientError};
use crate::link;

/// Attempts to come back in a row, after which the connection is taken for lost.
const RETURNS_MAX: u32 = 6;

/// Pause before the first of them; each further one is twice as long.
const RETURN_PAUSE: Duration = Duration::from_millis(50);

/// Most bytes of standard input in one message (64 KiB).
const INPUT_BYTES_MAX: usize = 64 << 10;

/// Status of the answer that a socket's messages are part of.
const SWITCHED: StatusCode = StatusCode::SWITCHING_PROTOCOLS;

type Socket = WebSocketStream<Either<TcpStream, UnixStream>>;

/// See the module.
#[derive(Debug)]
pub struct Attachment {
    client: Client,
    id: String,
    pid: u32,
    /// Number of the next event wanted.
    next: u64,
    /// None between two connections.
    socket: Option<Socket>,
    ended: bool,
}

impl Attachment {
    pub(crate) async fn open(
        client: Client,
        id: &str,
        pid: u32,
        from: u64,
    ) -> Result<Self, ClientError> {
        let socket = connect(&client, id, pid, from).await?;
        let id = id.to_owned();
        Ok(Self { client, id, pid, next: from, socket: Some(socket), ended: false })
    }

    /// The next event; none after the process's end. Cancel safe.
    ///
    /// # Errors
    /// When the connection broke and could not be made anew, or the daemon refuses.
    pub async fn event(&mut self) -> Result<Option<ProcessEvent>, ClientError> {
        let mut returns = 0;
        while !self.ended {
            let Some(socket) = &mut self.socket else {
                match connect(&self.client, &self.id, self.pid, self.next).await {
                    Ok(socket) => self.socket = Some(socket),
                    Err(error @ (ClientError::Api { .. } | ClientError::Foreign { .. })) => {
                        return Err(error);
                    }
                    Err(error) if returns >= RETURNS_MAX => return Err(error),
                    Err(_) => {
                        tokio::time::sleep(RETURN_PAUSE * (1 << returns)).await;
                        returns += 1;
                    }
                }
                continue;
            };
            match socket.next().await {
                Some(Ok(Message::Text(json))) => {
                    let event: ProcessEvent = serde_json::from_str(&json)
                        .map_err(|error| self.client.protocol(SWITCHED, error))?;
                    self.next = event.id.saturating_add(1);
                    self.ended = matches!(event.kind, ProcessEventKind::Exit(_));
                    return Ok(Some(event));
                }
                Some(Ok(Message::Close(Some(frame)))) if frame.code == CloseCode::Policy => {
                    self.ended = true;
                    return Err(self.client.broken(frame.reason.as_str().to_owned()));
                }
                Some(Ok(Message::Close(Some(frame)))) if frame.code == CloseCode::Normal => {
                    self.ended = true;
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => self.socket = None,
                Some(Ok(_)) => {}
            }
        }
        Ok(None)
    }

    /// Writes to the process's standard input. A program that reads none of it for a mebibyte
    /// ends the attachment; [`Client::write_stdin`] waits instead.
    ///
    /// # Errors
    /// When the connection is broken: [`Self::event`] makes it anew.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        for piece in bytes.chunks(INPUT_BYTES_MAX) {
            self.send(Message::Binary(Bytes::copy_from_slice(piece))).await?;
        }
        Ok(())
    }

    /// Ends its standard input; a terminal is sent Ctrl-D.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn end_input(&mut self) -> Result<(), ClientError> {
        self.say(&ProcessWord::StdinEnd).await
    }

    /// Sends a signal to the process and all it started.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn signal(&mut self, signal: SignalName) -> Result<(), ClientError> {
        self.say(&ProcessWord::Signal(SignalProcess { signal })).await
    }

    /// Changes the size of its terminal.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn resize(&mut self, size: TtySize) -> Result<(), ClientError> {
        self.say(&ProcessWord::Resize(size)).await
    }

    async fn say(&mut self, word: &ProcessWord) -> Result<(), ClientError> {
        let json = serde_json::to_string(word).expect("words have string keys only");
        self.send(Message::Text(json.into())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), ClientError> {
        let Some(socket) = &mut self.socket else {
            return Err(self.client.broken("the connection is being made anew"));
        };
        socket.send(message).await.map_err(|error| self.client.broken(error))
    }
}

async fn connect(client: &Client, id: &str, pid: u32, from: u64) -> Result<Socket, ClientError> {
    let stream = link::connect(client.address()).await;
    let stream = stream.map_err(|error| client.unanswered(error))?;
    let path = paths::process(paths::PROCESS_EVENTS, id, pid);
    let mut request = format!("ws://emberd{path}?from={from}")
        .into_client_request()
        .map_err(|error| client.broken(error))?;
    request.headers_mut().insert("host", HeaderValue::clone(client.host()));
    match client_async(request, stream.into_inner()).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(answer)) => {
            Err(client.refused(answer.status(), answer.body().as_deref().unwrap_or_default()))
        }
        Err(error) => Err(client.broken(error)),
    }
}
