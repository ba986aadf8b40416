//! The zygote's process, one life after the other.

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
use super::{Nonsense, State, Zygote, load};
use crate::agent::Agent;
use crate::console;
use crate::process::NewProcess;
use crate::reaper::Exit;

/// Variable that tells the zygote the number of its control socket.
const CONTROL_FD_VARIABLE: &str = "EMBERD_ZYGOTE_FD";

/// How long a zygote may take to become ready: an emulated interpreter on a busy host
/// imports its modules in several seconds.
const READY_WAIT: Duration = Duration::from_secs(90);

/// Pause before the zygote is started anew; it doubles with each failure in a row up to
/// [`RESTART_PAUSE_MAX`], so that one that cannot live costs execs next to nothing.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);

/// Longest pause before the zygote is started anew.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);

/// A life this long makes up for the failures before it.
const STEADY_LIFE: Duration = Duration::from_secs(60);

/// Most bytes of one life's output that reach the console (16 KiB); the rest is dropped.
const WORDS_BYTES_MAX: usize = 16 << 10;

/// Most bytes of output in one line of the console, which the kernel's log keeps whole.
const LINE_BYTES_MAX: usize = 512;

/// How a life of the zygote ended.
#[derive(Debug, thiserror::Error)]
enum LifeError {
    /// It never began.
    #[error("cannot start the zygote")]
    Start(#[source] io::Error),
    /// Its process ended.
    #[error("the zygote ended with {0}")]
    Ended(ExitStatus),
    /// Nothing more can be heard of it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// It said something out of turn.
    #[error(transparent)]
    Nonsense(#[from] Nonsense),
    /// It did not become ready in time.
    #[error("the zygote was not ready within {READY_WAIT:?}")]
    NotReady,
    /// It was silent when it should not have been.
    #[error("the zygote is silent")]
    Silent,
}

/// Keeps the agent's zygote alive, if its pack has one.
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

/// One life, from start to burial.
async fn live(agent: &Agent, zygote: &Zygote) -> Result<Infallible, LifeError> {
    let mut process = match Process::start(agent, zygote) {
        Ok(process) => process,
        Err(error) => {
            zygote.bury(agent);
            return Err(LifeError::Start(error));
        }
    };
    let Err(error) = attend(agent, zygote, &mut process).await;
    if !matches!(error, LifeError::Ended(_)) && process.exit.is_empty() {
        // It has not been reaped, so the pid is still its own.
        kill(Pid::from_raw(process.pid.cast_signed()), Signal::SIGKILL).ok();
        process.exit.await.ok();
    }
    // What it said last counts, even if it left out of turn.
    while let Ok(Some(message @ Message::Ended { .. })) = process.control.waiting_message() {
        if zygote.hear(agent, message).is_err() {
            break;
        }
    }
    zygote.bury(agent);
    Err(error)
}

/// Listens to the zygote until it ends or must.
async fn attend(
    agent: &Agent,
    zygote: &Zygote,
    process: &mut Process,
) -> Result<Infallible, LifeError> {
    let Process { exit, control, words, .. } = process;
    let mut doubted = pin!(zygote.doubted.notified());
    doubted.as_mut().enable();
    let converse = async {
        match timeout(READY_WAIT, control.message()).await {
            Ok(message) => match message? {
                Message::Ready { ready: true } => zygote.begin(agent, control.clone()),
                other => return Err(Nonsense(format!("{other:?}")).into()),
            },
            Err(_elapsed) => return Err(LifeError::NotReady),
        }
        loop {
            zygote.hear(agent, control.message().await?)?;
        }
    };
    tokio::select! {
        error = converse => error,
        Ok(status) = &mut *exit => Err(LifeError::Ended(status)),
        () = doubted => Err(LifeError::Silent),
        never = pass_on(words) => match never {},
        never = load::keep(agent, zygote) => match never {},
    }
}

impl Zygote {
    /// Takes up work with a zygote that is ready.
    fn begin(&self, agent: &Agent, control: Control) {
        self.state().control = Some(control);
        self.replenish(agent);
    }

    /// Lets go of everything that hung on a zygote that is dead and reaped. Children at work
    /// live on, as children of the agent.
    fn bury(&self, agent: &Agent) {
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
    pid: u32,
    exit: Exit,
    control: Control,
    /// Its standard output and standard error.
    words: [Receiver; 2],
    /// Nothing comes through its standard input, which must be a pipe all the same.
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
        Ok(Self { pid, exit, control, words, _stdin: input })
    }
}

/// Passes on to the console what the zygote prints.
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
