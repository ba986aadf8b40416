//! The environment of a scenario: an idle daemon, a connection to it, and a record.

use std::ffi::OsString;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use emberd_api::{Address, ExecBody, ExecExit, ExecOutcome, ExecSpec, Info, ProcessSpec};
use emberd_api::{Sandbox, StartedBy};
use emberd_keys::Secret;

use super::calls::Timing;
use super::connection::Connection;
use super::daemon::Daemon;
use super::error::MeasureError;
use super::events::Listener;
use super::flags;
use super::interrupt::Interrupt;
use super::proc;
use super::programs::Program;
use super::record::Record;

/// Time limit for the daemon to become idle. Under emulation a pool of Python guests takes
/// seconds, and on a busy host a minute.
const SETTLE_MAX: Duration = Duration::from_secs(180);

/// Pause between two checks of a busy daemon. Each check costs it an HTTP request, about 50 µs.
pub const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Time limit for a standby, after which this daemon is assumed to have none. A busy host needs
/// seconds to start one.
const STAND_BY_MAX: Duration = Duration::from_secs(60);

/// Pause between two iterations once the daemon is idle. After an exec, guests still do work such
/// as forking the next spare interpreter, which takes about 15 ms under emulation.
pub const REST: Duration = Duration::from_millis(50);

/// Warm-up executions, which do not count.
pub const WARM_UPS: usize = 2;

/// Time limit of every program that must not exceed it, in milliseconds: far above the time of a
/// program when 64 emulated guests share two processors.
const TIMEOUT_MS: u64 = 180_000;

/// Boot path of a sandbox from a pool.
pub const WARM_POOL: &str = "warm-pool";
/// Boot path of a restored sandbox.
pub const SNAPSHOT_RESTORE: &str = "snapshot-restore";
/// Boot path of a booted sandbox.
pub const COLD_BOOT: &str = "cold-boot";

/// The environment of a scenario.
#[derive(Debug)]
pub struct Rig<'a> {
    /// The connection for everything that is timed.
    pub connection: Connection,
    /// Address of the daemon.
    pub address: Address,
    /// The language packs to measure.
    pub packs: &'a [String],
    /// Number of iterations.
    pub iterations: usize,
    /// The record for samples.
    pub record: &'a mut Record,
    /// The daemon; absent where the bench did not start it.
    pub home: Option<&'a mut Daemon>,
    /// Path and flags of that daemon.
    pub own: Option<(&'a Path, &'a [OsString])>,
    /// The interrupt flag.
    pub interrupt: &'a Interrupt,
    /// Whether standbys are expected.
    pub stands_by: bool,
    /// An access key of the daemon, which needs none.
    pub key: Option<&'a Secret>,
}

