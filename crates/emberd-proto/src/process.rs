//! Processes: how they are started, and what can be done while they run.
//!
//! An exec is a process whose output is collected. A process takes everything that an exec takes,
//! so the guest has a single way to start programs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::exec::{ExecSpec, SpecError, TIMEOUT_MS_MAX, check_words};

/// Window of standard input, in bytes (256 KiB): how much the host may send beyond what the guest
/// has reported as consumed. A program that does not read takes at most this much of the guest's
/// memory, and does not block signals or output.
pub const STDIN_WINDOW_BYTES: usize = 256 << 10;

/// Maximum number of columns, and of rows, of a terminal.
pub const TTY_SIDE_MAX: u16 = 4096;

/// Maximum length of a user name, in bytes: that of `useradd`.
pub const USER_BYTES_MAX: usize = 32;

/// The program to start, and its surroundings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ProcessSpec {
    /// Program text in the sandbox's language, at most 8 MiB. Excludes `argv`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Program, found on `PATH` as by a shell, and its arguments. Excludes `code`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// Arguments after the file of `code`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables added to the sandbox's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory. The user's home when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Name of the user to run as. Root when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Size of a terminal for the program. A program with a terminal writes standard output only.
    /// Pipes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TtySize>,
    /// Time limit in milliseconds, 1 to 3,600,000. At the limit, the whole process tree is killed.
    /// No limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Limits of the program and all it starts.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// Whether to start a new interpreter, even if the pack keeps a warm one to fork.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
}

impl ProcessSpec {
    /// Returns a spec for the program `argv`, with all defaults.
    pub fn of_argv<const N: usize>(argv: [&str; N]) -> Self {
        Self { argv: argv.map(str::to_owned).into(), ..Self::default() }
    }

    /// Checks this spec against the limits of this module and of [`crate::exec`].
    ///
    /// # Errors
    /// The first limit that is broken.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.code.is_some() != self.argv.is_empty() {
            return Err(SpecError::Program);
        }
        check_words(
            self.code.as_deref().unwrap_or_default(),
            self.argv.iter().chain(&self.args),
            &self.env,
            self.cwd.as_deref(),
        )?;
        if self.argv.first().is_some_and(String::is_empty) {
            return Err(SpecError::Program);
        }
        check_user(self.user.as_deref())?;
        if let Some(timeout_ms) = self.timeout_ms
            && (timeout_ms == 0 || timeout_ms > TIMEOUT_MS_MAX)
        {
            return Err(SpecError::Timeout(timeout_ms));
        }
        if let Some(size) = self.tty {
            size.check()?;
        }
        self.limits.check()
    }
}

impl From<ExecSpec> for ProcessSpec {
    fn from(exec: ExecSpec) -> Self {
        let ExecSpec { code, args, env, cwd, user, timeout_ms, limits, fresh } = exec;
        let (code, timeout_ms) = (Some(code), Some(timeout_ms));
        Self { code, argv: Vec::new(), args, env, cwd, user, tty: None, timeout_ms, limits, fresh }
    }
}

/// Checks the name of a user against its limits.
///
/// # Errors
/// [`SpecError::User`].
pub fn check_user(user: Option<&str>) -> Result<(), SpecError> {
    match user {
        Some(name)
            if name.is_empty() || name.len() > USER_BYTES_MAX || name.contains(['\0', ':']) =>
        {
            Err(SpecError::User(name.chars().take(USER_BYTES_MAX).collect()))
        }
        _ => Ok(()),
    }
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TtySize {
    /// Number of columns, 1 to 4,096.
    pub cols: u16,
    /// Number of rows, 1 to 4,096.
    pub rows: u16,
}

impl TtySize {
    /// Checks the size against its limits.
    ///
    /// # Errors
    /// [`SpecError::Tty`].
    pub fn check(self) -> Result<(), SpecError> {
        let sides = 1..=TTY_SIDE_MAX;
        if sides.contains(&self.cols) && sides.contains(&self.rows) {
            Ok(())
        } else {
            Err(SpecError::Tty(self.cols, self.rows))
        }
    }
}

/// Limits of a program and all it starts. A limit that is absent is that of the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Limits {
    /// Processor time of each process, in milliseconds, rounded up to whole seconds. At the limit,
    /// the process receives SIGXCPU (`RLIMIT_CPU`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Memory of all processes together, in MiB; two thirds of the guest's memory when absent. At
    /// the limit, the guest's kernel kills one of them (cgroup `memory.max`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Number of processes and threads at once (cgroup `pids.max`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Size of each written file, in MiB. At the limit, the writer receives SIGXFSZ
    /// (`RLIMIT_FSIZE`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mib: Option<u64>,
}

