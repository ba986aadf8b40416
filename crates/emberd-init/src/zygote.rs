//! The pack's zygote: a warm interpreter that forks one process per exec.
//!
//! ```text
//! started ─▶ says ready ─▶ asked for a spare ─▶ forks it ─▶ spare waits ─▶ works for one exec
//!    ▲           │
//!    └── pause ◀─┴─ ends, leaves, talks nonsense, or is silent for too long
//! ```
//! Forking is done ahead: a spare waits in its own session and cgroup with its pipes laid,
//! and the next one is asked for when an exec has been answered; under load more than one, see
//! [`load`]. Without a zygote that is ready, execs spawn.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use emberd_proto::pack::ZygoteSpec;
use emberd_proto::process::{Limits, ProcessSpec};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use parking_lot::{Mutex, MutexGuard};
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::agent::Agent;
use crate::console;
use crate::exec::{Berth, LaunchError};
use crate::process_tree::Cgroup;

mod control;
mod life;
mod load;
mod spare;

use control::{Control, Message};
pub use life::keep;
pub use spare::{Report, Spare, Work};

/// Spares kept waiting while nothing is hurried. One is what the next exec needs; each more
/// costs the memory of an interpreter's changed pages.
const SPARES: usize = 1;

/// How long the zygote may take to fork. Emulated, on a processor it shares with 64 running
/// programs, it may take seconds; after this long it is taken for broken.
const FORK_WAIT: Duration = Duration::from_secs(10);

/// How long settling waits for the zygote: an emulated interpreter on a busy host imports
/// its modules in several seconds, and a template without a zygote is one for good. Less than
/// the host waits for the guest to settle.
const SETTLE_WAIT: Duration = Duration::from_secs(80);

/// How long settling lets a forked spare make itself ready, which it does in milliseconds.
const REST_WAIT: Duration = Duration::from_secs(2);

/// Pause between two looks whether it is.
const REST_LOOK: Duration = Duration::from_millis(2);

/// Failures in a row, of starts or of forks, after which settling waits no longer.
const SETTLE_FAILURES: u32 = 3;

/// Arguments and environment together beyond which an exec spawns, in bytes (16 KiB): six
/// times that, as JSON may need, still goes through a socket's buffer at once.
const WORK_WORDS_BYTES_MAX: usize = 16 << 10;

/// One pack's zygote, whether or not it lives just now.
#[derive(Debug)]
pub struct Zygote {
    spec: ZygoteSpec,
    state: Mutex<State>,
    /// Rung when spares, readiness or failures change.
    changed: Notify,
    /// Rung when somebody has reason to believe that it is broken.
    doubted: Notify,
    /// Rung when a program begins or ends.
    used: Notify,
}

/// What is known of the zygote that lives now.
#[derive(Debug, Default)]
struct State {
    /// Where it is asked; there once it is ready.
    control: Option<Control>,
    /// Children that wait for work.
    spares: VecDeque<Spare>,
    /// What children it was asked to fork will have, by their numbers.
    asked: HashMap<u64, Asked>,
    /// Execs that wait for a child to be forked.
    waiting: VecDeque<oneshot::Sender<Spare>>,
    /// Pids of the children it has not reaped.
    children: HashSet<u32>,
    /// Starts and forks that failed since the last that did not.
    failures: u32,
    /// Until when more than [`SPARES`] are kept.
    loaded_until: Option<Instant>,
}

#[derive(Debug)]
struct Asked {
    berth: Berth,
    socket: UnixStream,
}

/// Why the zygote was not asked for a child.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Berth(#[from] LaunchError),
    #[error("cannot ask the zygote for a child")]
    Control(#[from] std::io::Error),
}

/// What the zygote said that it should not have.
#[derive(Debug, thiserror::Error)]
#[error("the zygote has no business saying {0}")]
struct Nonsense(String);

impl Zygote {
    /// A zygote that is yet to be started, by [`keep`].
    pub fn new(spec: ZygoteSpec) -> Self {
        let state = Mutex::default();
        let [changed, doubted, used] = std::array::from_fn(|_| Notify::new());
        Self { spec, state, changed, doubted, used }
    }

