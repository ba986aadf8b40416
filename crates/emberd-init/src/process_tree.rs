//! All processes that one exec started, and how to kill them at once.
//!
//! As PID 1, each exec has a cgroup, which a process cannot leave by forking. All of them are
//! in one, whose limit of processes leaves out the agent and the warm interpreter:
//!
//! ```text
//! /sys/fs/cgroup: agent, zygote ─▶ programs: limit of the sandbox ─▶ exec-N: limit of the exec
//! ```
//! Elsewhere, and on kernels without `cgroup.kill` (before 5.14), the tree is found in `/proc`:
//! descendants of the leader and processes of its session. An orphan with a session of its own
//! escapes that.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use emberd_proto::limits::PIDS_DEFAULT;
use emberd_proto::process::Limits;
use nix::sys::signal::Signal;
use parking_lot::Mutex;

mod descent;

pub use descent::living_below;

/// Makes orphaned descendants children of this process.
///
/// # Errors
/// If the kernel refuses.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Where cgroup version 2 is mounted in the guest.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// File that limits the number of cgroups below a cgroup (kernel document `cgroup-v2`).
pub const CGROUPS_MAX_FILE: &str = "cgroup.max.descendants";

/// Default limit of processes and threads of one exec, which stops fork bombs. It is far more
/// than programs need, and a guest of 128 MiB can hold that many copies of a shell.
const PIDS_MAX_DEFAULT: u64 = 512;

/// Processes that the kernel can have beyond those of programs: its own threads, and the agent's
/// with what it keeps ready.
const PIDS_BESIDE: u64 = 1024;

/// Most processes and threads of the kernel, and its highest process id (`proc_sys_kernel(5)`).
const THREADS_MAX: &str = "/proc/sys/kernel/threads-max";
const PID_MAX: &str = "/proc/sys/kernel/pid_max";

/// Cgroup controllers that can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// Memory, in bytes.
    Memory,
    /// Processes and threads.
    Pids,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// Why a limit cannot be enforced.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The guest cannot enforce the limit.
    #[error(
        "this guest cannot limit {}, which needs an agent that is PID 1 and a kernel with that \
         controller of cgroup version 2; omit the limit",
        .0.name()
    )]
    Unavailable(Controller),
    /// The kernel rejected the limit.
    #[error("cannot limit {}", .0.name())]
    Set(Controller, #[source] io::Error),
}

/// The cgroups of all execs.
#[derive(Debug)]
pub struct Cgroups {
    root: PathBuf,
    /// The cgroup that all of them are in.
    programs: PathBuf,
    /// Whether the number of processes can be limited.
    counts_pids: bool,
    /// Most memory of one exec without a limit of its own, in bytes; none where memory cannot be
    /// limited.
    memory_max: Option<u64>,
    /// Cgroups of ended execs that still had a process when last checked.
    lingering: Arc<Mutex<Vec<PathBuf>>>,
}

impl Cgroups {
    /// Detects whether this kernel has cgroups that can be killed as a whole.
    pub fn probe() -> Option<Self> {
        let root = PathBuf::from(CGROUP_ROOT);
        let trial = root.join("trial");
        fs::create_dir(&trial).ok()?;
        let killable = trial.join("cgroup.kill").exists();
        fs::remove_dir(&trial).ok()?;
        if !killable {
            return None;
        }
        let programs = root.join("programs");
        fs::create_dir(&programs).ok()?;
        let turned_on = |controller| turn_on(&root, controller) && turn_on(&programs, controller);
        let counts_pids = turned_on(Controller::Pids);
        let memory_max = turned_on(Controller::Memory).then(memory_max_default).flatten();
        let cgroups = Self { root, programs, counts_pids, memory_max, lingering: Arc::default() };
        cgroups.limit_pids(PIDS_DEFAULT).ok();
        Some(cgroups)
    }

