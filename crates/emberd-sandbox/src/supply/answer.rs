//! Waits for a guest's answer, the end of its VMM or a timeout.

use std::time::Duration;

use emberd_guest::{ChannelError, Link};
use emberd_proto::Welcome;
use emberd_proto::message::AGENT_PORT;
use emberd_vmm::{AnyMicroVm, ExitReason, ExitWatch, MicroVm as _, Stream, console_tail};
use tokio::time::{Instant, timeout_at};

/// Lines of console log an error quotes.
const TAIL_LINES: usize = 20;

/// Time to wait after a closed connection for the end of the whole VMM.
const END_GRACE: Duration = Duration::from_secs(1);

/// Why a guest gave no valid answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The VMM ended.
    #[error("the VMM {reason} before the guest answered; {console}")]
    Died {
        /// How the VMM ended.
        reason: ExitReason,
        /// The end of the guest's console.
        console: Console,
    },
    /// The guest did not answer in time.
    #[error("the guest did not answer within {waited:?}; {console}")]
    Late {
        /// How long was waited.
        waited: Duration,
        /// The end of the guest's console.
        console: Console,
    },
    /// The guest answered, but not as an agent does.
    #[error("the guest sent an unexpected answer; {console}")]
    Wrong {
        /// How the guest failed.
        source: ChannelError,
        /// The end of the guest's console.
        console: Console,
    },
}

/// Last lines of a guest's console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Console(String);

impl std::fmt::Display for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_str() {
            "" => f.write_str("its console is empty"),
            lines => write!(f, "its console ends:\n{lines}"),
        }
    }
}

/// Runs `conversation` with the guest of `vm` until at most `wait_max` after `since`.
pub(crate) async fn answer<T>(
    vm: &AnyMicroVm,
    since: Instant,
    wait_max: Duration,
    conversation: impl Future<Output = Result<T, ChannelError>>,
) -> Result<T, AnswerError> {
    let console = || Console(console_tail(vm.console_log(), TAIL_LINES));
    let mut exit = vm.exited();
    let source = tokio::select! {
        biased;
        reason = exit.wait() => return Err(AnswerError::Died { reason, console: console() }),
        answer = timeout_at(since + wait_max, conversation) => match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) => return Err(AnswerError::Late { waited: wait_max, console: console() }),
        },
    };
    match ended(&mut exit).await {
        Some(reason) => Err(AnswerError::Died { reason, console: console() }),
        None => Err(AnswerError::Wrong { source, console: console() }),
    }
}

/// Opens a connection and greets the guest; waits while the guest boots.
pub(crate) async fn connect(vm: &AnyMicroVm) -> Result<(Link<Stream>, Welcome), ChannelError> {
    let stream =
        vm.connect(AGENT_PORT).await.map_err(|error| ChannelError::Connect(error.into()))?;
    Link::greet(stream).await
}

/// Tells a closed connection from a VMM that ended: the connection closes a moment earlier.
async fn ended(exit: &mut ExitWatch) -> Option<ExitReason> {
    tokio::time::timeout(END_GRACE, exit.wait()).await.ok()
}
