//! One exec in one guest: its permit, connection and time limit.

use std::time::{Duration, Instant};

use emberd_proto::exec::STDIN_BYTES_MAX;
use emberd_proto::{ExecOutcome, ExecSpec};

use crate::error::{ChannelError, GuestError};
use crate::host::ByteStream;
use crate::link::Room;
use crate::session::Session;

/// A program that has run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// How it ended.
    pub outcome: ExecOutcome,
    /// How long each part took.
    pub times: ExecTimes,
}

/// How long each part of an exec took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecTimes {
    /// The whole exec.
    pub total: Duration,
    /// Waiting for a permit among the sandbox's own execs.
    pub permit: Duration,
    /// Until there was a connection to the guest.
    pub connection: Duration,
    /// By the guest's own clock, from the request's arrival until the program had its work.
    pub launch: Duration,
    /// By the guest's own clock, from then until the program's end.
    pub run: Duration,
}

impl ExecTimes {
    /// Returns the time that no part accounts for: transfer to the guest and back, and the
    /// daemon's own work.
    pub fn rest(&self) -> Duration {
        self.total.saturating_sub(self.permit + self.connection + self.launch + self.run)
    }
}

/// Runs `spec`, once it has a permit. Dropping the future ends the program.
pub(crate) async fn exec<S: ByteStream>(
    session: &Session<S>,
    mut spec: ExecSpec,
    stdin: &[u8],
    room: &mut Room<'_>,
    grace: Duration,
) -> Result<Executed, GuestError> {
    session.add_env(&mut spec.env);
    spec.check()?;
    if stdin.len() > STDIN_BYTES_MAX {
        return Err(GuestError::StdinTooLarge(stdin.len()));
    }
    session.guarded(permitted(session, spec, stdin, room, grace)).await
}

async fn permitted<S: ByteStream>(
    session: &Session<S>,
    spec: ExecSpec,
    stdin: &[u8],
    room: &mut Room<'_>,
    grace: Duration,
) -> Result<Executed, GuestError> {
    let asked = Instant::now();
    let _permit = session.execs.acquire().await.expect("the semaphore is never closed");
    let permit = asked.elapsed();
    let waited = Duration::from_millis(spec.timeout_ms) + grace;
    let mark = session.host.mark();
    match session.in_time(waited, converse(session, spec, stdin, room)).await? {
        Ok((mut outcome, connection)) => {
            outcome.exit.egress = session.host.denied_since(mark);
            let launch = Duration::from_micros(outcome.exit.launch_us);
            let run = Duration::from_micros(outcome.exit.duration_us).saturating_sub(launch);
            let total = asked.elapsed();
            Ok(Executed { outcome, times: ExecTimes { total, permit, connection, launch, run } })
        }
        Err(source) => Err(session.failed(source).await),
    }
}

async fn converse<S: ByteStream>(
    session: &Session<S>,
    spec: ExecSpec,
    stdin: &[u8],
    room: &mut Room<'_>,
) -> Result<(ExecOutcome, Duration), ChannelError> {
    let asked = Instant::now();
    let mut link = session.link().await?;
    let connected = asked.elapsed();
    let outcome = link.exec_within(spec, stdin, room).await;
    if link.is_idle() {
        session.keep(link);
    }
    Ok((outcome?, connected))
}
