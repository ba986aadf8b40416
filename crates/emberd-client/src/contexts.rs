//! Contexts of a sandbox, and the events of their runs.

use bytes::Bytes;
use emberd_api::{Context, ContextEvent, ContextList, ContextRun, ContextSpec, RunEvent, paths};
use hyper::Method;

use crate::client::{Client, ClientError, json};
use crate::follow::{Events, Form};

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
        let form = Form::lines(EVENT_BYTES_MAX);
        let events = self.follow(Method::POST, &path, json(run), form).await?;
        Ok(RunEvents { events, last_id: None, over: false })
    }

    /// Follows the events of a context's runs from number `from` on, until the context is deleted
    /// or the daemon stops. Dropping them ends the request, and nothing else.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn context_events(
        &self,
        id: &str,
        context: &str,
        from: u64,
    ) -> Result<Events<ContextEvent>, ClientError> {
        let path = paths::context(paths::CONTEXT_EVENTS, id, context);
        let path = format!("{path}?from={from}");
        self.follow(Method::GET, &path, Bytes::new(), Form::server(EVENT_BYTES_MAX)).await
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
    events: Events<ContextEvent>,
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
        let next = self.events.next().await?;
        let broke_off = || self.events.broken("the events broke off".into());
        let ContextEvent { id, event } = next.ok_or_else(broke_off)?;
        self.last_id = Some(id);
        self.over = matches!(event, RunEvent::End { .. });
        Ok(Some(event))
    }
}
