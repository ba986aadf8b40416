//! Runs the zygote's process, and restarts it when it ends.

use std::convert::Infallible;
use std::future;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Pid, pipe2};
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, sleep, timeout};

use super::control::{Control, ControlError, Message};
use super::{Malformed, State, Zygote, ahead};
use crate::agent::Agent;
use crate::console;
use crate::process::NewProcess;
use crate::programs::KeptProcess;
use crate::reaper::Exit;

/// Environment variable with the number of the zygote's control socket.
const CONTROL_FD_VARIABLE: &str = "EMBERD_ZYGOTE_FD";

/// Time limit for a zygote to become ready. An emulated interpreter on a busy host imports its
/// modules in several seconds.
const READY_WAIT: Duration = Duration::from_secs(90);

/// Pause before the zygote is restarted. It doubles with each consecutive failure up to
/// [`RESTART_PAUSE_MAX`], so that a zygote that always fails costs execs almost nothing.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);

/// Maximum pause before the zygote is restarted.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Run time after which earlier failures no longer count.
const STEADY_LIFE: Duration = Duration::from_secs(60);

/// Maximum output of one process on the console, in bytes (16 KiB); the rest is dropped.
const WORDS_BYTES_MAX: usize = 16 << 10;

/// Maximum output in one line of the console, which the kernel's log does not split.
const LINE_BYTES_MAX: usize = 512;

/// Why the zygote's process ended.
#[derive(Debug, thiserror::Error)]
enum LifeError {
    /// The process could not be started.
    #[error("cannot start the zygote")]
    Start(#[source] io::Error),
    /// The process ended.
    #[error("the zygote ended with {0}")]
    Ended(ExitStatus),
    /// The control socket failed.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The zygote sent an unexpected message.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The zygote was not ready in time.
    #[error("the zygote was not ready within {READY_WAIT:?}")]
    NotReady,
    /// The zygote did not answer in time.
    #[error("the zygote stopped answering")]
    Silent,
}

/// Keeps the agent's zygote running, if its pack has one.
pub async fn keep(agent: &Agent) -> Infallible {
    let Some(zygote) = &agent.zygote else { return future::pending().await };
    let mut pause = RESTART_PAUSE_MIN;
    loop {
        let born = Instant::now();
        let Err(error) = live(agent, zygote).await;
        console::report(&error);
        if born.elapsed() >= STEADY_LIFE {
            pause = RESTART_PAUSE_MIN;
        }
        sleep(pause).await;
        pause = RESTART_PAUSE_MAX.min(pause * 2);
    }
}

/// Runs one process of the zygote, from start to clean-up.
async fn live(agent: &Agent, zygote: &Zygote) -> Result<Infallible, LifeError> {
    let mut process = match Process::start(agent, zygote) {
        Ok(process) => process,
        Err(error) => {
            zygote.clean_up(agent);
            return Err(LifeError::Start(error));
        }
    };
    let Err(error) = attend(agent, zygote, &mut process).await;
    if !matches!(error, LifeError::Ended(_)) && process.exit.is_empty() {
        // The process has not been reaped, so the pid is still its own.
        kill(Pid::from_raw(process.kept.pid().cast_signed()), Signal::SIGKILL).ok();
        process.exit.await.ok();
    }
    // Reports that the zygote sent before it ended are still valid.
    while let Ok(Some(message @ Message::Ended { .. })) = process.control.waiting_message() {
        if zygote.handle(agent, message).is_err() {
            break;
        }
    }
    zygote.clean_up(agent);
    Err(error)
}

/// Handles the zygote's messages until it ends or has to be killed.
async fn attend(
    agent: &Agent,
    zygote: &Zygote,
    process: &mut Process,
) -> Result<Infallible, LifeError> {
    let Process { exit, control, words, .. } = process;
    let mut suspected = pin!(zygote.suspected.notified());
    suspected.as_mut().enable();
    let converse = async {
        match timeout(READY_WAIT, control.message()).await {
            Ok(message) => match message? {
                Message::Ready { ready: true } => zygote.begin(agent, control.clone()),
                other => return Err(Malformed(format!("{other:?}")).into()),
            },
            Err(_elapsed) => return Err(LifeError::NotReady),
        }
        loop {
            zygote.handle(agent, control.message().await?)?;
        }
    };
    tokio::select! {
        error = converse => error,
        Ok(status) = &mut *exit => Err(LifeError::Ended(status)),
        () = suspected => Err(LifeError::Silent),
        never = pass_on(words) => match never {},
        never = ahead::keep(agent, zygote) => match never {},
    }
}

impl Zygote {
    /// Starts using a zygote that is ready.
    fn begin(&self, agent: &Agent, control: Control) {
        self.state().control = Some(control);
        self.replenish(agent);
    }

    /// Releases the state of a zygote that is dead and reaped. Working children continue as
    /// children of the agent.
    fn clean_up(&self, agent: &Agent) {
        let dead = {
            let mut state = self.state();
            let failures = state.failures + 1;
            std::mem::replace(&mut *state, State { failures, ..State::default() })
        };
        agent.reaper.orphaned(dead.children.iter().copied());
        drop(dead);
        self.changed.notify_waiters();
    }
}

/// A running zygote.
#[derive(Debug)]
struct Process {
    kept: KeptProcess,
    exit: Exit,
    control: Control,
    /// Standard output and standard error of the zygote.
    words: [Receiver; 2],
    /// Standard input, through which nothing is sent. It has to be a pipe anyway.
    _stdin: OwnedFd,
}

impl Process {
    fn start(agent: &Agent, zygote: &Zygote) -> io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let pipe = || pipe2(OFlag::O_CLOEXEC);
        let (stdin, input) = pipe()?;
        let ((output, stdout), (complaints, stderr)) = (pipe()?, pipe()?);
        let number = theirs.as_raw_fd().to_string();
        let environment =
            agent.environment.overlaid(&[(CONTROL_FD_VARIABLE.to_owned(), number)].into());
        let standard = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let mut new = NewProcess::new(&zygote.spec.run, &environment, Path::new("/"), standard)?;
        new.kept = Some(theirs.as_fd());
        let words = [Receiver::from_owned_fd(output)?, Receiver::from_owned_fd(complaints)?];
        let control = Control::new(ours)?;
        let (pid, exit) = agent.reaper.start(&new)?;
        Ok(Self { kept: agent.kept.keep(pid), exit, control, words, _stdin: input })
    }
}

/// Passes on the zygote's output to the console.
async fn pass_on(words: &[Receiver; 2]) -> Infallible {
    let [stdout, stderr] = words;
    let mut chunk = [0; LINE_BYTES_MAX];
    let mut room = WORDS_BYTES_MAX;
    let mut open = [true; 2];
    loop {
        let (pipe, open) = tokio::select! {
            Ok(()) = stdout.readable(), if open[0] => (stdout, &mut open[0]),
            Ok(()) = stderr.readable(), if open[1] => (stderr, &mut open[1]),
            else => return future::pending().await,
        };
        match pipe.try_read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => *open = false,
            Ok(bytes) => {
                let words = &chunk[..bytes.min(room)];
                room -= words.len();
                for line in String::from_utf8_lossy(words).lines().filter(|line| !line.is_empty()) {
                    console::say(&format!("zygote: {line}"));
                }
            }
        }
    }
}
