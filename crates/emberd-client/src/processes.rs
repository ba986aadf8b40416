//! Processes of a sandbox.

use bytes::Bytes;
use emberd_api::{
    Process, ProcessEvent, ProcessList, ProcessSpec, SignalName, SignalProcess, TtySize, paths,
};
use hyper::Method;

use crate::attachment::Attachment;
use crate::client::{Client, ClientError, json};
use crate::follow::{Events, Form};

/// Longest event that is read, in bytes (16 MiB): a piece of output, escaped in JSON, and again as
/// base64.
const EVENT_BYTES_MAX: usize = 16 << 20;

impl Client {
    /// Starts a process in a sandbox and waits until it runs.
    ///
    /// # Errors
    /// [`ClientError`], as all calls.
    pub async fn start_process(
        &self,
        id: &str,
        spec: &ProcessSpec,
    ) -> Result<Process, ClientError> {
        self.call(Method::POST, &paths::processes(id), json(spec)).await
    }

    /// Lists the processes of a sandbox, and those that ended recently.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn processes(&self, id: &str) -> Result<ProcessList, ClientError> {
        self.call(Method::GET, &paths::processes(id), Bytes::new()).await
    }

    /// Shows one process.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn process(&self, id: &str, pid: u32) -> Result<Process, ClientError> {
        let path = paths::process(paths::PROCESS, id, pid);
        self.call(Method::GET, &path, Bytes::new()).await
    }

    /// Kills a process and all it started, and forgets it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_process(&self, id: &str, pid: u32) -> Result<(), ClientError> {
        let path = paths::process(paths::PROCESS, id, pid);
        self.send(Method::DELETE, &path, Bytes::new()).await.map(drop)
    }

    /// Writes to the standard input of a process, and ends it if `end` is true. Waits as long as
    /// the program does not read.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn write_stdin(
        &self,
        id: &str,
        pid: u32,
        bytes: impl Into<Bytes>,
        end: bool,
    ) -> Result<(), ClientError> {
        let mut path = paths::process(paths::PROCESS_STDIN, id, pid);
        if end {
            path += "?end=true";
        }
        self.send(Method::POST, &path, bytes.into()).await.map(drop)
    }

    /// Sends a signal to a process and all it started.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn signal_process(
        &self,
        id: &str,
        pid: u32,
        signal: SignalName,
    ) -> Result<(), ClientError> {
        let path = paths::process(paths::PROCESS_SIGNAL, id, pid);
        self.send(Method::POST, &path, json(&SignalProcess { signal })).await.map(drop)
    }

    /// Changes the size of a process's terminal.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn resize_process(
        &self,
        id: &str,
        pid: u32,
        size: TtySize,
    ) -> Result<(), ClientError> {
        let path = paths::process(paths::PROCESS_RESIZE, id, pid);
        self.send(Method::POST, &path, json(&size)).await.map(drop)
    }

    /// Follows the events of a process from number `from` on. The same connection takes messages to
    /// the process.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn attach(&self, id: &str, pid: u32, from: u64) -> Result<Attachment, ClientError> {
        Attachment::open(self.clone(), id, pid, from).await
    }

    /// Follows the events of a process from number `from` on, until it has ended or the daemon
    /// stops. Dropping them ends the request, and nothing else.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn process_events(
        &self,
        id: &str,
        pid: u32,
        from: u64,
    ) -> Result<Events<ProcessEvent>, ClientError> {
        let path = paths::process(paths::PROCESS_EVENTS, id, pid);
        let path = format!("{path}?from={from}");
        self.follow(Method::GET, &path, Bytes::new(), Form::server(EVENT_BYTES_MAX)).await
    }
}
