//! `emberctl context`: interpreters in a sandbox that keep their variables between runs.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use emberd_api::{Context, ContextRun, ContextSpec, ContextState, RunEvent};
use emberd_client::Client;
use serde::Serialize;

use crate::exit;
use crate::interrupt::Interrupt;
use crate::output::{self, Output, printable};
use crate::policy;
use pictures::{Pictures, is_picture};

mod pictures;

/// Commands on contexts.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Open a context and print its id.
    New(NewArgs),
    /// List the contexts of a sandbox.
    Ls(LsArgs),
    /// Run code in a context and show its output as it appears. Ctrl-C interrupts the run.
    Run(RunArgs),
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

/// The JSON line that `context run --save` prints for a picture, among the run's events.
#[derive(Serialize)]
struct Saved {
    event: &'static str,
    path: PathBuf,
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
    let RunArgs { of: Args { sandbox, context }, code, timeout, save } = args;
    let timeout_ms = timeout.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
    let run = ContextRun { code, timeout_ms };
    run.check()?;
    let mut shown = Shown { output, failed: false, pictures: Pictures::new(save)? };
    let mut interrupt = Interrupt::listen()?;
    let mut events = client.run_context(&sandbox, &context, &run).await?;
    let mut interrupts = 0;
    loop {
        let event = tokio::select! {
            event = events.next() => event?,
            interrupted = interrupt.next() => {
                interrupts += 1;
                if interrupts > 1 {
                    // Twice is enough: hanging up interrupts the run, too.
                    return Err(interrupted.into());
                }
                client.interrupt_context(&sandbox, &context).await?;
                continue;
            }
        };
        let Some(event) = event else { break };
        shown.event(&event)?;
        if matches!(event, RunEvent::End { timed_out: true, .. }) {
            return Ok(exit::TIMED_OUT.into());
        }
    }
    Ok(if shown.failed { exit::CHECK_FAILED.into() } else { ExitCode::SUCCESS })
}

/// The part of a run that has been shown.
struct Shown {
    output: Output,
    failed: bool,
    pictures: Pictures,
}

impl Shown {
    fn event(&mut self, event: &RunEvent) -> anyhow::Result<()> {
        if self.output.json {
            writeln!(io::stdout(), "{}", serde_json::to_string(event)?)?;
        } else {
            show(event)?;
        }
        match event {
            RunEvent::Started { execution_count } => self.pictures.of_run(*execution_count),
            RunEvent::Display { data } | RunEvent::Result { data } => {
                for path in self.pictures.take(data)? {
                    if self.output.json {
                        let saved = serde_json::to_string(&Saved { event: "saved", path })?;
                        writeln!(io::stdout(), "{saved}")?;
                    } else {
                        writeln!(io::stdout(), "{}", path.display())?;
                    }
                }
            }
            RunEvent::Error { .. } => self.failed = true,
            RunEvent::End { egress, .. } if !self.output.json => {
                policy::say_denied(egress)?;
                if let Some(complaint) = self.pictures.complaint() {
                    writeln!(io::stderr(), "emberctl: {complaint}")?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// An event for people, but for its pictures.
fn show(event: &RunEvent) -> io::Result<()> {
    match event {
        RunEvent::Stdout { text } => {
            io::stdout().write_all(text.as_bytes())?;
            io::stdout().flush()
        }
        RunEvent::Stderr { text } => io::stderr().write_all(text.as_bytes()),
        RunEvent::Result { data } | RunEvent::Display { data } => {
            if let Some(plain) = data.get::<String>("text/plain") {
                writeln!(io::stdout(), "{}", printable(&plain))?;
            }
            for kind in
                data.kinds().iter().filter(|kind| *kind != "text/plain" && !is_picture(kind))
            {
                writeln!(io::stderr(), "emberctl: also as {}", printable(kind))?;
            }
            Ok(())
        }
        RunEvent::Error { traceback, .. } => {
            writeln!(io::stderr(), "{}", printable(traceback.trim_end()))
        }
        RunEvent::End { truncated: true, .. } => {
            writeln!(io::stderr(), "emberctl: the output of the run was cut at its limit")
        }
        RunEvent::Started { .. } | RunEvent::End { .. } | RunEvent::Other => Ok(()),
    }
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