    /// Enables the limits of `controller`.
    ///
    /// # Errors
    /// [`LimitError::Unavailable`].
    pub fn enable(&self, controller: Controller) -> Result<(), LimitError> {
        let enabled = match controller {
            Controller::Pids => self.counts_pids,
            Controller::Memory => self.memory_max.is_some(),
        };
        if enabled { Ok(()) } else { Err(LimitError::Unavailable(controller)) }
    }

    /// Limits the processes and threads of all execs together. The kernel lets the agent start
    /// another program in any case, but that one starts no others.
    ///
    /// # Errors
    /// [`LimitError`].
    pub fn limit_pids(&self, pids: u64) -> Result<(), LimitError> {
        self.enable(Controller::Pids)?;
        // With little memory or few processors the kernel would stop at fewer, the agent too.
        let all = pids + PIDS_BESIDE;
        let held = raise(THREADS_MAX, all)
            .and_then(|()| raise(PID_MAX, 2 * all))
            .and_then(|()| fs::write(self.programs.join("pids.max"), pids.to_string()));
        held.map_err(|error| LimitError::Set(Controller::Pids, error))
    }

    /// Creates the cgroup of exec number `exec`.
    ///
    /// # Errors
    /// If the kernel cannot create another cgroup.
    pub fn make(&self, exec: u64) -> io::Result<Cgroup> {
        let dir = self.programs.join(format!("exec-{exec}"));
        match fs::create_dir(&dir) {
            // Programs of the guest have made as many as there may be.
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => self.make_beyond(&dir)?,
            made => made?,
        }
        let cgroup = Cgroup { dir, lingering: Arc::clone(&self.lingering) };
        if self.counts_pids {
            cgroup.set("pids.max", PIDS_MAX_DEFAULT)?;
        }
        if let Some(bytes) = self.memory_max {
            cgroup.set("memory.max", bytes)?;
        }
        Ok(cgroup)
    }

    /// Makes `dir` when the limit of cgroups is reached, by raising it by one: an exec is how the
    /// others are removed.
    fn make_beyond(&self, dir: &Path) -> io::Result<()> {
        let _alone = self.lingering.lock();
        let there_are = descendants(&fs::read_to_string(self.root.join("cgroup.stat"))?);
        let max = (there_are + 1).to_string();
        fs::write(self.root.join(CGROUPS_MAX_FILE), max)?;
        fs::create_dir(dir)
    }

    /// Removes the cgroups of ended execs whose last process has ended.
    pub fn sweep(&self) {
        let mut lingering = self.lingering.lock();
        lingering.retain(|dir| fs::remove_dir(dir).is_err());
    }
}

/// Two thirds of the machine's memory. With all of it in one program, the kernel reads the pages
/// of the others again and again instead of ending that one.
fn memory_max_default() -> Option<u64> {
    let memory = nix::sys::sysinfo::sysinfo().ok()?.ram_total();
    Some(memory / 3 * 2)
}

/// Raises a number of the kernel to `least`.
fn raise(file: &str, least: u64) -> io::Result<()> {
    let now = fs::read_to_string(file)?;
    if now.trim_end().parse().is_ok_and(|now: u64| now >= least) {
        return Ok(());
    }
    fs::write(file, least.to_string())
}

/// Enables `controller` for the cgroups below `root`; `false` if that is not possible.
fn turn_on(root: &Path, controller: Controller) -> bool {
    fs::write(root.join("cgroup.subtree_control"), format!("+{}", controller.name())).is_ok()
}

/// The cgroup of one exec. Dropping it removes the cgroup as soon as it is empty.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    lingering: Arc<Mutex<Vec<PathBuf>>>,
}