impl Rig<'_> {
    /// Waits until the daemon is idle: its pools are full, there are standbys, and nothing is
    /// being reaped. Then pauses. This is done between iterations, so that none pays for the work
    /// of the one before.
    ///
    /// # Errors
    /// If it does not become idle, or the run was interrupted.
    pub fn settle(&mut self) -> Result<(), MeasureError> {
        let since = Instant::now();
        loop {
            self.interrupt.check()?;
            let info = self.connection.info()?;
            let unrest = unrest(&info).or_else(|| self.missing_stand_by(&info, since));
            let Some(seen) = unrest else { break };
            if since.elapsed() > SETTLE_MAX {
                return Err(MeasureError::Busy { seen });
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
    /// If the call fails.
    pub fn create(&mut self, pack: &str) -> Result<(String, Timing), MeasureError> {
        Ok(self.connection.create(pack)?)
    }

    /// Runs `program` and compares its result with the expected one.
    ///
    /// # Errors
    /// If the call fails, or the program has another result.
    pub fn exec(
        &mut self,
        id: &str,
        program: &Program,
    ) -> Result<(ExecOutcome, Timing), MeasureError> {
        let (outcome, timing) = self.connection.exec(id, &body(program))?;
        program.verify(&outcome)?;
        Ok((outcome, timing))
    }

    /// Runs the program `argv` in a sandbox, without other traffic meanwhile. Returns how it
    /// ended, and the time that the guest reports.
    ///
    /// # Errors
    /// If a call or the program fails.
    pub fn in_guest<const N: usize>(
        &mut self,
        id: &str,
        argv: [&str; N],
    ) -> Result<Duration, MeasureError> {
        let listener = Listener::connect(&self.address)?;
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
    /// If the call fails.
    pub fn delete(&mut self, id: &str) -> Result<Timing, MeasureError> {
        Ok(self.connection.delete(id)?)
    }

    /// Returns the current state of a sandbox; doubts the record if it was not made by
    /// `boot_path`.
    ///
    /// # Errors
    /// If the call fails.
    pub fn inspect(&mut self, id: &str, boot_path: &str) -> Result<Sandbox, MeasureError> {
        let sandbox = self.connection.sandbox(id)?;
        let came_by = sandbox.boot_path.as_deref().unwrap_or("an unknown way");
        if came_by != boot_path {
            self.record.doubt(format!("a sandbox was made by {came_by}, not by {boot_path}"));
        }
        Ok(sandbox)
    }

    /// Starts another daemon like the scenario's, with flags of its own.
    ///
    /// # Errors
    /// If it does not start, or the bench did not start the scenario's.
    pub fn another(&self, more: &[OsString]) -> Result<Daemon, MeasureError> {
        let needs = "the scenario needs daemons of its own";
        let (binary, flags) = self.own.ok_or(MeasureError::NotHere(needs))?;
        let flags = [&flags::without(flags, more), more].concat();
        Ok(Daemon::start(binary, &flags, false)?)
    }

    /// Stops such a daemon, which must leave nothing behind.
    ///
    /// # Errors
    /// If the system cannot be inspected.
    pub fn stop(&mut self, daemon: Daemon) -> Result<(), MeasureError> {
        let left = daemon.stop()?;
        let seen = if left.is_empty() { "nothing".to_owned() } else { left.join(", ") };
        self.record.check("left behind by the other daemon", left.is_empty(), seen);
        Ok(())
    }

    /// Returns the resources of the daemon; `None` for a daemon that the bench did not start.
    ///
    /// # Errors
    /// If the call fails.
    pub fn holdings(&mut self) -> Result<Option<Holdings>, MeasureError> {
        let Some(home) = &self.home else { return Ok(None) };
        let pools = self.connection.info()?.pools;
        let pooled = pools.iter().map(|pool| pool.ready + pool.filling + pool.standing_by);
        Ok(Some(Holdings {
            pooled: pooled.sum(),
            processes: proc::descendants(home.pid()).len(),
            descriptors: proc::descriptors(home.pid()),
            directories: proc::entries(&home.run_dir()),
        }))
    }
}

/// Resources of a daemon, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    /// MicroVMs in pools, and standbys.
    pub pooled: usize,
    /// Child processes.
    pub processes: usize,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Entries of its run directory.
    pub directories: usize,
}

impl Holdings {
    /// Whether nothing is more than in `others`.
    pub fn are_within(&self, others: &Self) -> bool {
        self.pooled <= others.pooled
            && self.processes <= others.processes
            && self.descriptors <= others.descriptors
            && self.directories <= others.directories
    }
}

/// Returns the request that runs `program`.
pub fn body(program: &Program) -> ExecBody {
    let timeout_ms = program.timeout_ms.unwrap_or(TIMEOUT_MS);
    let spec = ExecSpec { timeout_ms, fresh: program.fresh, ..ExecSpec::new(&*program.code) };
    ExecBody { spec, stdin: program.stdin.clone(), stdin_base64: None }
}

/// Returns the name in series for how a program was started.
pub fn started_word(started_by: Option<StartedBy>) -> &'static str {
    match started_by {
        Some(StartedBy::Zygote) => "zygote",
        Some(StartedBy::Spawn) | None => "spawn",
    }
}

/// Returns what keeps the daemon from being idle; `None` if it is.
pub fn unrest(info: &Info) -> Option<String> {
    if info.reaping > 0 {
        return Some(format!("{} sandboxes are being reaped", info.reaping));
    }
    let unfilled = info.pools.iter().find(|pool| pool.filling > 0 || pool.ready < pool.target)?;
    let (ready, target, pack) = (unfilled.ready, unfilled.target, &unfilled.language_pack);
    Some(format!("the pool of {pack} has {ready} of {target} ready"))
}
