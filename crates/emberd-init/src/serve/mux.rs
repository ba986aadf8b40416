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
use yamux::{Config, Connection, Mode};

use super::port::{self, Port};
use super::{CONNECTIONS_MAX, Hall};
use crate::console;
use crate::gather::{GATHERED_BYTES_MAX, Gather};
use crate::uevents::AsyncUevents;

/// Maximum number of streams of one session. The mux ends a whole session over one stream too
/// many, so this leaves room above [`CONNECTIONS_MAX`] for streams that are closing.
const STREAMS_MAX: usize = 2 * CONNECTIONS_MAX;

/// Size of the header of a mux frame, in bytes (yamux specification).
const HEADER_BYTES: usize = 12;

/// Maximum number of unread bytes of all streams together (128 MiB): the 256 KiB that yamux
/// grants each stream from the start.
const RECEIVE_WINDOW_BYTES_MAX: usize = STREAMS_MAX * yamux::DEFAULT_CREDIT as usize;

/// Serves the agent's virtio port as soon as it exists.
///
/// # Errors
/// If the port fails.
pub async fn serve(hall: &Hall, uevents: &AsyncUevents) -> io::Result<Infallible> {
    let mut port = Port::open(&find_port(uevents).await?)?;
    loop {
        port.host_connected().await?;
        let mut session = Connection::new(Gather::new(&mut port), config(), Mode::Server);
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

fn config() -> Config {
    let mut config = Config::default();
    config.set_max_num_streams(STREAMS_MAX);
    config.set_max_connection_receive_window(Some(RECEIVE_WINDOW_BYTES_MAX));
    // The largest frame that is sent in one write.
    config.set_split_send_size(GATHERED_BYTES_MAX - HEADER_BYTES);
    config
}