impl Cgroup {
    /// Opens the file through which a process joins; see [`crate::sys::enter_own_session`].
    ///
    /// # Errors
    /// If the guest has changed the cgroup file system.
    pub fn procs(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.dir.join("cgroup.procs"))
    }

    /// Applies those of `limits` that hold for all processes together. Their controllers are
    /// enabled.
    ///
    /// # Errors
    /// [`LimitError::Set`].
    pub fn limit(&self, limits: &Limits) -> Result<(), LimitError> {
        if let Some(mib) = limits.memory_mib {
            let bytes = mib.saturating_mul(1 << 20);
            self.set("memory.max", bytes).map_err(|e| LimitError::Set(Controller::Memory, e))?;
        }
        if let Some(pids) = limits.pids {
            self.set("pids.max", pids).map_err(|e| LimitError::Set(Controller::Pids, e))?;
        }
        Ok(())
    }

    fn set(&self, file: &str, amount: u64) -> io::Result<()> {
        fs::write(self.dir.join(file), amount.to_string())
    }

    fn kill(&self) -> io::Result<()> {
        fs::write(self.dir.join("cgroup.kill"), "1")
    }

    /// Returns whether a process was killed because the memory limit was reached. The kernel
    /// counts this only if memory is limited.
    fn ran_out_of_memory(&self) -> bool {
        fs::read_to_string(self.dir.join("memory.events")).is_ok_and(|events| kills(&events) > 0)
    }

    /// Returns the processes that are in the cgroup now.
    fn members(&self) -> io::Result<Vec<i32>> {
        let procs = fs::read_to_string(self.dir.join("cgroup.procs"))?;
        Ok(procs.lines().filter_map(|pid| pid.parse().ok()).collect())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if fs::remove_dir(&self.dir).is_err() {
            let dir = std::mem::take(&mut self.dir);
            self.lingering.lock().push(dir);
        }
    }
}

/// Returns how many processes were killed, from the text of `memory.events`.
fn kills(events: &str) -> u64 {
    let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
    events.lines().find_map(count).unwrap_or(0)
}

/// Number of cgroups below one, from the text of its `cgroup.stat`.
fn descendants(stat: &str) -> u64 {
    let count = |line: &str| line.strip_prefix("nr_descendants ")?.trim().parse().ok();
    stat.lines().find_map(count).unwrap_or(0)
}

/// The processes that one exec started.
#[derive(Debug)]
pub struct ProcessTree {
    /// Process id of the exec's first process, which leads its own session. It must not be used
    /// once that process is reaped, because the number may be reused.
    pub leader: u32,
    /// The cgroup of the tree, if it has one.
    pub cgroup: Option<Cgroup>,
}

impl ProcessTree {
    /// Kills every process of the tree. The leader must not have been reaped.
    pub fn kill(&self) {
        let killed = self.cgroup.as_ref().is_some_and(|cgroup| cgroup.kill().is_ok());
        if !killed {
            descent::kill(Path::new("/proc"), self.leader.cast_signed());
        }
    }

    /// Returns whether a process was killed because the tree reached its memory limit.
    pub fn ran_out_of_memory(&self) -> bool {
        self.cgroup.as_ref().is_some_and(Cgroup::ran_out_of_memory)
    }

    /// Sends `signal` to every process that is in the tree now. The leader must not have been
    /// reaped.
    pub fn signal(&self, signal: Signal) {
        if signal == Signal::SIGKILL {
            return self.kill();
        }
        let members = self.cgroup.as_ref().and_then(|cgroup| cgroup.members().ok());
        let members =
            members.unwrap_or_else(|| descent::tree(Path::new("/proc"), self.leader.cast_signed()));
        for pid in members.into_iter().filter(|pid| *pid > 0) {
            descent::signal(pid, signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_told_from_other_events() {
        let events = "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(kills(events), 1);
        assert_eq!(kills("oom 2\noom_kill 0\n"), 0);
        assert_eq!(kills("oom 2\n"), 0);
    }

    #[test]
    fn living_cgroups_are_counted() {
        assert_eq!(descendants("nr_descendants 1024\nnr_dying_descendants 3\n"), 1024);
        assert_eq!(descendants(""), 0);
    }
}
