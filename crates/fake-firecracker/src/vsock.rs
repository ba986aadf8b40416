//! The hybrid vsock. Connections from the host use a Unix socket with `CONNECT <port>`;
//! connections from the guest go to `<uds_path>_<port>`. reference §5.
//!
//! ```text
//! bound ──guest loads its driver──▶ serving ◀──resume── paused
//!   connections wait unanswered      answered            wait unanswered
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::marks;

/// Maximum number of connections of one VM; further ones are accepted and closed. reference §5.
const CONNECTIONS_MAX: usize = 1023;
/// Host ports are in [2^30, 2^31). reference §5.
const HOST_PORT_MIN: u32 = 1 << 30;
/// Minimum length of a `CONNECT` line, which is read at once: `CONNECT 1
/// `. reference §5.
const LINE_BYTES_MIN: usize = 10;
/// Maximum length of a `CONNECT` line. reference §5.
const LINE_BYTES_MAX: usize = 32;
/// Pause between attempts to connect to an agent that restarts after a load. A real one listens
/// at once.
const LISTENER_RETRY: Duration = Duration::from_millis(1);
/// Interval between two looks for a connection that waits to be accepted.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Read size, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// Configuration of a device.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Path of the host's socket.
    pub uds_path: PathBuf,
    /// Directory with a socket `port_<n>` for each port that a guest process listens on.
    pub guest_dir: PathBuf,
    /// Whether to behave as if nothing listens in the guest.
    pub no_listener: bool,
    /// Number of bytes after which a stream from the guest ends.
    pub cut: Option<usize>,
    /// The last host port that was assigned, or 0.
    pub host_port_last: u32,
}

impl Settings {
    fn guest_port(&self, port: u32) -> PathBuf {
        self.guest_dir.join(format!("port_{port}"))
    }
}

/// State of the device.
#[derive(Debug, Clone, Copy, Default)]
struct Control {
    /// Whether the guest's driver is loaded.
    active: bool,
    /// Whether the VM is running.
    running: bool,
    /// Whether the guest misses new connections (a fault of some versions).
    deaf: bool,
    /// Incremented by each reset of all connections.
    epoch: u32,
}

impl Control {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the shape `wait_for` asks for")]
    fn serves(control: &Self) -> bool {
        control.active && control.running && !control.deaf
    }
}

/// The device, with its socket bound. Dropping it closes the socket and leaves the file, because
/// Firecracker never unlinks it. reference §1.1.
#[derive(Debug)]
pub struct Device {
    shared: Shared,
    control: watch::Sender<Control>,
    accepting: JoinSet<()>,
}

/// State that all connections share.
#[derive(Debug, Clone)]
struct Shared {
    settings: Arc<Settings>,
    host_port_last: Arc<AtomicU32>,
    connections: Arc<AtomicUsize>,
    control: watch::Receiver<Control>,
}

