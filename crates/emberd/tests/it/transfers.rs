//! Transfers without end from programs in sandboxes, and a server that counts how they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use emberd_api::{ExecBody, ExecOutcome};
use emberd_client::{Client, ClientError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::wait;

/// Bytes after which a transfer is under way: more than fits in the buffers of one end.
const UNDER_WAY_BYTES: usize = 1 << 20;

/// A program that sends to `TO` and receives from it without end.
pub const TRANSFER: &str = r"
import socket, threading
s = socket.create_connection(TO)
def up():
    while True:
        s.sendall(b'x' * 65536)
threading.Thread(target=up, daemon=True).start()
while s.recv(65536):
    pass";

/// A program that is not waited for.
pub type Running = JoinHandle<Result<ExecOutcome, ClientError>>;

/// Starts a program and does not wait for it.
pub fn begin(client: &Client, id: &str, body: ExecBody) -> Running {
    let (client, id) = (client.clone(), id.to_owned());
    tokio::spawn(async move { client.exec(&id, &body).await })
}

/// The ends of connections, by count.
#[derive(Default)]
pub struct Server {
    /// Connections over which much has come.
    pub under_way: AtomicUsize,
    /// Connections that were reset.
    pub reset: AtomicUsize,
    /// Connections that ended in order.
    pub ended: AtomicUsize,
}

impl Server {
    /// Sends back what every connection brings.
    pub fn start(listener: TcpListener) -> Arc<Self> {
        let server = Arc::<Self>::default();
        tokio::spawn(Arc::clone(&server).serve(listener));
        server
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                let end = match server.echo(stream).await {
                    Ok(()) => &server.ended,
                    Err(_) => &server.reset,
                };
                end.fetch_add(1, Ordering::Relaxed);
            });
        }
    }

    async fn echo(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let (mut carried, mut piece) = (0, vec![0; 64 << 10]);
        loop {
            let bytes = stream.read(&mut piece).await?;
            if bytes == 0 {
                return stream.shutdown().await;
            }
            stream.write_all(&piece[..bytes]).await?;
            let before = carried;
            carried += bytes;
            if before < UNDER_WAY_BYTES && carried >= UNDER_WAY_BYTES {
                self.under_way.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Waits until a count has come to `most`, and no further.
pub async fn counted(count: &AtomicUsize, most: usize) {
    wait::until(async || count.load(Ordering::Relaxed) >= most).await;
    assert_eq!(count.load(Ordering::Relaxed), most);
}
