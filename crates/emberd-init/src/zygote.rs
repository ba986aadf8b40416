//! The pack's zygote: a warm interpreter that forks one process per exec.
//!
//! ```text
//! started ─▶ says ready ─▶ asked for a spare ─▶ forks it ─▶ spare waits ─▶ works for one exec
//!    ▲           │
//!    └── pause ◀─┴─ ends, leaves, sends garbage, or is silent for too long
//! ```
//! Forking is done [`ahead`]. A spare waits in its own session and cgroup with its pipes connected.
//! If no zygote is ready, execs spawn a new interpreter.

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
use tokio::time::{sleep, timeout};

use crate::agent::Agent;
use crate::console;
use crate::exec::{LaunchError, Slot};
use crate::process_tree::Cgroup;

mod ahead;
mod control;
mod life;
mod spare;

use control::{Control, Message};
pub use life::keep;
pub use spare::{Report, Spare, Work};

/// Spares kept waiting. A caller that runs two programs in a row often runs three. All clones of
/// a template share the memory of those it was made with; each one forked later takes about 2 MiB
/// of changed pages.
const SPARES: usize = 3;

/// Time limit for the zygote to fork. Under emulation, on a processor shared with 64 running
/// programs, a fork may take seconds. After this time, the zygote is considered broken.
const FORK_WAIT: Duration = Duration::from_secs(10);

/// Time for which settling waits for the zygote. An emulated interpreter on a busy host imports
/// its modules in several seconds, and a template without a zygote would stay without one. Less
/// than the host waits for the guest to settle.
const SETTLE_WAIT: Duration = Duration::from_secs(80);

/// Time for which settling lets a forked spare become ready, which takes milliseconds.
const REST_WAIT: Duration = Duration::from_secs(2);

/// Pause between two checks of that.
const REST_LOOK: Duration = Duration::from_millis(2);

/// Number of consecutive failures, of starts or of forks, after which settling stops waiting.
const SETTLE_FAILURES: u32 = 3;

/// Size of arguments and environment above which an exec spawns, in bytes (16 KiB). Six times
/// that, which JSON may need, still fits into a socket's buffer.
const WORK_WORDS_BYTES_MAX: usize = 16 << 10;

/// One pack's zygote, whether or not it is running.
#[derive(Debug)]
pub struct Zygote {
    spec: ZygoteSpec,
    state: Mutex<State>,
    /// Notified when spares, readiness or failures change.
    changed: Notify,
    /// Notified when the zygote is suspected to be broken.
    suspected: Notify,
    /// Notified when a program begins or ends.
    used: Notify,
}

/// State of the running zygote.
#[derive(Debug, Default)]
struct State {
    /// Socket for requests; present once the zygote is ready.
    control: Option<Control>,
    /// Spares that wait for work.
    spares: VecDeque<Spare>,
    /// Resources of the requested children, by their numbers.
    asked: HashMap<u64, Asked>,
    /// Execs that wait for a child to be forked.
    waiting: VecDeque<oneshot::Sender<Spare>>,
    /// Pids of children that the zygote has not reaped.
    children: HashSet<u32>,
    /// Consecutive failures of starts and forks.
    failures: u32,
}

#[derive(Debug)]
struct Asked {
    slot: Slot,
    socket: UnixStream,
}

/// Why the zygote could not be asked for a child.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Slot(#[from] LaunchError),
    #[error("cannot ask the zygote for a child")]
    Control(#[from] std::io::Error),
}

/// An unexpected message from the zygote.
#[derive(Debug, thiserror::Error)]
#[error("unexpected message from the zygote: {0}")]
struct Malformed(String);

impl Zygote {
    /// Returns a zygote that [`keep`] will start.
    pub fn new(spec: ZygoteSpec) -> Self {
        let state = Mutex::default();
        let [changed, suspected, used] = std::array::from_fn(|_| Notify::new());
        Self { spec, state, changed, suspected, used }
    }

    /// Returns whether a fork can run `spec` as a new interpreter would. It cannot run as another
    /// user, because `/proc` is restricted for a process that changed its user without executing
    /// a program.
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

