//! Contexts of a sandbox, and the events of their runs.

use bytes::Bytes;
use emberd_api::{
    Address, Context, ContextEvent, ContextList, ContextRun, ContextSpec, RunEvent, paths,
};
use hyper::{Method, StatusCode};

use crate::client::{Client, ClientError, json};
use crate::lines::Lines;
use crate::link::Answering;
use crate::sse::{ServerEvent, ServerEvents};

/// Longest event that is read, in bytes (256 MiB): a value of 32 MiB, escaped in JSON.
const EVENT_BYTES_MAX: usize = 256 << 20;

impl Client {
    /// Creates a context in a sandbox and waits until its interpreter is ready.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn open_context(&self, id: &str, spec: &ContextSpec) -> Result<Context, ClientError> {
        self.call(Method::POST, &paths::contexts(id), json(spec)).await
    }

    /// Lists the contexts of a sandbox, oldest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn contexts(&self, id: &str) -> Result<ContextList, ClientError> {
        self.call(Method::GET, &paths::contexts(id), Bytes::new()).await
    }

    /// Runs code in a context. Dropping the events before their end interrupts the run.
    ///
    /// # Errors
    /// [`ClientError`]. Code that fails is an event, not an error.
    pub async fn run_context(
        &self,
        id: &str,
        context: &str,
        run: &ContextRun,
    ) -> Result<RunEvents, ClientError> {
        let path = paths::context(paths::CONTEXT_RUN, id, context);
        let (status, answering) = self.stream(Method::POST, &path, json(run)).await?;
        let (address, lines) = (self.address().clone(), Lines::default());
        Ok(RunEvents { address, status, answering, lines, last_id: None, over: false })
    }

    /// Follows the events of a context's runs from number `from` on, until the context is deleted
    /// or the daemon stops.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn context_events(
        &self,
        id: &str,
        context: &str,
        from: u64,
    ) -> Result<ContextEvents, ClientError> {
        let path = paths::context(paths::CONTEXT_EVENTS, id, context);
        let path = format!("{path}?from={from}");
        let (status, answering) = self.stream(Method::GET, &path, Bytes::new()).await?;
        let (address, events) = (self.address().clone(), ServerEvents::new(EVENT_BYTES_MAX));
        Ok(ContextEvents { address, status, answering, events })
    }

    /// Interrupts the run of a context, if it runs anything.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn interrupt_context(&self, id: &str, context: &str) -> Result<(), ClientError> {
        let path = paths::context(paths::CONTEXT_INTERRUPT, id, context);
        self.send(Method::POST, &path, Bytes::new()).await?;
        Ok(())
    }

    /// Kills the interpreter of a context, whatever it is doing, and starts another.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn restart_context(&self, id: &str, context: &str) -> Result<Context, ClientError> {
        let path = paths::context(paths::CONTEXT_RESTART, id, context);
        self.call(Method::POST, &path, Bytes::new()).await
    }

    /// Kills a context's interpreter and forgets the context.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_context(&self, id: &str, context: &str) -> Result<(), ClientError> {
        let path = paths::context(paths::CONTEXT, id, context);
        self.send(Method::DELETE, &path, Bytes::new()).await?;
        Ok(())
    }
}

/// The events of one run.
#[derive(Debug)]
pub struct RunEvents {
    address: Address,
    status: StatusCode,
    answering: Answering,
    lines: Lines,
    last_id: Option<u64>,
    over: bool,
}

impl RunEvents {
    /// Number of the last event, after which [`Client::context_events`] goes on; none before the
    /// first.
    pub fn last_id(&self) -> Option<u64> {
        self.last_id
    }

    /// The next event; `None` after [`RunEvent::End`]. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::Broken`] before the end, [`ClientError::Protocol`] for anything but an event.
    pub async fn next(&mut self) -> Result<Option<RunEvent>, ClientError> {
        if self.over {
            return Ok(None);
        }
        loop {
            if let Some(line) = self.lines.whole() {
                let ContextEvent { id, event } =
                    serde_json::from_slice(&line).map_err(|source| {
                        let (addr, status) = (self.address.clone(), self.status.as_u16());
                        ClientError::Protocol { addr, status, source }
                    })?;
                self.last_id = Some(id);
                self.over = matches!(event, RunEvent::End { .. });
                return Ok(Some(event));
            }
            let broken = |source| ClientError::Broken { addr: self.address.clone(), source };
            if self.lines.pending() > EVENT_BYTES_MAX {
                return Err(broken("an event is too long".into()));
            }
            match self.answering.piece().await.map_err(broken)? {
                Some(piece) => self.lines.push(&piece),
                None => return Err(broken("the events broke off".into())),
            }
        }
    }
}

/// The events of a context's runs. Dropping it ends the request, and nothing else.
#[derive(Debug)]
pub struct ContextEvents {
    address: Address,
    status: StatusCode,
    answering: Answering,
    events: ServerEvents,
}

impl ContextEvents {
    /// Waits for the next event; none once the context is deleted or the daemon stops. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::Broken`] if the connection breaks, [`ClientError::Protocol`] for anything
    /// but events.
    pub async fn next(&mut self) -> Result<Option<ContextEvent>, ClientError> {
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