impl Device {
    /// Binds the socket at once, as `PUT /vsock` and loading do. reference §1.2, §5.
    ///
    /// # Errors
    /// If it cannot be bound, for example because the file exists.
    pub fn bind(settings: Settings) -> io::Result<Self> {
        let listener = UnixListener::bind(&settings.uds_path)?;
        let (control, receiver) = watch::channel(Control::default());
        let shared = Shared {
            host_port_last: Arc::new(AtomicU32::new(settings.host_port_last)),
            settings: Arc::new(settings),
            connections: Arc::default(),
            control: receiver,
        };
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, shared.clone(), Shared::serve_host, Some("waiting")));
        Ok(Self { shared, control, accepting })
    }

    /// Accepts connections from the guest: its processes connect to `listener`.
    pub fn serve_guest(&mut self, listener: UnixListener) {
        self.accepting.spawn(accept(listener, self.shared.clone(), Shared::serve_guest, None));
    }

    /// Treats each connection to `listener` as one from the guest to `port` of the host.
    pub fn serve_dials(&mut self, listener: UnixListener, port: u32) {
        let dial = move |shared: Shared, guest| shared.serve_dial(guest, port);
        self.accepting.spawn(accept(listener, self.shared.clone(), dial, None));
    }

    /// Loads the guest's driver after `boot`.
    pub fn activate_after(&self, boot: Duration) {
        let control = self.control.clone();
        tokio::spawn(async move {
            tokio::time::sleep(boot).await;
            control.send_modify(|control| control.active = true);
        });
    }

    /// Loads the guest's driver at once, with a listener on `port`, as before a snapshot.
    pub fn activate_with_listener(&self, port: u32) {
        let (control, path) = (self.control.clone(), self.shared.settings.guest_port(port));
        tokio::spawn(async move {
            while UnixStream::connect(&path).await.is_err() && !control.is_closed() {
                tokio::time::sleep(LISTENER_RETRY).await;
            }
            control.send_modify(|control| control.active = true);
        });
    }

    /// Sets whether the VM, and with it the device, is running.
    pub fn set_running(&self, running: bool) {
        self.control.send_modify(|control| control.running = running);
    }

    /// Stops answering new connections.
    pub fn deafen(&self) {
        self.control.send_modify(|control| control.deaf = true);
    }

    /// Closes all connections in the guest, as a snapshot does. reference §5, "Over snapshots".
    pub fn reset(&self) {
        self.control.send_modify(|control| control.epoch += 1);
    }

    /// Returns the last host port that was assigned, or 0.
    pub fn host_port_last(&self) -> u32 {
        self.shared.host_port_last.load(Ordering::Relaxed)
    }

    /// Returns the path of the host's socket.
    pub fn uds_path(&self) -> &Path {
        &self.shared.settings.uds_path
    }
}

/// Accepts connections while the device runs; otherwise they wait in the socket's backlog, and the
/// first of them makes the mark.
async fn accept<F>(
    listener: UnixListener,
    shared: Shared,
    serve: impl Fn(Shared, UnixStream) -> F + Copy + Send + 'static,
    mark: Option<&'static str>,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut control = shared.control.clone();
    while serves(&mut control, &listener, mark).await {
        tokio::select! {
            biased;
            _ = control.changed() => {}
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        if shared.connections.fetch_add(1, Ordering::Relaxed) < CONNECTIONS_MAX {
                            serve(shared.clone(), stream).await;
                        }
                        shared.connections.fetch_sub(1, Ordering::Relaxed);
                    });
                }
            }
        }
    }
}

/// Waits until the device serves; never, if it is gone.
async fn serves(
    control: &mut watch::Receiver<Control>,
    listener: &UnixListener,
    mut mark: Option<&'static str>,
) -> bool {
    loop {
        tokio::select! {
            biased;
            served = async { control.wait_for(Control::serves).await.is_ok() } => return served,
            () = somebody_waits(listener), if mark.is_some() => {
                mark.take().into_iter().for_each(marks::add);
            }
        }
    }
}

