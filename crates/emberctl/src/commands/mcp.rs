//! `emberctl mcp`: sandboxes as tools of an agent, on standard input and output.

use std::io;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::Duration;

use emberd_client::Client;
use emberd_mcp::{Options, StdioError, over_stdio, stdio_pipes};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use crate::daemon_options::Globals;
use crate::interrupt::Interrupt;
use crate::report::Hinted;

mod config;

/// Leases that make sense: a shorter one would be renewed all the time.
const LEASE: RangeInclusive<Duration> = Duration::from_secs(3)..=Duration::from_secs(3_600);

/// Arguments of `mcp`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

/// Commands on MCP.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print how a client is told of this server.
    Config(config::Args),
}

/// Options of the server.
#[derive(Debug, clap::Args)]
struct Serve {
    /// Sandbox of calls that name none.
    #[arg(long, value_name = "ID")]
    sandbox: Option<String>,
    /// Language pack of sandboxes whose creation names none [default: python].
    #[arg(long)]
    pack: Option<String>,
    /// Keep the sandboxes that were created: each lives for the time that its creation named.
    #[arg(long)]
    keep: bool,
    /// Offer these tools only, separated by commas.
    #[arg(long, value_name = "TOOLS", value_delimiter = ',')]
    tools: Vec<String>,
    /// Offer only the tools that change nothing.
    #[arg(long)]
    read_only: bool,
    /// Time after which the sandboxes that were created end if this process is killed.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = lease)]
    lease: Duration,
}

fn lease(text: &str) -> Result<Duration, String> {
    let time = emberd_config::duration::parse(text)?;
    let (shortest, longest) = (LEASE.start(), LEASE.end());
    if LEASE.contains(&time) {
        Ok(time)
    } else {
        Err(format!("a lease is {shortest:?} to {longest:?}"))
    }
}

/// Serves the client, or prints its configuration.
///
/// # Errors
/// The options cannot be used, or the client does not speak MCP.
pub async fn run(globals: &Globals, client: Client, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(Command::Config(args)) => config::print(globals, &client, &args),
        None => Box::pin(serve(client, args.serve)).await,
    }
}

async fn serve(client: Client, wanted: Serve) -> anyhow::Result<ExitCode> {
    let Serve { sandbox, pack, keep, tools, read_only, lease } = wanted;
    // Standard output belongs to the protocol.
    let filter =
        EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    if let Some(id) = &sandbox {
        client.get(id).await?;
    }
    let options = Options { sandbox, pack, tools, read_only };
    let mut interrupt = Interrupt::listen()?;
    let mut interrupted = None;
    let stop = async { interrupted = Some(interrupt.next().await) };
    let lease = (!keep).then_some(lease);
    let served = Box::pin(over_stdio(client, options, lease, stdio_pipes(), stop)).await;
    let Some(interrupted) = interrupted else {
        served.map_err(|error| match error {
            StdioError::Protocol(_) => anyhow::Error::from(error).context(Hinted {
                message: "cannot serve the client".to_owned(),
                hint: "an MCP client starts this command: see `emberctl mcp config`".to_owned(),
            }),
            tools @ StdioError::Tools(_) => tools.into(),
        })?;
        return Ok(ExitCode::SUCCESS);
    };
    // The end of the runtime would wait for a read of a terminal, which nothing ends.
    std::process::exit(interrupted.exit_code())
}
