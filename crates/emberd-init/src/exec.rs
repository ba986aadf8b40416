//! Runs the code of one exec and streams its output to the host.
//!
//! ```text
//! launch ─▶ running ── leader ends ─▶ pipes emptied ─▶ Exited sent ─▶ tidied up ─▶ idle
//!              ├─ time limit ─▶ tree killed ─▶ (leader ends)
//!              └─ host leaves ─▶ tree killed
//! ```
//! One loop moves everything, so that neither a program that does not read its input nor
//! a host that does not read the output keeps the rest from moving.

use std::os::unix::process::ExitStatusExt as _;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use emberd_proto::exec::EXIT_CODE_NONE;
use emberd_proto::frame::BULK_BYTES_MAX;
use emberd_proto::{ExecExit, ExecSpec, Frame, GuestMessage, Kind};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::agent::Agent;
use crate::connection::{Connection, ConnectionError};
use crate::console;

mod berth;
mod input;
mod launch;
mod leader;
mod output;

pub use berth::Berth;
use berth::Streams;
pub(crate) use launch::check_directory;
pub use launch::{LaunchError, Program};
use leader::End;
pub use leader::Leader;

/// Encoded output that may wait for the host before the program's pipes are left unread,
/// in bytes (256 KiB).
pub(crate) const BACKLOG_BYTES_MAX: usize = 4 * BULK_BYTES_MAX;

/// How long a killed program may take to be reaped. Then its zygote, which should have, is
/// taken for broken.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// Runs `spec`, which has been checked, and answers [`GuestMessage::Exited`].
///
/// Dropping the future, or an error, kills the whole process tree.
///
/// # Errors
/// When the host leaves or breaks the protocol meanwhile.
pub async fn run(
    agent: &Agent,
    connection: &mut Connection,
    spec: &ExecSpec,
) -> Result<(), ConnectionError> {
    let arrived = Instant::now();
    let mut launched = launch::launch(agent, spec).await;
    let launch_us = elapsed_us(arrived);
    let exit = match &mut launched {
        Ok(program) => {
            let deadline = arrived + Duration::from_millis(spec.timeout_ms);
            let exit = attend(agent, connection, program, deadline).await?;
            ExecExit { launch_us, started_by: Some(program.started_by), ..exit }
        }
        Err(error) => ExecExit {
            exit_code: EXIT_CODE_NONE,
            error: Some(console::chain(error)),
            ..ExecExit::default()
        },
    };
    let exit = ExecExit { duration_us: elapsed_us(arrived), ..exit };
    connection.outgoing.push(&GuestMessage::Exited(exit));
    deliver(connection).await?;
    // The mux gets its turn to pass the answer on before the tidying up, for which nobody
    // waits.
    yield_now().await;
    drop(launched);
    if let Some(zygote) = &agent.zygote {
        zygote.replenish(agent);
    }
    Ok(())
}

pub(crate) fn elapsed_us(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Keeps `program` supplied and its output moving until its leader has ended.
async fn attend(
    agent: &Agent,
    connection: &mut Connection,
    program: &mut Program,
    deadline: Instant,
) -> Result<ExecExit, ConnectionError> {
    let Connection { incoming, outgoing } = connection;
    let Program { leader, streams: Streams { input, stdout, stderr }, .. } = program;
    let mut time_limit = pin!(sleep_until(deadline));
    let mut timed_out = false;
    let end = loop {
        let room = outgoing.buffer.len() < BACKLOG_BYTES_MAX;
        tokio::select! {
            // In this order, so that a program that wrote and ended is answered in one go.
            biased;
            end = leader.ended() => break end,
            () = &mut time_limit => {
                if timed_out && let Some(zygote) = &agent.zygote {
                    zygote.doubt();
                }
                timed_out = leader.kill();
                time_limit.as_mut().reset(Instant::now() + KILL_WAIT);
            }
            frame = incoming.frame() => match input_of(frame?)? {
                Some(bytes) => input.push(bytes)?,
                None => input.end(),
            },
            ready = input.writable() => { ready?; input.write_some(); }
            ready = stdout.readable(), if room => {
                ready?;
                stdout.read_some(&mut outgoing.buffer);
            }
            ready = stderr.readable(), if room => {
                ready?;
                stderr.read_some(&mut outgoing.buffer);
            }
            written = outgoing.write_some(), if !outgoing.buffer.is_empty() => written?,
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

/// Writes out all that waits for the host. The host may first want to get rid of input the
/// program no longer needs, so that keeps being read.
async fn deliver(connection: &mut Connection) -> Result<(), ConnectionError> {
    let Connection { incoming, outgoing } = connection;
    while !outgoing.buffer.is_empty() {
        tokio::select! {
            frame = incoming.frame() => drop(input_of(frame?)?),
            written = outgoing.write_some() => written?,
        }
    }
    Ok(())
}

/// The input in a frame that came during an exec; `None` at its end.
fn input_of(frame: Option<Frame>) -> Result<Option<Bytes>, ConnectionError> {
    match frame {
        Some(Frame { kind: Kind::Stdin, payload }) => Ok(Some(payload)),
        Some(Frame { kind: Kind::StdinEnd, .. }) => Ok(None),
        Some(Frame { kind, .. }) => Err(ConnectionError::Unexpected(kind)),
        None => Err(ConnectionError::HostLeft),
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
        End::Lost => Some("the program's end was lost with its zygote".to_owned()),
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
