//! Runs the code of one exec and streams its output to the host.
//!
//! ```text
//! launch ─▶ running ── leader exits ─▶ pipes emptied ─▶ Exited sent ─▶ idle
//!              ├─ time limit ─▶ tree killed ─▶ (leader exits)
//!              └─ host leaves ─▶ tree killed
//! ```
//! One loop moves everything, so that neither a program that does not read its input nor
//! a host that does not read the output keeps the rest from moving.

use std::os::unix::process::ExitStatusExt as _;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use bytes::Bytes;
use emberd_proto::exec::EXIT_CODE_NONE;
use emberd_proto::frame::BULK_BYTES_MAX;
use emberd_proto::{ExecExit, ExecSpec, Frame, GuestMessage, Kind};
use tokio::time::{Instant, sleep_until};

use crate::agent::Agent;
use crate::connection::{Connection, ConnectionError};
use crate::console;

mod input;
mod launch;
mod output;

use launch::Program;

/// Encoded output that may wait for the host before the program's pipes are left unread,
/// in bytes (256 KiB).
const BACKLOG_BYTES_MAX: usize = 4 * BULK_BYTES_MAX;

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
    let exit = match launch::launch(agent, spec) {
        Ok(program) => {
            let deadline = arrived + Duration::from_millis(spec.timeout_ms);
            attend(connection, program, deadline).await?
        }
        Err(error) => ExecExit {
            exit_code: EXIT_CODE_NONE,
            error: Some(console::chain(&error)),
            ..ExecExit::default()
        },
    };
    let duration_us = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
    connection.outgoing.push(&GuestMessage::Exited(ExecExit { duration_us, ..exit }));
    deliver(connection).await
}

/// Keeps `program` supplied and its output moving until its leader has ended.
async fn attend(
    connection: &mut Connection,
    mut program: Program,
    deadline: Instant,
) -> Result<ExecExit, ConnectionError> {
    let Connection { incoming, outgoing } = connection;
    let mut time_limit = pin!(sleep_until(deadline));
    let mut timed_out = false;
    let status = loop {
        let room = outgoing.buffer.len() < BACKLOG_BYTES_MAX;
        tokio::select! {
            status = program.leader.ended() => break status,
            () = &mut time_limit, if !timed_out => timed_out = program.leader.kill(),
            frame = incoming.frame() => match input_of(frame?)? {
                Some(bytes) => program.input.push(bytes)?,
                None => program.input.end(),
            },
            ready = program.input.writable() => { ready?; program.input.write_some(); }
            ready = program.stdout.readable(), if room => {
                ready?;
                program.stdout.read_some(&mut outgoing.buffer);
            }
            ready = program.stderr.readable(), if room => {
                ready?;
                program.stderr.read_some(&mut outgoing.buffer);
            }
            written = outgoing.write_some(), if !outgoing.buffer.is_empty() => written?,
        }
    };
    program.stdout.read_rest(&mut outgoing.buffer);
    program.stderr.read_rest(&mut outgoing.buffer);
    let exit = ExecExit {
        stdout_truncated: program.stdout.truncated(),
        stderr_truncated: program.stderr.truncated(),
        ..exit_of(status, timed_out)
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

fn exit_of(status: ExitStatus, timed_out: bool) -> ExecExit {
    let signal = status.signal();
    let exit_code = match (status.code(), signal) {
        _ if timed_out => EXIT_CODE_NONE,
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => unreachable!("a reaped child exited or was killed"),
    };
    let error = timed_out.then(|| "execution timed out".to_owned());
    ExecExit { exit_code, signal, timed_out, error, ..ExecExit::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_says_code_signal_or_time_limit() {
        let check = |raw, timed_out, exit_code, signal| {
            let exit = exit_of(ExitStatus::from_raw(raw), timed_out);
            assert_eq!(
                (exit.exit_code, exit.signal, exit.timed_out),
                (exit_code, signal, timed_out)
            );
            assert_eq!(exit.error.is_some(), timed_out);
        };
        check(7 << 8, false, 7, None);
        check(9, false, 137, Some(9));
        check(40, false, 168, Some(40)); // a real-time signal
        check(0x8b, false, 139, Some(11)); // with a core dump
        check(9, true, -1, Some(9));
    }
}
