//! Contexts of a sandbox, and the events of their runs.

use bytes::{Buf as _, Bytes, BytesMut};
use emberd_api::{Address, Context, ContextList, ContextRun, ContextSpec, RunEvent, paths};
use hyper::{Method, StatusCode};

use crate::client::{Client, ClientError, json};
use crate::link::Answering;

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
        let (address, received) = (self.address().clone(), BytesMut::new());
        Ok(RunEvents { address, status, answering, received, searched: 0, over: false })
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
    received: BytesMut,
    /// Number of received bytes that are known to contain no end of a line.
    searched: usize,
    over: bool,
}

impl RunEvents {
    /// The next event; `None` after [`RunEvent::End`]. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::Broken`] before the end, [`ClientError::Protocol`] for anything but an event.
    pub async fn next(&mut self) -> Result<Option<RunEvent>, ClientError> {
        if self.over {
            return Ok(None);
        }
        loop {
            let end = self.received[self.searched..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let line = self.received.split_to(self.searched + end);
                self.received.advance(1);
                self.searched = 0;
                let event = serde_json::from_slice(&line).map_err(|source| {
                    let (addr, status) = (self.address.clone(), self.status.as_u16());
                    ClientError::Protocol { addr, status, source }
                })?;
                self.over = matches!(event, RunEvent::End { .. });
                return Ok(Some(event));
            }
            self.searched = self.received.len();
            let broken = |source| ClientError::Broken { addr: self.address.clone(), source };
            match self.answering.piece().await.map_err(broken)? {
                Some(piece) => self.received.extend_from_slice(&piece),
                None => return Err(broken("the events broke off".into())),
            }
            if self.received.len() > EVENT_BYTES_MAX {
                return Err(broken("an event is too long".into()));
            }
        }
    }
}
