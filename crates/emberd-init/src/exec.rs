//! Runs one program, an exec's or a process, and streams its output to the host.
//!
//! ```text
//! launch ─▶ running ── leader ends ─▶ pipes emptied ─▶ Exited sent ─▶ tidied up ─▶ idle
//!              ├─ time limit ─▶ tree killed ─▶ (leader ends)
//!              └─ host leaves ─▶ tree killed
//! ```
//! A process is also reported as started, can be sent signals, and has no output cap. One loop
//! moves all data, so that neither a program that does not read its input nor a host that does
//! not read the output blocks the rest.

use std::future;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use emberd_proto::exec::EXIT_CODE_NONE;
use emberd_proto::frame::BULK_BYTES_MAX;
use emberd_proto::process::{ProcessSpec, SignalName, TtySize};
use emberd_proto::{ExecExit, Frame, GuestMessage, HostMessage, Kind, Refusal, StartedBy, chain};
use nix::sys::signal::Signal;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use crate::agent::Agent;
use crate::connection::{Connection, ConnectionError, Outgoing};
use crate::residents::Resident;

mod input;
mod launch;
mod leader;
mod leftover;
mod output;
mod slot;
mod terminal;

use input::Input;
pub use launch::{LaunchError, Program};
pub(crate) use launch::{check_directory, directory, environment_of};
use leader::End;
pub use leader::Leader;
pub use leftover::Leftovers;
use output::Output;
pub use slot::Slot;
use slot::Streams;

/// Amount of encoded output waiting for the host at which the program's pipes are no longer read,
/// in bytes (256 KiB).
pub(crate) const BACKLOG_BYTES_MAX: usize = 4 * BULK_BYTES_MAX;

/// Time for which the output of a fork of the zygote is not read. Most programs end within it,
/// and their output is read at once. Waking up for each write would take the only processor from
/// a program that is about to end. A program that fills its pipes waits at most this long.
const OUTPUT_REST: Duration = Duration::from_millis(10);
/// Time limit of a program without one: longer than any machine runs (30 years).
const UNLIMITED: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// Time limit for reaping a killed program. After it, the zygote that should have reaped the
/// program is considered broken.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// How a program's output is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The host collects the output, which is cut at a cap. Input may arrive all at once.
    Exec,
    /// The host streams output and input.
    Process,
}

/// Runs `spec`, which has been checked, and answers [`GuestMessage::Exited`].
///
/// Dropping the future, or an error, kills the whole process tree.
///
/// # Errors
/// If the host closes the connection or breaks the protocol.
pub async fn run(
    agent: &Agent,
    connection: &mut Connection,
    spec: &ProcessSpec,
    mode: Mode,
) -> Result<(), ConnectionError> {
    let arrived = Instant::now();
    let mut launched = launch::launch(agent, spec).await;
    let launch_us = elapsed_us(arrived);
    let answer = match &mut launched {
        Ok(program) => {
            if mode == Mode::Process {
                program.streams.unbounded();
                let pid = program.leader.pid();
                connection.started(pid);
            }
            let deadline = match spec.timeout_ms {
                Some(timeout_ms) => arrived + Duration::from_millis(timeout_ms),
                None => arrived + UNLIMITED,
            };
            let exit = attend(agent, connection, program, deadline, mode).await?;
            let started_by = Some(program.started_by);
            let duration_us = elapsed_us(arrived);
            // The kernel counts before it kills, so a program that has ended is counted. Without
            // a limit of its own, a program that succeeded is not asked about: that takes time.
            let out_of_memory = (spec.limits.memory_mib.is_some() || exit.exit_code != 0)
                && program.leader.ran_out_of_memory();
            GuestMessage::Exited(ExecExit {
                launch_us,
                started_by,
                duration_us,
                out_of_memory,
                ..exit
            })
        }
        Err(error) => match error.refusal() {
            Some(code) => {
                let message = chain(error);
                GuestMessage::Refused(Refusal { code, message })
            }
            None => GuestMessage::Exited(ExecExit {
                exit_code: EXIT_CODE_NONE,
                error: Some(chain(error)),
                duration_us: elapsed_us(arrived),
                ..ExecExit::default()
            }),
        },
    };
    connection.outgoing.push(&answer);
    let delivered = deliver(connection, |frame| host_event(frame, Mode::Process)).await;
    // Lets the mux send the answer before the clean-up, which the host need not wait for.
    yield_now().await;
    if let Ok(program) = launched {
        program.leave(&agent.leftovers);
    }
    delivered?;
    if let Some(zygote) = &agent.zygote {
        zygote.replenish(agent);
    }
    Ok(())
}