/// Returns once a connection waits to be accepted.
async fn somebody_waits(listener: &UnixListener) {
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let readable = rustix::event::PollFlags::IN;
    let waits = || {
        let mut fds = [rustix::event::PollFd::new(listener, readable)];
        rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    };
    while !waits() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

impl Shared {
    /// Every failure before the `OK` line is an EOF without a message. reference §5.
    async fn serve_host(mut self, mut host: UnixStream) {
        let Some(port) = self.read_port(&host).await else { return };
        let host_port = self.next_host_port();
        if self.settings.no_listener {
            marks::add("turned-away");
            return;
        }
        let Ok(guest) = UnixStream::connect(self.settings.guest_port(port)).await else { return };
        if host.write_all(format!("OK {host_port}\n").as_bytes()).await.is_ok() {
            self.relay(host, guest).await;
        }
    }

    /// The whole line must be available when its first bytes are; the rest is not awaited.
    /// reference §5 (`read_local_stream_port` in `vsock/unix/muxer.rs`).
    async fn read_port(&mut self, host: &UnixStream) -> Option<u32> {
        host.readable().await.ok()?;
        self.control.wait_for(Control::serves).await.ok()?;
        let mut line = [0; LINE_BYTES_MAX];
        let mut length = 0;
        while length < LINE_BYTES_MIN || line[length - 1] != b'\n' {
            // Nothing after the newline is read from the stream.
            let end = LINE_BYTES_MIN.max(length + 1).min(LINE_BYTES_MAX);
            match host.try_read(&mut line[length..end]) {
                Ok(bytes @ 1..) => length += bytes,
                // Readiness may be spurious, but only before the first byte.
                Err(error) if length == 0 && error.kind() == io::ErrorKind::WouldBlock => {
                    host.readable().await.ok()?;
                }
                _ => return None,
            }
        }
        parse_connect(&line[..length])
    }

    /// Port numbers wrap around; refused connections use one too.
    fn next_host_port(&self) -> u32 {
        let next = |last: u32| (last.wrapping_add(1) & !(1 << 31)) | HOST_PORT_MIN;
        let last = self.host_port_last.load(Ordering::Relaxed);
        self.host_port_last.store(next(last), Ordering::Relaxed);
        next(last)
    }

    /// A guest's connection has no preamble on the host's side, because the path identifies the
    /// VM. reference §5. For the guest's process, it replaces `connect(2)`.
    async fn serve_guest(self, mut guest: UnixStream) {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') && line.len() < LINE_BYTES_MAX {
            match guest.read_u8().await {
                Ok(byte) => line.push(byte),
                Err(_) => return,
            }
        }
        let Some(port) = parse_connect(&line) else { return };
        let Ok(host) = self.connect_to_host(port).await else { return };
        if guest.write_all(format!("OK {port}\n").as_bytes()).await.is_ok() {
            self.relay(host, guest).await;
        }
    }

    /// As [`Self::serve_guest`], with a known port. If nothing listens, the connection just
    /// closes.
    async fn serve_dial(self, guest: UnixStream, port: u32) {
        if !self.settings.no_listener
            && let Ok(host) = self.connect_to_host(port).await
        {
            self.relay(host, guest).await;
        }
    }

    async fn connect_to_host(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = self.settings.uds_path.clone().into_os_string();
        path.push(format!("_{port}"));
        UnixStream::connect(PathBuf::from(path)).await
    }

    /// Copies bytes both ways until either end closes. A half-close closes both directions, so
    /// remaining data from the other end is lost. reference §5.
    async fn relay(mut self, host: UnixStream, guest: UnixStream) {
        let epoch = self.control.borrow().epoch;
        let (mut host_read, mut host_write) = host.into_split();
        let (mut guest_read, mut guest_write) = guest.into_split();
        tokio::select! {
            _ = pump(&mut host_read, &mut guest_write, None) => return,
            _ = pump(&mut guest_read, &mut host_write, self.settings.cut) => return,
            _ = self.control.wait_for(|control| control.epoch != epoch) => {}
        }
        drop((guest_read, guest_write));
        // The guest drops the connection without notifying the host. The host gets a reset in
        // answer to its next data, but not while the VM is paused.
        if host_read.readable().await.is_ok() {
            self.control.wait_for(Control::serves).await.ok();
        }
    }
}

/// Copies until `limit`, the end or an error.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    limit: Option<usize>,
) -> io::Result<()> {
    let mut left = limit.unwrap_or(usize::MAX);
    let mut chunk = vec![0; CHUNK_BYTES];
    while left > 0 {
        let bytes = from.read(&mut chunk).await?.min(left);
        if bytes == 0 {
            break;
        }
        to.write_all(&chunk[..bytes]).await?;
        left = if limit.is_some() { left - bytes } else { left };
    }
    Ok(())
}

/// Parses `CONNECT`, in any case, and a port.
fn parse_connect(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
    words.next().filter(|word| word.eq_ignore_ascii_case("connect"))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_lines() {
        for (line, port) in [
            ("CONNECT 1024\n", Some(1024)),
            ("connect 1\n", Some(1)),
            ("CONNECT  7 x\n", Some(7)),
            ("CONNECT -1\n", None),
            ("CONNECT 4294967296\n", None),
            ("CONNECTS 1\n", None),
            ("CONNECT\n", None),
            ("\n", None),
        ] {
            assert_eq!(parse_connect(line.as_bytes()), port, "{line:?}");
        }
    }
}
