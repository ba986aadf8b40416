//! Connects this terminal, or this process's standard streams, to a process in a sandbox.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use emberd_api::{ExecExit, ProcessEventKind};
use emberd_client::{Attachment, Client};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit;
use crate::interrupt::{Interrupt, Interrupted};
use crate::program;
use crate::terminal::{self, RawMode};

/// The key that leaves a process at a terminal and lets it run: Ctrl-], as in telnet(1).
const LEAVE: u8 = 0x1d;

/// The streams to connect.
#[derive(Debug, Clone, Copy)]
pub struct Wiring {
    /// Whether the process has a terminal.
    pub tty: bool,
    /// Whether standard input is passed on.
    pub input: bool,
    /// Number of the first event to show.
    pub from: u64,
}

/// How it ended.
pub enum Parting {
    /// The process ended.
    Exited(Box<ExecExit>),
    /// The person left; the process runs on.
    Left,
    /// This process was told to stop.
    Interrupted(Interrupted),
}

/// Connects until the process ends, or somebody leaves. The terminal is restored whichever way
/// this ends.
///
/// # Errors
/// The daemon refuses the request or does not answer, or standard output is closed.
pub async fn interact(
    client: &Client,
    id: &str,
    pid: u32,
    wiring: Wiring,
) -> anyhow::Result<Parting> {
    let mut attachment = client.attach(id, pid, wiring.from).await?;
    let raw = wiring.tty && wiring.input && terminal::is_interactive();
    let _raw = raw.then(RawMode::begin).transpose().context("cannot set up the terminal")?;
    converse(&mut attachment, wiring, raw).await
}

async fn converse(
    attachment: &mut Attachment,
    wiring: Wiring,
    raw: bool,
) -> anyhow::Result<Parting> {
    let mut interrupt = Interrupt::listen()?;
    let mut resized = signal(SignalKind::window_change())?;
    let mut input = wiring.input.then(terminal::input);
    if wiring.tty && terminal::is_interactive() {
        attachment.resize(terminal::size()).await?;
    }
    loop {
        tokio::select! {
            event = attachment.event() => match event?.map(|event| event.kind) {
                Some(ProcessEventKind::Exit(exit)) => return Ok(Parting::Exited(Box::new(exit))),
                Some(event) => show(&event)?,
                None => return Ok(Parting::Exited(Box::default())),
            },
            piece = next(&mut input) => match piece {
                Some(bytes) if raw && bytes.contains(&LEAVE) => return Ok(Parting::Left),
                // Lost with the connection if that is just broken: keys can be typed again.
                Some(bytes) => drop(attachment.write(&bytes).await),
                None => {
                    input = None;
                    attachment.end_input().await?;
                }
            },
            _ = resized.recv(), if wiring.tty => drop(attachment.resize(terminal::size()).await),
            interrupted = interrupt.next() => return Ok(Parting::Interrupted(interrupted)),
        }
    }
}

/// The next piece of input; never, once it has ended.
async fn next(input: &mut Option<tokio::sync::mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

fn show(event: &ProcessEventKind) -> io::Result<()> {
    match event {
        ProcessEventKind::Stdout(text) => {
            io::stdout().write_all(&text.bytes())?;
            io::stdout().flush()
        }
        ProcessEventKind::Stderr(text) => io::stderr().write_all(&text.bytes()),
        ProcessEventKind::Gap { .. } => {
            io::stderr().write_all(b"\r\nemberctl: some earlier output is no longer available\r\n")
        }
        _ => Ok(()),
    }
}

/// The exit code for a process that ended with `exit`. Prints errors that its output lacks.
///
/// # Errors
/// Standard error is closed.
pub fn exit_code(exit: &ExecExit) -> io::Result<ExitCode> {
    program::say_why(exit)?;
    Ok(match exit {
        exit if exit.timed_out => exit::TIMED_OUT.into(),
        exit if exit.error.is_some() => exit::NOT_STARTED.into(),
        exit => exit::of_program(exit.exit_code),
    })
}

/// Says that a process runs on, and how to come back.
///
/// # Errors
/// Standard error is closed.
pub fn say_left(id: &str, pid: u32) -> io::Result<()> {
    writeln!(
        io::stderr(),
        "\nemberctl: detached; process {pid} still runs: emberctl attach {id} {pid}"
    )
}
