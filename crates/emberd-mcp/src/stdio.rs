//! The server on standard input and output, or any other pair of streams.

use std::time::Duration;

use emberd_client::Client;
use rmcp::ServiceExt as _;
use rmcp::service::ServerInitializeError;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::life::Life;
use crate::server::{Options, Server, ToolsError};
use crate::state::Daemon;

/// Longest line of a client, in bytes (64 MiB): that of a body over HTTP.
const LINE_BYTES_MAX: usize = crate::http::BODY_BYTES_MAX;

/// Why a client was not served.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// The options name a tool that does not exist.
    #[error(transparent)]
    Tools(#[from] ToolsError),
    /// The client did not begin as the protocol says.
    #[error("the client does not speak MCP")]
    Protocol(#[source] Box<ServerInitializeError>),
}

/// Serves the client at the other end of `input` and `output` until it closes `input` or `stop` is
/// done. Calls under way then have a few seconds to end.
///
/// With a `lease`, the sandboxes that were created are deleted at the end, and end by themselves
/// after that time if this process is killed. Without one, they live as long as the client said.
///
/// # Errors
/// [`StdioError`].
pub async fn over_stdio(
    client: Client,
    options: Options,
    lease: Option<Duration>,
    (input, output): (
        impl AsyncRead + Send + Unpin + 'static,
        impl AsyncWrite + Send + Unpin + 'static,
    ),
    stop: impl Future<Output = ()>,
) -> Result<(), StdioError> {
    let life = lease.map_or(Life::AsAsked, |time| Life::leased(client.clone(), time));
    let daemon = Daemon::new(client);
    let server = Server::new(options, life, move |_| daemon.clone())?;
    let transport = AsyncRwTransport::new(input, output).with_max_line_length(LINE_BYTES_MAX);
    let conversation = async {
        match server.clone().serve(transport).await {
            Ok(running) => {
                if let Err(error) = running.waiting().await {
                    tracing::warn!(%error, "the service ended early");
                }
                Ok(())
            }
            // The client left before it said anything.
            Err(ServerInitializeError::ConnectionClosed(_)) => Ok(()),
            Err(error) => Err(StdioError::Protocol(Box::new(error))),
        }
    };
    let outcome = tokio::select! {
        outcome = conversation => outcome,
        () = stop => Ok(()),
    };
    server.end().await;
    outcome
}