    /// Whether a fork can run `spec` as a new interpreter would. Not as another user: `/proc`
    /// withholds much from a process that changed its user without executing a program.
    pub fn suits(&self, spec: &ProcessSpec) -> bool {
        let Limits { cpu_ms, file_mib, .. } = spec.limits;
        if spec.code.is_none() || spec.user.is_some() || spec.tty.is_some() {
            return false;
        }
        let words = spec.args.iter().map(String::len);
        let variables = spec.env.iter().map(|(name, value)| name.len() + value.len());
        !spec.fresh
            && cpu_ms.is_none()
            && file_mib.is_none()
            && words.chain(variables).sum::<usize>() <= WORK_WORDS_BYTES_MAX
            && !spec.env.keys().any(|name| self.needs_spawn(name))
    }

    fn needs_spawn(&self, variable: &str) -> bool {
        self.spec.spawn_for_env.iter().any(|rule| match rule.strip_suffix('*') {
            Some(beginning) => variable.starts_with(beginning),
            None => variable == rule,
        })
    }

    /// A child for an exec: the spare that waits, else one forked now; `None` when there is
    /// no zygote to fork it.
    pub async fn spare(&self, agent: &Agent) -> Option<Spare> {
        self.used.notify_one();
        let forked = {
            let mut state = self.state();
            while let Some(spare) = state.spares.pop_front() {
                if spare.waits() {
                    return Some(spare);
                }
            }
            if state.asked.len() <= state.waiting.len() {
                state.ask(agent)?;
            }
            state.miss();
            let (hand_over, forked) = oneshot::channel();
            state.waiting.push_back(hand_over);
            forked
        };
        match timeout(FORK_WAIT, forked).await {
            Ok(spare) => spare.ok(),
            Err(_elapsed) => {
                self.doubt();
                None
            }
        }
    }

    /// Asks for the spares that are missing, now that a program has ended or become something
    /// that stays.
    pub fn replenish(&self, agent: &Agent) {
        self.used.notify_one();
        let mut state = self.state();
        while state.coming() < SPARES + state.waiting.len() {
            if state.ask(agent).is_none() {
                return;
            }
        }
    }

    /// Waits until a spare waits, and no more than that; `false` when there is none to be had.
    pub async fn settle(&self, agent: &Agent) -> bool {
        let settled = async {
            loop {
                let changed = self.changed.notified();
                {
                    let state = self.state();
                    if state.spares.iter().any(Spare::waits) {
                        return true;
                    }
                    if state.failures >= SETTLE_FAILURES {
                        return false;
                    }
                }
                self.replenish(agent);
                changed.await;
            }
        };
        let settled = timeout(SETTLE_WAIT, settled).await.unwrap_or(false);
        self.calm_down();
        let at_rest = async {
            while !self.state().rests() {
                sleep(REST_LOOK).await;
            }
        };
        // One that is still busy after this long is as good as one that rests.
        timeout(REST_WAIT, at_rest).await.ok();
        settled
    }

    /// Has the zygote killed and started anew.
    pub fn doubt(&self) {
        self.doubted.notify_waiters();
    }

