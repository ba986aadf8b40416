//! What a scenario is given: a daemon at rest, a connection to it, a record to write in.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use emberd_api::{Address, ExecBody, ExecExit, ExecOutcome, ExecSpec, Info, ProcessSpec};
use emberd_api::{Sandbox, StartedBy};

use super::calls::Timing;
use super::connection::Connection;
use super::events::Listener;
use super::interrupt::Interrupt;
use super::programs::Program;
use super::record::Record;
use super::{MeasureError, proc};

/// Longest wait for the daemon to come to rest: under emulation a pool of Python guests
/// takes seconds, and a busy host makes that a minute.
const SETTLE_MAX: Duration = Duration::from_secs(180);

/// Pause between two looks at a daemon that is not at rest. Each look costs it an HTTP
/// request, some 50 µs.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Longest wait for a VMM that stands by, after which this daemon is taken to have none. A
/// busy host needs seconds to start one.
const STAND_BY_MAX: Duration = Duration::from_secs(60);

/// Rest between two iterations once the daemon says that it is done: what guests do for
/// themselves after an exec, such as forking the next spare interpreter, takes some 15 ms
/// under emulation.
pub const REST: Duration = Duration::from_millis(50);

/// Executions before those that count, so that what is touched once has been.
pub const WARM_UPS: usize = 2;

/// Time limit of every program that is not to run into it, in milliseconds: far above what
/// one takes when 64 emulated guests share two processors.
const TIMEOUT_MS: u64 = 180_000;

/// A daemon on this host that nobody else uses.
#[derive(Debug)]
pub struct Home {
    /// Its process id.
    pub pid: u32,
    /// Its run directory.
    pub run_dir: PathBuf,
}

/// What a scenario works with.
#[derive(Debug)]
pub struct Rig<'a> {
    /// The connection that what is timed goes over.
    pub connection: Connection,
    /// Where the daemon listens.
    pub address: &'a Address,
    /// The language packs to measure.
    pub packs: &'a [String],
    /// Iterations.
    pub iterations: usize,
    /// Where samples go.
    pub record: &'a mut Record,
    /// The daemon's process; none of a daemon that is not ours.
    pub home: Option<Home>,
    /// Whether to go on.
    pub interrupt: &'a Interrupt,
    /// Whether VMMs are expected to stand by, their template not yet loaded.
    pub stands_by: bool,
}

