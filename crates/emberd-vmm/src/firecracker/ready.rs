//! Detects that a guest is ready by its dial to the host, without polling.
//!
//! A guest's connection to host port P arrives at the socket `v.sock_P`, with no preamble:
//! the path says whose it is. One connection is all that is awaited. Then the socket goes,
//! so that a hostile guest finds nothing to connect to and cannot fill a backlog, on which
//! Firecracker would block.

use std::io;
use std::os::unix::fs::chown;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::machine::VSOCK_SOCKET;
use crate::root::Root;

/// Waits for one guest's first dial.
#[derive(Debug)]
pub(super) struct Ready {
    ready: watch::Receiver<bool>,
    waiting: AbortHandle,
}

impl Ready {
    /// Listens in `root` for the guest's dial to `port`; the VMM runs as `uid`, if given.
    pub(super) fn listen(root: &Root, port: u32, uid: Option<u32>) -> io::Result<Self> {
        let name = format!("{VSOCK_SOCKET}_{port}");
        let listener = root.bind(&name)?;
        let path = root.path().join(name);
        chown(&path, uid, uid)?;
        let (sender, ready) = watch::channel(false);
        let task = tokio::spawn(async move {
            match listener.accept().await {
                Ok(_) => drop(sender.send_replace(true)),
                Err(error) => tracing::warn!(%error, "cannot listen for the guest's readiness"),
            }
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::debug!(%error, "readiness socket was already removed");
            }
        });
        Ok(Self { ready, waiting: task.abort_handle() })
    }

    /// Whether the guest has dialled.
    pub(super) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits until the guest has dialled; does not return if it no longer can. Cancel safe.
    pub(super) async fn wait(&self) {
        if self.ready.clone().wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.waiting.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_dial_tells_and_then_there_is_nothing_to_dial() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path().into()).unwrap();
        let ready = Ready::listen(&root, 1025, None).unwrap();
        assert!(!ready.is_ready());
        let (dialled, ()) = tokio::join!(root.connect("v.sock_1025"), ready.wait());
        dialled.unwrap();
        assert!(ready.is_ready());
        ready.wait().await;
        while dir.path().join("v.sock_1025").exists() {
            tokio::task::yield_now().await;
        }
        root.connect("v.sock_1025").await.unwrap_err();
    }

    #[tokio::test]
    async fn nobody_listens_for_a_microvm_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path().into()).unwrap();
        drop(Ready::listen(&root, 1025, None).unwrap());
        while root.connect("v.sock_1025").await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