    /// Acts on what the zygote said once it was ready.
    fn hear(&self, agent: &Agent, message: Message) -> Result<(), Nonsense> {
        let nonsense = Err(Nonsense(format!("{message:?}")));
        let mut state = self.state();
        match message {
            Message::Ready { .. } => return nonsense,
            Message::Forked { forked, pid } => {
                let Some(Asked { berth, socket }) = state.asked.remove(&forked) else {
                    return nonsense;
                };
                state.failures = 0;
                state.children.insert(pid.get());
                let exit = agent.reaper.expect(pid.get());
                state.hand_over(Spare::new(berth, pid.get(), socket, exit));
            }
            Message::Failed { failed, error } => {
                if state.asked.remove(&failed).is_none() {
                    return nonsense;
                }
                console::say(&format!("the zygote cannot fork: {error}"));
                state.failures += 1;
                // Its exec spawns.
                state.waiting.pop_front();
            }
            Message::Ended { ended, status } => {
                if !state.children.remove(&ended) {
                    return nonsense;
                }
                agent.reaper.told(ended, ExitStatus::from_raw(status));
                state.spares.retain(Spare::waits);
                drop(state);
                agent.sweep();
            }
        }
        self.changed.notify_waiters();
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Asks for one more child; `None` when that cannot be.
    fn ask(&mut self, agent: &Agent) -> Option<()> {
        let control = self.control.as_ref()?;
        match ask(agent, control) {
            Ok(asked) => {
                self.asked.insert(asked.berth.number, asked);
                Some(())
            }
            Err(error) => {
                console::report(&error);
                self.failures += 1;
                None
            }
        }
    }

    /// Whether every child is a spare that waits for its work.
    fn rests(&self) -> bool {
        self.asked.is_empty()
            && self.children.len() <= self.spares.len()
            && self.spares.iter().all(Spare::rests)
    }

    /// Gives `spare` to the exec that waits longest.
    fn hand_over(&mut self, mut spare: Spare) {
        while let Some(exec) = self.waiting.pop_front() {
            match exec.send(spare) {
                Ok(()) => return,
                // That exec no longer waits.
                Err(unclaimed) => spare = unclaimed,
            }
        }
        self.spares.push_back(spare);
    }
}

fn ask(agent: &Agent, control: &Control) -> Result<Asked, AskError> {
    let berth = Berth::make(agent)?;
    let (socket, theirs) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .map_err(std::io::Error::from)?;
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    let procs = berth.cgroup.as_ref().map(Cgroup::procs).transpose()?;
    let procs = procs.as_ref().map(|file| file.as_fd());
    control.ask_for_child(berth.number, theirs.as_fd(), procs)?;
    Ok(Asked { berth, socket: UnixStream::from_std(socket)? })
}

#[cfg(test)]
mod tests {
    use emberd_proto::ExecSpec;
    use emberd_proto::process::TtySize;

    use super::*;

    fn zygote(spawn_for_env: &[&str]) -> Zygote {
        let spawn_for_env = spawn_for_env.iter().map(|rule| (*rule).to_owned()).collect();
        Zygote::new(ZygoteSpec { run: vec!["zygote".into()], spawn_for_env })
    }

    #[test]
    fn execs_a_fork_would_run_otherwise_are_spawned() {
        let zygote = zygote(&["LANG", "PYTHON*"]);
        let check = |name: &str, suits| {
            let env = [(name.to_owned(), String::new())].into();
            let spec = ExecSpec { env, ..ExecSpec::new("") };
            assert_eq!(zygote.suits(&spec.into()), suits, "{name}");
        };
        check("LANG", false);
        check("LANGUAGE", true);
        check("PYTHON", false);
        check("PYTHONPATH", false);
        check("MY_PYTHONPATH", true);
    }

    #[test]
    fn processes_a_fork_cannot_be_are_spawned() {
        type Edit = fn(&mut ProcessSpec);
        let cases: [(Edit, bool); 8] = [
            (|_| {}, true),
            (|spec| spec.limits.memory_mib = Some(64), true),
            (|spec| spec.limits.cpu_ms = Some(1), false),
            (|spec| spec.limits.file_mib = Some(1), false),
            (|spec| spec.user = Some("root".into()), false),
            (|spec| spec.tty = Some(TtySize { cols: 80, rows: 24 }), false),
            (|spec| spec.fresh = true, false),
            (|spec| spec.args = vec!["x".repeat(WORK_WORDS_BYTES_MAX + 1)], false),
        ];
        let zygote = zygote(&[]);
        for (case, (edit, suits)) in cases.into_iter().enumerate() {
            let mut spec = ExecSpec::new("").into();
            edit(&mut spec);
            assert_eq!(zygote.suits(&spec), suits, "case {case}");
        }
        assert!(!zygote.suits(&ProcessSpec::of_argv(["true"])));
    }
}
