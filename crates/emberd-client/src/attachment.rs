//! A process at the other end of one WebSocket.
//!
//! A connection that breaks is opened again from the event after the last one received, so that no
//! event is lost or repeated.

use std::time::Duration;

use bytes::Bytes;
use emberd_api::{
    ProcessEvent, ProcessEventKind, ProcessMessage, SignalName, SignalProcess, TtySize, paths,
};
use futures::{SinkExt as _, StreamExt as _};
use hyper::StatusCode;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::either::Either;

use crate::client::{Client, ClientError};

/// Most attempts in a row to connect again.
const RETURNS_MAX: u32 = 6;

/// Pause before the first attempt. Each further pause is twice as long.
const RETURN_PAUSE: Duration = Duration::from_millis(50);

/// Most bytes of standard input in one message (64 KiB).
const INPUT_BYTES_MAX: usize = 64 << 10;

/// Status of the response that a WebSocket's messages belong to.
const SWITCHED: StatusCode = StatusCode::SWITCHING_PROTOCOLS;

type Socket = WebSocketStream<Either<Either<TcpStream, UnixStream>, TlsStream<TcpStream>>>;

/// A process at the other end of one WebSocket.
#[derive(Debug)]
pub struct Attachment {
    client: Client,
    id: String,
    pid: u32,
    /// Number of the next event to receive.
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

    /// Waits for the next event; none after the end of the process. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError`] if the connection broke and could not be opened again, or the daemon refuses
    /// it.
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

    /// Writes to the standard input of the process. A mebibyte that the program does not read ends
    /// the attachment; [`Client::write_stdin`] waits instead.
    ///
    /// # Errors
    /// [`ClientError::Broken`] if the connection is broken; [`Self::event`] opens it again.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        for piece in bytes.chunks(INPUT_BYTES_MAX) {
            self.send(Message::Binary(Bytes::copy_from_slice(piece))).await?;
        }
        Ok(())
    }

    /// Ends the standard input of the process. A terminal receives Ctrl-D.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn end_input(&mut self) -> Result<(), ClientError> {
        self.say(&ProcessMessage::StdinEnd).await
    }

    /// Sends a signal to the process and all it started.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn signal(&mut self, signal: SignalName) -> Result<(), ClientError> {
        self.say(&ProcessMessage::Signal(SignalProcess { signal })).await
    }

    /// Changes the size of the terminal.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn resize(&mut self, size: TtySize) -> Result<(), ClientError> {
        self.say(&ProcessMessage::Resize(size)).await
    }

    async fn say(&mut self, message: &ProcessMessage) -> Result<(), ClientError> {
        let json = serde_json::to_string(message).expect("messages have string keys only");
        self.send(Message::Text(json.into())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), ClientError> {
        let Some(socket) = &mut self.socket else {
            return Err(self.client.broken("the connection is being opened again"));
        };
        socket.send(message).await.map_err(|error| self.client.broken(error))
    }
}

async fn connect(client: &Client, id: &str, pid: u32, from: u64) -> Result<Socket, ClientError> {
    let stream = client.links.connect(client.address(), &client.security).await;
    let stream = stream.map_err(|error| client.unanswered(error))?;
    let path = paths::process(paths::PROCESS_EVENTS, id, pid);
    let mut request = format!("ws://emberd{path}?from={from}")
        .into_client_request()
        .map_err(|error| client.broken(error))?;
    request.headers_mut().insert("host", HeaderValue::clone(client.host()));
    if let Some(key) = &client.key {
        request.headers_mut().insert("authorization", key.field().clone());
    }
    match client_async(request, stream.into_inner()).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(answer)) => {
            Err(client.refused(answer.status(), answer.body().as_deref().unwrap_or_default()))
        }
        Err(error) => Err(client.broken(error)),
    }
}
