//! `emberctl run PACK CODE`: create, exec and delete in one.

use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context as _;
use emberd_api::{ExecBody, ExecOutcome};
use emberd_client::Client;

use crate::interrupt::{Interrupt, Interrupted};
use crate::output::Output;
use crate::program::{self, ProgramArgs};

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Language pack.
    pack: String,
    #[command(flatten)]
    program: ProgramArgs,
}

/// Runs the program in a sandbox of its own; the exit code is the program's.
///
/// # Errors
/// The program cannot be read, the daemon refuses, there is no daemon, or the user
/// interrupts. The sandbox is deleted whichever it is.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let body = args.program.into_body()?;
    let mut interrupt = Interrupt::listen()?;
    let (id, interrupted) = create(client, &args.pack, &mut interrupt).await?;
    let ran = match interrupted {
        Some(interrupted) => Err(interrupted.into()),
        None => exec(client, &id, &body, &mut interrupt).await,
    };
    let deleted = client.delete(&id).await;
    let code = program::finish(&ran?, output)?;
    deleted.with_context(|| format!("cannot delete sandbox {id}"))?;
    Ok(code)
}

/// Creates a sandbox. A first interrupt waits for the answer, since deleting needs the id; a
/// second one hangs up, and the daemon drops a half-made sandbox nobody waits for.
async fn create(
    client: &Client,
    pack: &str,
    interrupt: &mut Interrupt,
) -> anyhow::Result<(String, Option<Interrupted>)> {
    let mut creation = pin!(client.create(Some(pack)));
    let first = tokio::select! {
        created = &mut creation => return Ok((created?.id, None)),
        first = interrupt.next() => first,
    };
    tokio::select! {
        created = creation => Ok((created?.id, Some(first))),
        second = interrupt.next() => Err(second.into()),
    }
}

async fn exec(
    client: &Client,
    id: &str,
    body: &ExecBody,
    interrupt: &mut Interrupt,
) -> anyhow::Result<ExecOutcome> {
    tokio::select! {
        ran = client.exec(id, body) => Ok(ran?),
        interrupted = interrupt.next() => Err(interrupted.into()),
    }
}
