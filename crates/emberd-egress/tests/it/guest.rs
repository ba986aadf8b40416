//! A guest's agent, as far as sessions see it: yamux's own client.

use std::future::poll_fn;
use std::net::IpAddr;
use std::task::Poll;

use emberd_egress::SandboxEgress;
use emberd_proto::egress::{
    EgressAnswer, EgressFamily, EgressRequest, decode_frame, encode_frame, frame_bytes,
};
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use yamux::{Config, Connection, Mode};

use crate::world::WAIT_MAX;

/// Capacity of the channel, in bytes.
const CHANNEL_BYTES: usize = 256 << 10;

/// Dropping it ends its session.
pub struct Guest {
    requests: mpsc::Sender<oneshot::Sender<yamux::Stream>>,
}

impl Guest {
    /// Begins a session.
    pub fn of(sandbox: &SandboxEgress) -> Self {
        let (near, far) = tokio::io::duplex(CHANNEL_BYTES);
        let sandbox = sandbox.clone();
        tokio::spawn(async move { sandbox.serve(near).await });
        let (requests, asked) = mpsc::channel(1);
        let mut config = Config::default();
        config.set_max_num_streams(4096);
        config.set_max_connection_receive_window(None);
        let session = Connection::new(far.compat(), config, Mode::Client);
        tokio::spawn(drive(session, asked));
        Self { requests }
    }

    /// Opens a stream, which says nothing yet.
    pub async fn stream(&self) -> yamux::Stream {
        let (reply, stream) = oneshot::channel();
        self.requests.send(reply).await.unwrap();
        timeout(WAIT_MAX, stream).await.unwrap().unwrap()
    }

    /// Asks for a connection.
    pub async fn open(&self, address: IpAddr, port: u16, names: &[&str]) -> Stream {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let mut stream = Stream(self.stream().await);
        stream.send(&encode_frame(&EgressRequest::Open { address, port, names }).unwrap()).await;
        stream
    }

    /// Asks for the addresses of a name.
    pub async fn resolve(&self, name: &str, family: EgressFamily) -> EgressAnswer {
        let mut stream = Stream(self.stream().await);
        let request = EgressRequest::Resolve { name: name.to_owned(), family };
        stream.send(&encode_frame(&request).unwrap()).await;
        stream.answer().await
    }
}

async fn drive(
    mut session: Connection<tokio_util::compat::Compat<tokio::io::DuplexStream>>,
    mut asked: mpsc::Receiver<oneshot::Sender<yamux::Stream>>,
) {
    let mut waiting: Option<oneshot::Sender<_>> = None;
    poll_fn(|context| {
        loop {
            if waiting.is_none() {
                match asked.poll_recv(context) {
                    Poll::Ready(Some(request)) => waiting = Some(request),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            if waiting.is_some() {
                match session.poll_new_outbound(context) {
                    Poll::Ready(Ok(stream)) => {
                        drop(waiting.take().map(|request| request.send(stream)));
                        continue;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            return session.poll_next_inbound(context).map(|_| ());
        }
    })
    .await;
}

/// A connection, as a guest's program sees it.
pub struct Stream(pub yamux::Stream);

impl Stream {
    pub async fn send(&mut self, bytes: &[u8]) {
        timeout(WAIT_MAX, self.0.write_all(bytes)).await.unwrap().unwrap();
        self.0.flush().await.unwrap();
    }

    pub async fn finish(&mut self) {
        self.0.close().await.unwrap();
    }

    pub async fn answer(&mut self) -> EgressAnswer {
        let mut header = [0; 2];
        timeout(WAIT_MAX, self.0.read_exact(&mut header)).await.unwrap().unwrap();
        let mut json = vec![0; frame_bytes(header).unwrap()];
        self.0.read_exact(&mut json).await.unwrap();
        decode_frame(&json).unwrap()
    }

    pub async fn opened(&mut self) {
        assert_eq!(self.answer().await, EgressAnswer::Opened);
    }

    pub async fn read_exact(&mut self, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        timeout(WAIT_MAX, self.0.read_exact(&mut read)).await.unwrap().unwrap();
        read
    }

    /// Everything up to the end, in order or not.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        timeout(WAIT_MAX, self.0.read_to_end(&mut rest)).await.unwrap().unwrap();
        rest
    }

    /// Waits for the end, which must be a reset. The guest has not ended its direction.
    pub async fn reset(&mut self) {
        self.rest().await;
        assert!(self.0.is_closed(), "an end of data, not a reset");
    }
}
