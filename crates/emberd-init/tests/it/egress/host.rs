//! A host at the other end of the egress session, which does what a script says.

use std::future::poll_fn;
use std::io::Cursor;
use std::net::{IpAddr, Shutdown};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use emberd_proto::egress::{EgressAnswer, EgressCapture, EgressReason, EgressRequest};
use emberd_proto::egress::{decode_frame, encode_frame, frame_bytes};
use emberd_proto::{GuestMessage, HostMessage};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};

use crate::guest::Guest;

/// The host's part of one stream.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Answers with addresses.
    Resolved(Vec<IpAddr>),
    /// Refuses.
    Refused(EgressReason),
    /// Sends back what it gets, in upper case, and ends when the guest does.
    Echo,
    /// Sends these bytes and ends at once, then reads to the guest's end.
    Say(&'static str),
    /// Sends these bytes and resets.
    Reset(&'static str),
    /// Keeps the stream open, and sends nothing after this.
    Hold(&'static str),
}

type Script = dyn Fn(&EgressRequest) -> Reply + Send + Sync;

/// A running session. Dropping it ends it.
pub struct Session {
    stream: UnixStream,
    /// Every request, in order.
    pub requests: Receiver<EgressRequest>,
    thread: Option<JoinHandle<()>>,
}

impl Session {
    /// Asks `guest` for a session.
    pub fn open(
        guest: &Guest,
        script: impl Fn(&EgressRequest) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let mut host = guest.greet();
        host.send(&HostMessage::Egress);
        assert_eq!(host.answer(), GuestMessage::Egress(EgressCapture::Ready));
        // A guest whose programs wait speaks at once.
        let (raw, ahead) = host.into_raw();
        let stream = raw.try_clone().unwrap();
        let (told, requests) = channel();
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(raw, ahead, Arc::new(script), told));
        });
        Self { stream, requests, thread: Some(thread) }
    }

    /// The opened destinations so far, with the claimed names.
    pub fn opens(&self) -> Vec<(String, Vec<String>)> {
        let of = |request| match request {
            EgressRequest::Open { address, port, names } => {
                Some((format!("{address} {port}"), names))
            }
            _ => None,
        };
        self.requests.try_iter().filter_map(of).collect()
    }

    /// Waits until the guest has ended the session.
    pub fn join(mut self) {
        self.thread.take().expect("joined once").join().unwrap();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stream.shutdown(Shutdown::Both).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn serve(
    stream: UnixStream,
    ahead: Vec<u8>,
    script: Arc<Script>,
    told: Sender<EgressRequest>,
) {
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::UnixStream::from_std(stream).unwrap();
    let (reader, writer) = stream.into_split();
    let stream = tokio::io::join(Cursor::new(ahead).chain(reader), writer);
    let mut config = yamux::Config::default();
    config.set_max_num_streams(4096);
    let mut session = yamux::Connection::new(stream.compat(), config, yamux::Mode::Server);
    while let Some(Ok(stream)) = poll_fn(|context| session.poll_next_inbound(context)).await {
        let (script, told) = (Arc::clone(&script), told.clone());
        tokio::spawn(async move {
            // A guest that resets a stream is not an error.
            act(stream.compat(), &script, &told).await.ok();
        });
    }
}

async fn act(
    mut stream: Compat<yamux::Stream>,
    script: &Arc<Script>,
    told: &Sender<EgressRequest>,
) -> std::io::Result<()> {
    let mut header = [0; 2];
    stream.read_exact(&mut header).await?;
    let mut json = vec![0; frame_bytes(header).unwrap()];
    stream.read_exact(&mut json).await?;
    let request: EgressRequest = decode_frame(&json).unwrap();
    let reply = script(&request);
    told.send(request).ok();
    let answer = match &reply {
        Reply::Resolved(addresses) => {
            EgressAnswer::Resolved { addresses: addresses.clone(), ttl_s: 60 }
        }
        Reply::Refused(reason) => EgressAnswer::Refused { reason: *reason },
        _ => EgressAnswer::Opened,
    };
    stream.write_all(&encode_frame(&answer).unwrap()).await?;
    let mut chunk = vec![0; 64 << 10];
    match reply {
        Reply::Resolved(_) | Reply::Refused(_) => stream.shutdown().await,
        Reply::Echo => loop {
            match stream.read(&mut chunk).await? {
                0 => return stream.shutdown().await,
                bytes => stream.write_all(&chunk[..bytes].to_ascii_uppercase()).await?,
            }
        },
        Reply::Say(text) => {
            stream.write_all(text.as_bytes()).await?;
            stream.shutdown().await?;
            while stream.read(&mut chunk).await? > 0 {}
            Ok(())
        }
        Reply::Reset(text) => {
            stream.write_all(text.as_bytes()).await?;
            stream.flush().await
        }
        Reply::Hold(text) => {
            stream.write_all(text.as_bytes()).await?;
            stream.flush().await?;
            std::future::pending().await
        }
    }
}
