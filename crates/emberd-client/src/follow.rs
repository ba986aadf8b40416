//! Answers that bring one event after another, each a JSON value.

use std::marker::PhantomData;

use bytes::Bytes;
use emberd_api::Address;
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;

use crate::client::{Client, ClientError};
use crate::lines::Lines;
use crate::link::Answering;
use crate::local::Cause;
use crate::sse::ServerEvents;

/// What an answer looks like on the wire.
#[derive(Debug)]
pub(crate) enum Form {
    /// A line for each event, of at most so many bytes.
    Lines(Lines, usize),
    /// Server-sent events. Their names are not read.
    Server(ServerEvents),
}

impl Form {
    /// Lines of at most `bytes_max` bytes.
    pub fn lines(bytes_max: usize) -> Self {
        Self::Lines(Lines::default(), bytes_max)
    }

    /// Server-sent events of at most `bytes_max` bytes.
    pub fn server(bytes_max: usize) -> Self {
        Self::Server(ServerEvents::new(bytes_max))
    }

    fn push(&mut self, piece: &[u8]) {
        match self {
            Self::Lines(lines, _) => lines.push(piece),
            Self::Server(events) => events.push(piece),
        }
    }

    /// The JSON text of the next event that has arrived whole.
    fn whole(&mut self) -> Result<Option<Bytes>, Cause> {
        match self {
            Self::Server(events) => Ok(events.event()?.map(|event| event.data.into())),
            Self::Lines(lines, bytes_max) => {
                let line = lines.whole();
                if line.is_none() && lines.pending() > *bytes_max {
                    return Err("an event is too long".into());
                }
                Ok(line)
            }
        }
    }
}

/// Events of an answer, as they arrive. Dropping it ends the request.
#[derive(Debug)]
pub struct Events<T> {
    address: Address,
    status: StatusCode,
    answering: Answering,
    form: Form,
    event: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Events<T> {
    /// Waits for the next event; none once the daemon has ended the answer. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::Broken`] if the connection breaks, [`ClientError::Protocol`] for anything
    /// but events.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(text) = self.form.whole().map_err(|error| self.broken(error))? {
                return serde_json::from_slice(&text).map(Some).map_err(|source| {
                    let (addr, status) = (self.address.clone(), self.status.as_u16());
                    ClientError::Protocol { addr, status, source }
                });
            }
            match self.answering.piece().await.map_err(|error| self.broken(error))? {
                Some(piece) => self.form.push(&piece),
                None => return Ok(None),
            }
        }
    }

    pub(crate) fn broken(&self, source: Cause) -> ClientError {
        ClientError::Broken { addr: self.address.clone(), source }
    }
}

impl Client {
    /// Sends a request whose answer is events.
    pub(crate) async fn follow<T>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        form: Form,
    ) -> Result<Events<T>, ClientError> {
        let (status, answering) = self.stream(method, path, body).await?;
        let address = self.address().clone();
        Ok(Events { address, status, answering, form, event: PhantomData })
    }
}
