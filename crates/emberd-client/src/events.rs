//! What becomes of the daemon's sandboxes.

use bytes::Bytes;
use emberd_api::{Address, DaemonEvent, paths};
use hyper::{Method, StatusCode};

use crate::client::{Client, ClientError};
use crate::link::Answering;
use crate::sse::{ServerEvent, ServerEvents};

/// Largest event that is read, in bytes (1 MiB).
const EVENT_BYTES_MAX: usize = 1 << 20;

impl Client {
    /// Reads the events of all sandboxes, or of these: those that the daemon has kept after number
    /// `after`, or all; and with `follow` those that come, until the daemon stops.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events(
        &self,
        sandboxes: &[String],
        after: Option<u64>,
        follow: bool,
    ) -> Result<DaemonEvents, ClientError> {
        let path = paths::events(sandboxes, after, follow);
        let (status, answering) = self.stream(Method::GET, &path, Bytes::new()).await?;
        let (address, events) = (self.address().clone(), ServerEvents::new(EVENT_BYTES_MAX));
        Ok(DaemonEvents { address, status, answering, events })
    }
}

/// The events of a daemon's sandboxes. Dropping it ends the request.
#[derive(Debug)]
pub struct DaemonEvents {
    address: Address,
    status: StatusCode,
    answering: Answering,
    events: ServerEvents,
}

impl DaemonEvents {
    /// Waits for the next event or gap; none once all are read, or the daemon stops. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::Broken`] if the connection breaks, [`ClientError::Protocol`] for anything
    /// but events.
    pub async fn next(&mut self) -> Result<Option<DaemonEvent>, ClientError> {
        loop {
            let broken = |source| ClientError::Broken { addr: self.address.clone(), source };
            let event = self.events.event().map_err(|error| broken(error.into()))?;
            if let Some(ServerEvent { data, .. }) = event {
                return serde_json::from_str(&data).map(Some).map_err(|source| {
                    let (addr, status) = (self.address.clone(), self.status.as_u16());
                    ClientError::Protocol { addr, status, source }
                });
            }
            match self.answering.piece().await.map_err(broken)? {
                Some(piece) => self.events.push(&piece),
                None => return Ok(None),
            }
        }
    }
}