    /// Returns a child for an exec: a waiting spare, or one that is forked now; `None` if there
    /// is no zygote.
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
            let (hand_over, forked) = oneshot::channel();
            state.waiting.push_back(hand_over);
            forked
        };
        match timeout(FORK_WAIT, forked).await {
            Ok(spare) => spare.ok(),
            Err(_elapsed) => {
                self.suspect();
                None
            }
        }
    }

    /// Requests a spare if the last one was taken, after a program has ended or become a
    /// long-running process. The others are forked in quiet.
    pub fn replenish(&self, agent: &Agent) {
        self.used.notify_one();
        self.ask_up_to(1, agent);
    }

    /// Waits until [`SPARES`] spares wait; `false` if they cannot be forked.
    pub async fn settle(&self, agent: &Agent) -> bool {
        let settled = async {
            loop {
                let changed = self.changed.notified();
                {
                    let state = self.state();
                    if state.spares.iter().filter(|spare| spare.waits()).count() >= SPARES {
                        return true;
                    }
                    if state.failures >= SETTLE_FAILURES {
                        return false;
                    }
                }
                self.ask_up_to(SPARES, agent);
                changed.await;
            }
        };
        let settled = timeout(SETTLE_WAIT, settled).await.unwrap_or(false);
        let at_rest = async {
            while !self.state().rests() {
                sleep(REST_LOOK).await;
            }
        };
        // A spare that is still busy after this time is accepted as it is.
        timeout(REST_WAIT, at_rest).await.ok();
        settled
    }

    /// Requests the spares missing from `target`, beside those that execs wait for.
    fn ask_up_to(&self, target: usize, agent: &Agent) {
        let mut state = self.state();
        while state.coming() < target + state.waiting.len() && state.ask(agent).is_some() {}
    }

    /// Kills the zygote, which is then restarted.
    pub fn suspect(&self) {
        self.suspected.notify_waiters();
    }

    /// Handles a message from a ready zygote.
    fn handle(&self, agent: &Agent, message: Message) -> Result<(), Malformed> {
        let malformed = Err(Malformed(format!("{message:?}")));
        let mut state = self.state();
        match message {
            Message::Ready { .. } => return malformed,
            Message::Forked { forked, pid } => {
                let Some(Asked { slot, socket }) = state.asked.remove(&forked) else {
                    return malformed;
                };
                state.failures = 0;
                state.children.insert(pid.get());
                let exit = agent.reaper.expect(pid.get());
                let kept = agent.kept.keep(pid.get());
                state.hand_over(Spare::new(slot, kept, socket, exit));
            }
            Message::Failed { failed, error } => {
                if state.asked.remove(&failed).is_none() {
                    return malformed;
                }
                console::say(&format!("the zygote cannot fork: {error}"));
                state.failures += 1;
                // The exec falls back to spawning.
                state.waiting.pop_front();
            }
            Message::Ended { ended, status } => {
                if !state.children.remove(&ended) {
                    return malformed;
                }
                agent.reaper.report_end(ended, ExitStatus::from_raw(status));
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
    /// Requests one more child; `None` if that fails.
    fn ask(&mut self, agent: &Agent) -> Option<()> {
        let control = self.control.as_ref()?;
        match ask(agent, control) {
            Ok(asked) => {
                self.asked.insert(asked.slot.number, asked);
                Some(())
            }
            Err(error) => {
                console::report(&error);
                self.failures += 1;
                None
            }
        }
    }

    /// Returns the number of existing and requested spares.
    fn coming(&self) -> usize {
        self.spares.len() + self.asked.len()
    }

    /// Returns whether every child is a spare that waits for work.
    fn rests(&self) -> bool {
        self.asked.is_empty()
            && self.children.len() <= self.spares.len()
            && self.spares.iter().all(Spare::rests)
    }

    /// Gives `spare` to the exec that has waited longest.
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
    let slot = Slot::make(agent)?;
    let (socket, theirs) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .map_err(std::io::Error::from)?;
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    let procs = slot.cgroup.as_ref().map(Cgroup::procs).transpose()?;
    let procs = procs.as_ref().map(|file| file.as_fd());
    control.ask_for_child(slot.number, theirs.as_fd(), procs)?;
    Ok(Asked { slot, socket: UnixStream::from_std(socket)? })
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
