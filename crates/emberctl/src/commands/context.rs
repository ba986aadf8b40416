//! `emberctl context`: interpreters in a sandbox that keep their variables between runs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use emberd_api::{Context, ContextEvent, ContextRun, ContextSpec, ContextState, chain};
use emberd_client::{Client, ClientError};
use serde::Serialize;

use crate::interrupt::Interrupt;
use crate::output::{self, Output};
use crate::report::Hinted;
use events::EventsArgs;
use pictures::Pictures;
use shown::Shown;

mod events;
mod pictures;
mod shown;

/// Commands on contexts.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Open a context and print its id.
    New(NewArgs),
    /// List the contexts of a sandbox.
    Ls(LsArgs),
    /// Run code in a context and show its output as it appears. Ctrl-C interrupts the run.
    Run(RunArgs),
    /// Show the events of a context's runs, such as the rest of one whose connection broke.
    Events(EventsArgs),
    /// Interrupt the run of a context.
    Interrupt(Args),
    /// Restart the interpreter of a context, even during a run.
    Restart(Args),
    /// Delete a context.
    Rm(Args),
}

/// Arguments of `context new`.
#[derive(Debug, clap::Args)]
pub struct NewArgs {
    /// The sandbox.
    sandbox: String,
    /// Language, such as python, javascript or shell [default: that of the sandbox].
    #[arg(short, long, value_name = "LANGUAGE")]
    language: Option<String>,
    /// Working directory in the sandbox.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// User that the interpreter runs as [default: root].
    #[arg(short, long, value_name = "NAME")]
    user: Option<String>,
}

/// Arguments of `context ls`.
#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// The sandbox.
    sandbox: String,
}

/// Arguments of `context run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    of: Args,
    /// The code.
    code: String,
    /// Time limit, such as 500ms, 10s or 2m [default: none].
    #[arg(long, value_parser = emberd_config::duration::parse, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Save pictures (PNG, SVG, JPEG) in this directory as run-RUN-NUMBER.png and so on, and print
    /// their paths. The directory is created if needed.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
}

/// Which context.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sandbox.
    sandbox: String,
    /// The context.
    context: String,
}

/// The JSON output of `context rm`.
#[derive(Serialize)]
struct Deleted {
    deleted: String,
}

/// The JSON output of `context interrupt`.
#[derive(Serialize)]
struct Interrupted {
    interrupted: String,
}

/// Carries out `command`.
///
/// # Errors
/// The daemon's refusal, or no daemon.
pub async fn run(client: &Client, command: Command, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::New(NewArgs { sandbox, language, cwd, user }) => {
            let spec = ContextSpec { language, cwd, user, ..ContextSpec::default() };
            let context = client.open_context(&sandbox, &spec).await?;
            output.print(&context, || format!("{}\n", context.id))?;
        }
        Command::Ls(LsArgs { sandbox }) => {
            let list = client.contexts(&sandbox).await?;
            output.print(&list, || text(&list.contexts))?;
        }
        Command::Run(args) => return run_code(client, args, output).await,
        Command::Events(args) => return events::run(client, args, output).await,
        Command::Interrupt(Args { sandbox, context }) => {
            client.interrupt_context(&sandbox, &context).await?;
            output.print(&Interrupted { interrupted: context }, String::new)?;
        }
        Command::Restart(Args { sandbox, context }) => {
            let context = client.restart_context(&sandbox, &context).await?;
            output.print(&context, || format!("{}\n", context.id))?;
        }
        Command::Rm(Args { sandbox, context }) => {
            client.delete_context(&sandbox, &context).await?;
            let document = Deleted { deleted: context };
            output.print(&document, || format!("{}\n", document.deleted))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows events as they come; with `--json` each as one line.
async fn run_code(client: &Client, args: RunArgs, output: Output) -> anyhow::Result<ExitCode> {
    let RunArgs { of, code, timeout, save } = args;
    let Args { sandbox, context } = &of;
    let timeout_ms = timeout.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
    let run = ContextRun { code, timeout_ms, ..ContextRun::default() };
    run.check()?;
    let mut shown = Shown::new(output, Pictures::new(save)?);
    let mut interrupt = Interrupt::listen()?;
    let mut events = client.run_context(sandbox, context, &run).await?;
    let mut interrupts = 0;
    loop {
        let event = tokio::select! {
            event = events.next() => match event {
                Ok(event) => event,
                Err(error) => return Err(with_hint(error, &of, events.last_id())),
            },
            interrupted = interrupt.next() => {
                interrupts += 1;
                if interrupts > 1 {
                    // Twice is enough: hanging up interrupts the run, too.
                    return Err(interrupted.into());
                }
                client.interrupt_context(sandbox, context).await?;
                continue;
            }
        };
        let Some(event) = event else { break };
        let id = events.last_id().unwrap_or_default();
        shown.event(&ContextEvent { id, event })?;
    }
    Ok(shown.exit())
}

/// Adds how to see the rest of a run whose events broke off.
fn with_hint(error: ClientError, of: &Args, last_id: Option<u64>) -> anyhow::Error {
    let (ClientError::Broken { .. }, Some(last)) = (&error, last_id) else { return error.into() };
    let (Args { sandbox, context }, from) = (of, last.saturating_add(1));
    let hint = format!(
        "for the rest of the run: emberctl context events {sandbox} {context} --from {from}"
    );
    Hinted { message: chain(&error), hint }.into()
}

fn text(contexts: &[Context]) -> String {
    let rows: Vec<_> = contexts.iter().map(row).collect();
    output::table(["CONTEXT", "LANGUAGE", "STATE", "RUNS", "WHY"], &rows)
}

fn row(context: &Context) -> [String; 5] {
    let state = match context.state {
        ContextState::Idle => "idle",
        ContextState::Busy => "busy",
        ContextState::Dead => "dead",
    };
    [
        context.id.clone(),
        context.language.clone().unwrap_or_else(|| "-".into()),
        state.to_owned(),
        context.execution_count.to_string(),
        context.reason.clone().unwrap_or_else(|| "-".into()),
    ]
}
