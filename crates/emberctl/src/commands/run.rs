//! `emberctl run PACK CODE`: create, exec and delete in one.

use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context as _;
use emberd_api::{CreateSandbox, CreatedSandbox, ExecBody, ExecOutcome};
use emberd_client::{Client, Traced};

use crate::interrupt::{Interrupt, Interrupted};
use crate::output::Output;
use crate::policy::PolicyArgs;
use crate::program::{self, ProgramArgs};
use crate::resources::{self, SandboxLimitArgs, SizeArgs};
use crate::trace::Trace;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["code", "file"]))]
pub struct Args {
    /// Language pack.
    pack: String,
    #[command(flatten)]
    size: SizeArgs,
    #[command(flatten)]
    limits: SandboxLimitArgs,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    program: ProgramArgs,
}

/// Runs the program in a sandbox of its own; the exit code is the program's.
///
/// # Errors
/// The program cannot be read, the daemon refuses the request, no daemon answers, or the user
/// interrupts. The sandbox is deleted in every case.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let wants_trace = args.program.trace();
    let wanted = CreateSandbox {
        language_pack: Some(args.pack),
        egress: args.policy.into_spec(),
        resources: resources::of(args.size, args.limits),
        ..CreateSandbox::default()
    };
    let body = args.program.into_body()?;
    let mut interrupt = Interrupt::listen()?;
    let mut trace = Trace::default();
    let (created, interrupted) = create(client, &wanted, &mut interrupt).await?;
    let id = trace.note("create", created).id;
    let ran = match interrupted {
        Some(interrupted) => Err(interrupted.into()),
        None => exec(client, &id, &body, &mut interrupt).await,
    };
    let deleted = client.delete_traced(&id).await;
    let outcome = trace.note_exec(ran?);
    let deleted = deleted.map(|deleted| trace.note("delete", deleted));
    let code = program::finish(&outcome, wants_trace.then_some(&trace), output)?;
    deleted.with_context(|| format!("cannot delete sandbox {id}"))?;
    Ok(code)
}

/// Creates a sandbox. A first interrupt waits for the answer, since deleting needs the id; a
/// second one hangs up, and the daemon drops an unfinished sandbox that no client waits for.
async fn create(
    client: &Client,
    wanted: &CreateSandbox,
    interrupt: &mut Interrupt,
) -> anyhow::Result<(Traced<CreatedSandbox>, Option<Interrupted>)> {
    let mut creation = pin!(client.create_with(wanted));
    let first = tokio::select! {
        created = &mut creation => return Ok((created?, None)),
        first = interrupt.next() => first,
    };
    tokio::select! {
        created = creation => Ok((created?, Some(first))),
        second = interrupt.next() => Err(second.into()),
    }
}

async fn exec(
    client: &Client,
    id: &str,
    body: &ExecBody,
    interrupt: &mut Interrupt,
) -> anyhow::Result<Traced<ExecOutcome>> {
    tokio::select! {
        ran = client.exec_traced(id, body) => Ok(ran?),
        interrupted = interrupt.next() => Err(interrupted.into()),
    }
}
