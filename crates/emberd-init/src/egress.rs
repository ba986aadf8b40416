//! Egress: what programs of the guest send to other machines goes to the host.
//!
//! ```text
//! program ─▶ route to lo ─▶ BPF program ─┬─▶ relay ────┬─▶ session ─▶ host
//!   (plumbing)               (capture)   └─▶ resolver ─┘
//! ```
//! A guest has no network card. Everything here is set up when it boots, so it is part of every
//! template; only the session is opened again, by the host.

use std::convert::Infallible;
use std::future;
use std::io;
use std::path::Path;
use std::sync::Arc;

use emberd_proto::{EgressCapture, chain};
use futures::future::try_join_all;
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};

mod capture;
mod dns;
mod frame;
mod mux;
mod names;
mod netlink;
mod plumbing;
mod program;
mod relay;
mod resolver;
mod session;
mod stream;

use capture::{Capture, CaptureError, Sockets};
use names::Names;
use netlink::Netlink;
use relay::Relay;
use resolver::Resolver;
use session::Sessions;

use crate::duplex::Duplex;
use crate::{accept, console, sys};

/// The guest's egress.
#[derive(Debug)]
pub struct Egress {
    sessions: Arc<Sessions>,
    names: Arc<Mutex<Names>>,
    /// Why nothing is captured, if so.
    unavailable: Option<String>,
    /// Sockets and capture, until they are served.
    captured: Mutex<Option<Captured>>,
}

#[derive(Debug)]
struct Captured {
    netlink: Netlink,
    capture: Capture,
    sockets: Vec<Sockets>,
}

impl Egress {
    /// Captures nothing, because of `why`.
    pub fn unavailable(why: String) -> Self {
        Self {
            sessions: Arc::default(),
            names: Arc::default(),
            unavailable: Some(why),
            captured: Mutex::new(None),
        }
    }

    /// Sets up the capture in the agent's network namespace, and names its resolver in the file
    /// `resolv_conf`. A guest whose kernel cannot do it works as before.
    pub fn set_up(resolv_conf: &Path) -> Self {
        match capture(resolv_conf) {
            Ok(captured) => Self {
                unavailable: None,
                captured: Mutex::new(Some(captured)),
                ..Self::unavailable(String::new())
            },
            Err(error) => {
                console::report(&error);
                Self::unavailable(chain(&error))
            }
        }
    }

    /// Returns whether connections of programs are captured.
    pub fn capture(&self) -> EgressCapture {
        match &self.unavailable {
            None => EgressCapture::Ready,
            Some(why) => EgressCapture::Unavailable { why: why.clone() },
        }
    }

    /// Carries the captured connections over `io` until the host closes it or opens another
    /// session.
    pub async fn carry(&self, io: Box<dyn Duplex>) {
        self.sessions.serve(io).await;
    }

    /// Serves what is captured. Never returns.
    pub async fn run(&self) -> Infallible {
        let captured = self.captured.lock().take();
        if let Some(captured) = captured
            && let Err(error) = self.serve(captured).await
        {
            console::report(&error);
        }
        future::pending().await
    }

    async fn serve(&self, captured: Captured) -> Result<(), CaptureError> {
        let Captured { netlink, mut capture, sockets } = captured;
        let shared = || (Arc::clone(&self.sessions), Arc::clone(&self.names));
        let (sessions, names) = shared();
        let relay = Arc::new(Relay::new(sessions, names));
        let (sessions, names) = shared();
        let resolver = Arc::new(Resolver::new(sessions, names));
        let families = try_join_all(sockets.into_iter().map(async |family| {
            tokio::try_join!(
                accept(family.relay, |program| relay.admit(program)),
                accept(family.resolver_tcp, |program| resolver.admit(program)),
                resolver.serve_datagrams(family.resolver_udp),
            )
        }));
        tokio::select! {
            served = families => {
                served.map(drop).map_err(CaptureError::step("serve captured connections"))
            }
            followed = follow_addresses(&netlink, &mut capture) => {
                followed.map_err(CaptureError::step("follow the guest's own addresses"))
            }
        }
    }
}

fn capture(resolv_conf: &Path) -> Result<Captured, CaptureError> {
    let netlink = Netlink::open().map_err(CaptureError::step("open a netlink socket"))?;
    plumbing::route(&netlink).map_err(CaptureError::step("set up addresses and routes"))?;
    let (capture, sockets) = Capture::begin(&netlink)?;
    let named = plumbing::name_resolver(resolv_conf);
    named.map_err(CaptureError::step("name the resolver in resolv.conf"))?;
    Ok(Captured { netlink, capture, sockets })
}

/// Gives each connection that `listener` accepts to `admit`, until it fails permanently.
async fn accept(listener: std::net::TcpListener, admit: impl FnMut(TcpStream)) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    Err(accept::accept(async || Ok(listener.accept().await?.0), admit).await)
}

/// Tells the capture of every change of the guest's own addresses.
async fn follow_addresses(netlink: &Netlink, capture: &mut Capture) -> io::Result<()> {
    let changes = sys::watch(netlink::subscribe_to_addresses()?, Interest::READABLE)?;
    // Those since the capture began.
    capture.update(netlink)?;
    loop {
        let mut ready = changes.readable().await?;
        netlink::drain(changes.get_ref());
        ready.clear_ready();
        drop(ready);
        capture.update(netlink)?;
    }
}
