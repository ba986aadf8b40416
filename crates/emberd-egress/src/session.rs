//! The session of one sandbox: every stream that its guest opens, until either side ends it.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::flow;
use crate::mux::{self, MuxError};
use crate::state::Sandbox;

/// Serves `io` until the session or the sandbox ends. Every connection of the session ends with
/// it.
pub(crate) async fn run(
    sandbox: Arc<Sandbox>,
    io: impl AsyncRead + AsyncWrite + Send,
) -> Result<(), MuxError> {
    let ended = CancellationToken::new();
    let _ending = ended.clone().drop_guard();
    let session = mux::run(io, |stream| {
        let (sandbox, ended) = (Arc::clone(&sandbox), ended.clone());
        tokio::spawn(ended.run_until_cancelled_owned(flow::serve(sandbox, stream)));
    });
    let closed = sandbox.closed.clone();
    closed.run_until_cancelled_owned(session).await.unwrap_or(Ok(()))
}
