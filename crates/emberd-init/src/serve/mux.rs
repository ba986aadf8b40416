//! Many connections over one virtio port: yamux, with the host as client.
//!
//! ```text
//! port found ─▶ host connected ─▶ session: one stream per connection
//!                    ▲                 │
//!                    └── host left ────┘  (its streams end, and with them their execs)
//! ```
//! A host that disconnects and reconnects must close its session first. The port only reports
//! that a host is connected, not that it is a new one.

use std::convert::Infallible;
use std::future::{self, poll_fn};
use std::io;
use std::path::{Path, PathBuf};

use emberd_proto::message::AGENT_PORT_NAME;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use yamux::{Connection, Mode};

use super::port::{self, Port};
use super::{CONNECTIONS_MAX, Hall};
use crate::console;
use crate::gather::{Gather, mux_config};
use crate::uevents::AsyncUevents;

/// Maximum number of streams of one session. The mux ends a whole session over one stream too
/// many, so this leaves room above [`CONNECTIONS_MAX`] for streams that are closing.
const STREAMS_MAX: usize = 2 * CONNECTIONS_MAX;

/// Serves the agent's virtio port as soon as it exists.
///
/// # Errors
/// If the port fails.
pub async fn serve(hall: &Hall, uevents: &AsyncUevents) -> io::Result<Infallible> {
    let mut port = Port::open(&find_port(uevents).await?)?;
    loop {
        port.host_connected().await?;
        let mut session =
            Connection::new(Gather::new(&mut port), mux_config(STREAMS_MAX, 1), Mode::Server);
        while let Some(stream) = poll_fn(|context| session.poll_next_inbound(context)).await {
            match stream {
                Ok(stream) => hall.admit(Box::new(stream.compat()), future::pending()),
                Err(error) => {
                    console::report(&error);
                    break;
                }
            }
        }
    }
}

/// Waits until the kernel knows the port's name, which the VMM sends some time after it announced
/// the port.
async fn find_port(uevents: &AsyncUevents) -> io::Result<PathBuf> {
    loop {
        if let Some(device) = port::find(Path::new(port::CLASS_DIR), AGENT_PORT_NAME) {
            return Ok(Path::new("/dev").join(device));
        }
        uevents.wait().await?;
    }
}