pub(crate) fn elapsed_us(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Moves the input and output of `program` until its leader ends.
async fn attend(
    agent: &Agent,
    connection: &mut Connection,
    program: &mut Program,
    deadline: Instant,
    mode: Mode,
) -> Result<ExecExit, ConnectionError> {
    let Connection { incoming, outgoing, program: own, .. } = connection;
    let Program {
        leader, streams: Streams { input, stdout, stderr, terminal }, started_by, ..
    } = program;
    let mut time_limit = pin!(sleep_until(deadline));
    let mut output_rest = pin!(sleep(OUTPUT_REST));
    let mut listens = mode == Mode::Process || *started_by == StartedBy::Spawn;
    let mut timed_out = false;
    let end = loop {
        tokio::select! {
            // The order matters: a program that wrote and ended is answered at once.
            biased;
            end = leader.ended() => break end,
            () = &mut time_limit => {
                if timed_out && let Some(zygote) = &agent.zygote {
                    zygote.suspect();
                }
                timed_out = leader.kill();
                time_limit.as_mut().reset(Instant::now() + KILL_WAIT);
            }
            frame = incoming.frame() => {
                match host_event(frame?, mode)? {
                    HostEvent::Input(bytes) => input.push(bytes)?,
                    HostEvent::InputEnd => input.end(),
                    HostEvent::Signal(signal) => leader.signal(signal),
                    // A program without a terminal has no size to change.
                    HostEvent::Resize(size) => drop(terminal.as_ref().map(|t| t.resize(size))),
                }
                tell_taken(input, own.as_deref());
            }
            ready = input.writable() => {
                ready?;
                input.write_some();
                tell_taken(input, own.as_deref());
            }
            () = &mut output_rest, if !listens => listens = true,
            relayed = relay(outgoing, [&mut *stdout, &mut *stderr], listens) => relayed?,
        }
    };
    stdout.read_rest(&mut outgoing.buffer);
    stderr.read_rest(&mut outgoing.buffer);
    let exit = ExecExit {
        stdout_truncated: stdout.truncated(),
        stderr_truncated: stderr.truncated(),
        ..exit_of(end, timed_out)
    };
    Ok(exit)
}

/// Allows the host to send as much more input as was consumed.
fn tell_taken(input: &mut Input, process: Option<&Resident>) {
    if let (Some(process), Some(bytes)) = (process, input.taken()) {
        process.took(bytes);
    }
}

/// Moves output one step on its way: from a pipe to the buffer, if the agent `listens` and there is
/// room, or from the buffer to the host. Cancel safe.
pub(crate) async fn relay(
    outgoing: &mut Outgoing,
    [stdout, stderr]: [&mut Output; 2],
    listens: bool,
) -> Result<(), ConnectionError> {
    let reading = listens && outgoing.buffer.len() < BACKLOG_BYTES_MAX;
    tokio::select! {
        biased;
        ready = stdout.readable(), if reading => {
            ready?;
            stdout.read_some(&mut outgoing.buffer);
        }
        ready = stderr.readable(), if reading => {
            ready?;
            stderr.read_some(&mut outgoing.buffer);
        }
        written = outgoing.write_some(), if !outgoing.buffer.is_empty() => written?,
        else => future::pending().await,
    }
    Ok(())
}

/// Writes all buffered output to the host. It keeps reading meanwhile, because the host may first
/// have to send what the program no longer needs; `check` refuses anything else.
pub(crate) async fn deliver<T>(
    connection: &mut Connection,
    check: impl Fn(Option<Frame>) -> Result<T, ConnectionError>,
) -> Result<(), ConnectionError> {
    let Connection { incoming, outgoing, .. } = connection;
    while !outgoing.buffer.is_empty() {
        tokio::select! {
            frame = incoming.frame() => drop(check(frame?)?),
            written = outgoing.write_some() => written?,
        }
    }
    Ok(())
}

/// A request of the host for a running program.
enum HostEvent {
    Input(Bytes),
    InputEnd,
    Signal(Signal),
    Resize(TtySize),
}

fn host_event(frame: Option<Frame>, mode: Mode) -> Result<HostEvent, ConnectionError> {
    let frame = frame.ok_or(ConnectionError::HostLeft)?;
    match frame.kind {
        Kind::Stdin => Ok(HostEvent::Input(frame.payload)),
        Kind::StdinEnd => Ok(HostEvent::InputEnd),
        Kind::Control if mode == Mode::Process => match frame.message()? {
            HostMessage::Signal { signal } => Ok(HostEvent::Signal(number_of(signal))),
            HostMessage::Resize(size) if size.check().is_ok() => Ok(HostEvent::Resize(size)),
            _ => Err(ConnectionError::Unexpected(Kind::Control)),
        },
        kind => Err(ConnectionError::Unexpected(kind)),
    }
}

pub(crate) fn number_of(name: SignalName) -> Signal {
    match name {
        SignalName::SigAbrt => Signal::SIGABRT,
        SignalName::SigAlrm => Signal::SIGALRM,
        SignalName::SigCont => Signal::SIGCONT,
        SignalName::SigHup => Signal::SIGHUP,
        SignalName::SigInt => Signal::SIGINT,
        SignalName::SigKill => Signal::SIGKILL,
        SignalName::SigQuit => Signal::SIGQUIT,
        SignalName::SigStop => Signal::SIGSTOP,
        SignalName::SigTerm => Signal::SIGTERM,
        SignalName::SigTstp => Signal::SIGTSTP,
        SignalName::SigUsr1 => Signal::SIGUSR1,
        SignalName::SigUsr2 => Signal::SIGUSR2,
        SignalName::SigWinch => Signal::SIGWINCH,
    }
}

pub(crate) fn exit_of(end: End, timed_out: bool) -> ExecExit {
    let (code, signal) = match end {
        End::Reaped(status) => (status.code(), status.signal()),
        End::Reported(code) => (Some(i32::from(code)), None),
        End::Lost => (None, None),
    };
    let exit_code = match (code, signal) {
        _ if timed_out => EXIT_CODE_NONE,
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => EXIT_CODE_NONE,
    };
    let error = match end {
        _ if timed_out => Some("execution timed out".to_owned()),
        End::Lost => Some("the zygote ended before it reported the program's exit".to_owned()),
        End::Reaped(_) | End::Reported(_) => None,
    };
    ExecExit { exit_code, signal, timed_out, error, ..ExecExit::default() }
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn exit_says_code_signal_or_time_limit() {
        let check = |end, timed_out, exit_code, signal| {
            let exit = exit_of(end, timed_out);
            assert_eq!(
                (exit.exit_code, exit.signal, exit.timed_out),
                (exit_code, signal, timed_out)
            );
            assert_eq!(exit.error.is_some(), timed_out || end == End::Lost);
        };
        let reaped = |raw| End::Reaped(ExitStatus::from_raw(raw));
        check(reaped(7 << 8), false, 7, None);
        check(reaped(9), false, 137, Some(9));
        check(reaped(40), false, 168, Some(40)); // a real-time signal
        check(reaped(0x8b), false, 139, Some(11)); // with a core dump
        check(reaped(9), true, -1, Some(9));
        check(End::Reported(255), false, 255, None);
        check(End::Lost, false, -1, None);
        check(End::Lost, true, -1, None);
    }
}