impl Rig<'_> {
    /// Waits until the daemon is at rest: its pools are full, VMMs stand by, and nothing is
    /// being reaped; then lets it rest. Between two iterations, so that none pays for the one
    /// before.
    ///
    /// # Errors
    /// It does not come to rest, or somebody asked to stop.
    pub fn settle(&mut self) -> Result<(), MeasureError> {
        let since = Instant::now();
        loop {
            self.interrupt.check()?;
            let info = self.connection.info()?;
            let unrest = unrest(&info).or_else(|| self.missing_stand_by(&info, since));
            let Some(seen) = unrest else { break };
            if since.elapsed() > SETTLE_MAX {
                return Err(MeasureError::Restless { seen });
            }
            thread::sleep(LOOK_AGAIN);
        }
        thread::sleep(REST);
        Ok(())
    }

    fn missing_stand_by(&mut self, info: &Info, since: Instant) -> Option<String> {
        let lacking = info.pools.iter().find(|pool| pool.standing_by == 0)?;
        self.stands_by &= since.elapsed() < STAND_BY_MAX;
        self.stands_by.then(|| format!("there is no standby for {}", lacking.language_pack))
    }

    /// Creates a sandbox.
    ///
    /// # Errors
    /// The call failed.
    pub fn create(&mut self, pack: &str) -> Result<(String, Timing), MeasureError> {
        Ok(self.connection.create(pack)?)
    }

    /// Runs `program` and holds what it did against what it should do.
    ///
    /// # Errors
    /// The call failed, or the program did something else.
    pub fn exec(
        &mut self,
        id: &str,
        program: &Program,
    ) -> Result<(ExecOutcome, Timing), MeasureError> {
        let (outcome, timing) = self.connection.exec(id, &body(program))?;
        program.verify(&outcome)?;
        Ok((outcome, timing))
    }

    /// Runs the program `argv` names in a sandbox, outside of which nothing moves meanwhile:
    /// how it ended, and what it took, by the guest's own account.
    ///
    /// # Errors
    /// A call failed, or the program did.
    pub fn in_guest<const N: usize>(
        &mut self,
        id: &str,
        argv: [&str; N],
    ) -> Result<Duration, MeasureError> {
        let listener = Listener::connect(self.address)?;
        let (pid, _) = self.connection.start(id, &ProcessSpec::of_argv(argv))?;
        let exit = listener.follow(id, pid)?.exit()?;
        self.connection.kill(id, pid)?;
        match exit {
            Some(ExecExit { exit_code: 0, duration_us, .. }) => {
                Ok(Duration::from_micros(duration_us))
            }
            other => Err(MeasureError::Unexpected {
                what: argv.join(" "),
                expected: "exit 0".to_owned(),
                seen: format!("{other:?}"),
            }),
        }
    }

    /// Deletes a sandbox.
    ///
    /// # Errors
    /// The call failed.
    pub fn delete(&mut self, id: &str) -> Result<Timing, MeasureError> {
        Ok(self.connection.delete(id)?)
    }

    /// One sandbox as it is now; doubts the record if it did not come by `boot_path`.
    ///
    /// # Errors
    /// The call failed.
    pub fn inspect(&mut self, id: &str, boot_path: &str) -> Result<Sandbox, MeasureError> {
        let sandbox = self.connection.sandbox(id)?;
        let came_by = sandbox.boot_path.as_deref().unwrap_or("an unknown way");
        if came_by != boot_path {
            self.record.doubt(format!("a sandbox was made by {came_by}, not by {boot_path}"));
        }
        Ok(sandbox)
    }

    /// Holdings of the daemon; none of a daemon that is not ours.
    ///
    /// # Errors
    /// The call failed.
    pub fn holdings(&mut self) -> Result<Option<Holdings>, MeasureError> {
        let Some(home) = &self.home else { return Ok(None) };
        let pools = self.connection.info()?.pools;
        let pooled = pools.iter().map(|pool| pool.ready + pool.filling + pool.standing_by);
        Ok(Some(Holdings {
            pooled: pooled.sum(),
            processes: proc::descendants(home.pid).len(),
            descriptors: proc::descriptors(home.pid),
            directories: proc::entries(&home.run_dir),
        }))
    }
}

/// What a daemon has, by count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    /// MicroVMs in pools, and VMMs that stand by.
    pub pooled: usize,
    /// Processes below it.
    pub processes: usize,
    /// Its open file descriptors.
    pub descriptors: usize,
    /// Entries of its run directory.
    pub directories: usize,
}

/// The request that runs `program`.
pub fn body(program: &Program) -> ExecBody {
    let timeout_ms = program.timeout_ms.unwrap_or(TIMEOUT_MS);
    let spec = ExecSpec { timeout_ms, fresh: program.fresh, ..ExecSpec::new(&*program.code) };
    ExecBody { spec, stdin: program.stdin.clone(), stdin_base64: None }
}

/// The word in series names for how a program was started.
pub fn started_word(started_by: Option<StartedBy>) -> &'static str {
    match started_by {
        Some(StartedBy::Zygote) => "zygote",
        Some(StartedBy::Spawn) | None => "spawn",
    }
}

/// What keeps the daemon from rest; nothing if it rests.
fn unrest(info: &Info) -> Option<String> {
    if info.reaping > 0 {
        return Some(format!("{} sandboxes are being reaped", info.reaping));
    }
    let unfilled = info.pools.iter().find(|pool| pool.filling > 0 || pool.ready < pool.target)?;
    let (ready, target, pack) = (unfilled.ready, unfilled.target, &unfilled.language_pack);
    Some(format!("the pool of {pack} has {ready} of {target} ready"))
}
