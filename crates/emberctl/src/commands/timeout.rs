//! `emberctl timeout ID TIME` and `emberctl touch ID`: how long a sandbox may live.

use std::process::ExitCode;
use std::time::Duration;

use emberd_api::{Sandbox, TouchSandbox, UpdateSandbox};
use emberd_client::Client;

use crate::output::{Clock, Output};

/// A time, or never.
#[derive(Debug, Clone, Copy)]
pub enum Timeout {
    /// After this time.
    After(Duration),
    /// Never.
    Never,
}

impl Timeout {
    /// The timeout in milliseconds; none for never.
    pub fn as_ms(self) -> Option<u64> {
        match self {
            Self::After(time) => Some(milliseconds(time)),
            Self::Never => None,
        }
    }
}

/// Parses a duration, or `never`.
///
/// # Errors
/// As for any duration.
pub fn parse(text: &str) -> Result<Timeout, String> {
    match text {
        "never" => Ok(Timeout::Never),
        _ => emberd_config::duration::parse(text).map(Timeout::After),
    }
}

/// Arguments of `timeout`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sandbox.
    id: String,
    /// Time from now on, such as 90s, 10m or 2h, or `never`.
    #[arg(value_parser = parse, value_name = "TIME")]
    timeout: Timeout,
}

/// Sets when the sandbox ends.
///
/// # Errors
/// The sandbox is unknown, or no daemon answers.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let timeout_ms = Some(args.timeout.as_ms());
    let change = UpdateSandbox { timeout_ms, ..UpdateSandbox::default() };
    say(&client.update(&args.id, &change).await?, output)
}

/// Arguments of `touch`.
#[derive(Debug, clap::Args)]
pub struct TouchArgs {
    /// The sandbox.
    id: String,
    /// Least time that it has left afterwards; its own timeout unless given.
    #[arg(long, value_parser = emberd_config::duration::parse, value_name = "TIME")]
    timeout: Option<Duration>,
}

/// Gives the sandbox more time.
///
/// # Errors
/// As [`run`].
pub async fn touch(client: &Client, args: TouchArgs, output: Output) -> anyhow::Result<ExitCode> {
    let more = TouchSandbox { timeout_ms: args.timeout.map(milliseconds) };
    say(&client.touch(&args.id, &more).await?, output)
}

fn say(sandbox: &Sandbox, output: Output) -> anyhow::Result<ExitCode> {
    output.print(sandbox, || format!("{}\n", left(sandbox, Clock::now())))?;
    Ok(ExitCode::SUCCESS)
}

/// How long the sandbox has left: a time, or `never`.
pub fn left(sandbox: &Sandbox, clock: Clock) -> String {
    sandbox.expires_at_ms.map_or_else(|| "never".to_owned(), |at| clock.until(at))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