/// Maximum of any limit: more than any machine has, and small enough to count in bytes.
const LIMIT_MAX: u64 = 1 << 32;

impl Limits {
    /// Returns whether no limit is set.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Checks each limit against its range.
    ///
    /// # Errors
    /// [`SpecError::Limit`].
    pub fn check(&self) -> Result<(), SpecError> {
        let Self { cpu_ms, memory_mib, pids, file_mib } = *self;
        let amounts = [
            ("cpu_ms", cpu_ms),
            ("memory_mib", memory_mib),
            ("pids", pids),
            ("file_mib", file_mib),
        ];
        for (name, amount) in amounts {
            if let Some(amount) = amount
                && (amount == 0 || amount > LIMIT_MAX)
            {
                return Err(SpecError::Limit(name, amount));
            }
        }
        Ok(())
    }
}

/// Name of a signal that a process and all it started can receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum SignalName {
    /// Abort.
    SigAbrt,
    /// Timer.
    SigAlrm,
    /// Continue.
    SigCont,
    /// Terminal closed.
    SigHup,
    /// Interrupt, as Ctrl-C.
    SigInt,
    /// Kill.
    SigKill,
    /// Quit, as Ctrl-\.
    SigQuit,
    /// Stop; cannot be caught.
    SigStop,
    /// Terminate.
    SigTerm,
    /// Stop, as Ctrl-Z.
    SigTstp,
    /// Defined by the program.
    SigUsr1,
    /// Defined by the program.
    SigUsr2,
    /// The size of the terminal changed.
    SigWinch,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_held_and_their_edges_pass() {
        type Edit = fn(&mut ProcessSpec);
        let cases: [(Edit, bool); 13] = [
            (|_| {}, true),
            (|spec| spec.argv.clear(), false),
            (|spec| spec.argv = vec![String::new()], false),
            (|spec| spec.argv = vec!["a\0".into()], false),
            (|spec| spec.code = Some(String::new()), false),
            (|spec| spec.timeout_ms = Some(0), false),
            (|spec| spec.timeout_ms = Some(TIMEOUT_MS_MAX), true),
            (|spec| spec.tty = Some(TtySize { cols: 1, rows: TTY_SIDE_MAX }), true),
            (|spec| spec.tty = Some(TtySize { cols: 0, rows: 1 }), false),
            (|spec| spec.user = Some("a:b".into()), false),
            (|spec| spec.user = Some("user".into()), true),
            (|spec| spec.limits.pids = Some(0), false),
            (|spec| spec.limits.memory_mib = Some(LIMIT_MAX), true),
        ];
        for (case, (edit, valid)) in cases.into_iter().enumerate() {
            let mut spec = ProcessSpec::of_argv(["sleep", "1"]);
            edit(&mut spec);
            assert_eq!(spec.check().is_ok(), valid, "case {case}: {:?}", spec.check());
        }
    }

    #[test]
    fn an_exec_is_a_process() {
        let exec = ExecSpec { timeout_ms: 5, fresh: true, ..ExecSpec::new("1") };
        let process = ProcessSpec::from(exec);
        assert_eq!((process.code.as_deref(), process.timeout_ms), (Some("1"), Some(5)));
        assert!(process.fresh && process.check().is_ok());
    }

    #[test]
    fn signals_have_the_names_people_know() {
        assert_eq!(serde_json::to_string(&SignalName::SigUsr1).unwrap(), r#""SIGUSR1""#);
        assert!(serde_json::from_str::<SignalName>(r#""SIGSEGV""#).is_err());
    }
}
