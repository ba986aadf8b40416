//! `emberctl forward ID [HOSTPORT:]PORT`: a port inside a sandbox as one of this host.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context as _;
use clap::builder::styling::AnsiColor;
use emberd_api::{ErrorCode, chain};
use emberd_client::{Client, ClientError};
use serde::Serialize;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::interrupt::Interrupt;
use crate::output::{Output, coloured, printable};
use crate::report::Hinted;

/// Arguments of `forward`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sandbox.
    id: String,
    /// Port inside the sandbox, or HERE:INSIDE. Without HERE, this host listens on the same port;
    /// with 0, on a free one.
    #[arg(value_name = "[HOSTPORT:]PORT")]
    ports: Ports,
}

/// Which port here leads to which port inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    here: u16,
    inside: u16,
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (here, inside) = text.split_once(':').unwrap_or((text, text));
        let port = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let port = text.parse().ok().filter(|_| digits);
            port.ok_or_else(|| format!("`{text}` is not a port, as in 8080 or 8080:80"))
        };
        let ports = Self { here: port(here)?, inside: port(inside)? };
        if ports.inside == 0 { Err("port 0 cannot be forwarded".into()) } else { Ok(ports) }
    }
}

/// The JSON line that is printed once the port listens.
#[derive(Serialize)]
struct Document<'a> {
    listening: SocketAddr,
    id: &'a str,
    port: u16,
}

/// Forwards connections until the user interrupts or the sandbox ends.
///
/// # Errors
/// The sandbox is unknown or ends, the local port cannot be listened on, or no daemon answers.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let mut interrupt = Interrupt::listen()?;
    let Args { id, ports } = args;
    client.get(&id).await?;
    let listener = listen(ports).await?;
    let listening = listener.local_addr()?;
    let document = Document { listening, id: &id, port: ports.inside };
    output.print(&document, || {
        format!("forwarding {listening} to port {} of {}\n", ports.inside, printable(&id))
    })?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Dropping the connections closes them.
            _ = interrupt.next() => return Ok(ExitCode::SUCCESS),
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("cannot accept connections")?;
                let (client, id) = (client.clone(), id.clone());
                connections.spawn(async move { pass_on(stream, &client, &id, ports.inside).await });
            }
            Some(ended) = connections.join_next() => {
                if let Ok(Err(error)) = ended {
                    tell(error)?;
                }
            }
        }
    }
}

async fn listen(ports: Ports) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.here));
    TcpListener::bind(address).await.map_err(|error| {
        let message = format!("cannot listen on {address}: {error}");
        let hint = format!("choose another port of this host, as in 0:{}", ports.inside);
        Hinted { message, hint }.into()
    })
}

/// Why a connection came to its end.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("a connection broke")]
    Io(#[from] io::Error),
}

async fn pass_on(
    mut stream: TcpStream,
    client: &Client,
    id: &str,
    port: u16,
) -> Result<(), Broken> {
    stream.set_nodelay(true)?;
    let passed = async {
        let mut tunnel = client.connect_port(id, port).await?;
        copy_bidirectional(&mut stream, &mut tunnel).await?;
        Ok(())
    };
    let passed = passed.await;
    if passed.is_err() {
        // A reset: an orderly end would tell the client that it had received everything.
        stream.set_zero_linger()?;
    }
    passed
}

/// Reports that one connection failed. If the sandbox has ended, the command fails.
fn tell(error: Broken) -> anyhow::Result<()> {
    let gone = |error: &ClientError| match error {
        ClientError::Api { body, .. } => {
            matches!(body.code, ErrorCode::UnknownSandbox | ErrorCode::SandboxGone)
        }
        _ => false,
    };
    match error {
        Broken::Client(error) if gone(&error) => Err(error.into()),
        Broken::Client(error) => {
            let word = coloured("warning:", AnsiColor::Yellow);
            let text = printable(&chain(&error));
            // A line nobody reads is no reason to stop.
            drop(io::Write::write_fmt(&mut anstream::stderr(), format_args!("{word} {text}\n")));
            Ok(())
        }
        // Clients come and go as they like.
        Broken::Io(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_one_or_two() {
        let ports = |here, inside| Ok(Ports { here, inside });
        assert_eq!("80".parse(), ports(80, 80));
        assert_eq!("8080:80".parse(), ports(8080, 80));
        assert_eq!("0:80".parse(), ports(0, 80));
        for wrong in ["", "0", "80:0", ":", "80:", ":80", "a:80", "+80", "65536", "1:2:3"] {
            assert!(wrong.parse::<Ports>().is_err(), "{wrong}");
        }
    }
}
