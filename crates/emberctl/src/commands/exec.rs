//! `emberctl exec ID CODE`: runs code in a sandbox there is. With `-t` at a terminal, and then
//! a program too: `emberctl exec -it ID -- top`.

use std::process::ExitCode;

use emberd_api::ProcessSpec;
use emberd_client::Client;

use crate::exit;
use crate::interact::{self, Parting, Wiring};
use crate::output::Output;
use crate::program::{self, ProgramArgs};
use crate::terminal;
use crate::trace::Trace;

/// Arguments of `exec`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true)
    .args(["code", "file", "tty"]))]
pub struct Args {
    /// The sandbox.
    id: String,
    /// Give the program a terminal. Without CODE, the words after `--` are the program and its
    /// arguments; without such words, a shell is started.
    #[arg(short, long, conflicts_with = "trace")]
    tty: bool,
    #[command(flatten)]
    program: ProgramArgs,
}

/// Runs the program; the exit code is its own.
///
/// # Errors
/// The program cannot be read, the daemon refuses the request, or no daemon answers.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    if args.tty {
        anyhow::ensure!(!output.json, "--json and --tty cannot be combined");
        let input = args.program.passes_stdin();
        let spec = ProcessSpec { tty: Some(terminal::size()), ..args.program.into_process()? };
        return at_terminal(client, &args.id, &spec, input).await;
    }
    let wants_trace = args.program.trace();
    let body = args.program.into_body()?;
    let mut trace = Trace::default();
    let outcome = trace.note_exec(client.exec_traced(&args.id, &body).await?);
    program::finish(&outcome, wants_trace.then_some(&trace), output)
}

/// Runs `spec` at this terminal. The process is deleted at the end unless the user detached.
///
/// # Errors
/// The daemon refuses the request, or no daemon answers.
pub async fn at_terminal(
    client: &Client,
    id: &str,
    spec: &ProcessSpec,
    input: bool,
) -> anyhow::Result<ExitCode> {
    let pid = client.start_process(id, spec).await?.pid;
    let wiring = Wiring { tty: spec.tty.is_some(), input, from: 0 };
    let parting = interact::interact(client, id, pid, wiring).await;
    if let Ok(Parting::Left) = parting {
        interact::say_left(id, pid)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Whatever kept us from it, nobody else knows of it; gone with its sandbox, it is gone too.
    client.delete_process(id, pid).await.ok();
    match parting? {
        Parting::Exited(exit) => Ok(interact::exit_code(&exit)?),
        Parting::Interrupted(interrupted) => Ok(exit::of_program(interrupted.exit_code())),
        Parting::Left => unreachable!("returned above"),
    }
}
