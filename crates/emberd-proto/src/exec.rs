//! Execs: what to run and how it ended. Defined once for the wire, the HTTP API, the client and
//! the command line.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::egress::EgressDenials;
use crate::process::{Limits, check_user};

/// Maximum size of program text, in bytes (8 MiB).
pub const CODE_BYTES_MAX: usize = 8 << 20;
/// Maximum number of arguments, and of environment variables.
pub const WORDS_MAX: usize = 1024;
/// Maximum total size of all arguments, of all environment variables, and of the working
/// directory's name, each in bytes (128 KiB, the kernel's limit for one string).
pub const WORDS_BYTES_MAX: usize = 128 << 10;
/// Maximum standard input of one exec, in bytes (32 MiB).
pub const STDIN_BYTES_MAX: usize = 32 << 20;
/// Maximum standard output, and standard error, of one exec, in bytes (8 MiB each). Output beyond
/// it is dropped and flagged.
pub const OUTPUT_BYTES_MAX: usize = 8 << 20;
/// Default time limit of an exec, in milliseconds.
pub const TIMEOUT_MS_DEFAULT: u64 = 30_000;
/// Maximum time limit of an exec, in milliseconds (1 hour).
pub const TIMEOUT_MS_MAX: u64 = 3_600_000;

/// Largest value of [`ContextRun::max_image_bytes`](crate::ContextRun::max_image_bytes) (8 MiB): no
/// form of a value is larger.
pub const IMAGE_BYTES_MAX: u64 = 8 << 20;

/// `exit_code` of a program that was never started or was killed at its time limit.
pub const EXIT_CODE_NONE: i32 = -1;

/// The code to run, and its surroundings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ExecSpec {
    /// Program text in the sandbox's language, at most 8 MiB.
    pub code: String,
    /// Arguments after the program's name, at most 1,024.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables added to the sandbox's own, at most 1,024.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory. The user's home when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Name of the user to run as. Root when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Time limit in milliseconds, 1 to 3,600,000. At the limit, the whole process tree is killed.
    #[serde(default = "timeout_ms_default")]
    pub timeout_ms: u64,
    /// Limits of the program and all it starts.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// Whether to start a new interpreter, even if the pack keeps a warm one to fork.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
}

fn timeout_ms_default() -> u64 {
    TIMEOUT_MS_DEFAULT
}

impl ExecSpec {
    /// Returns a spec for `code`, without arguments and with all defaults.
    pub fn new(code: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: None,
            user: None,
            timeout_ms: TIMEOUT_MS_DEFAULT,
            limits: Limits::default(),
            fresh: false,
        }
    }

    /// Checks this spec against the limits of this module.
    ///
    /// # Errors
    /// The first limit that is broken. The daemon checks so that a caller gets the answer without
    /// a round trip; the guest checks because it does not trust the host.
    pub fn check(&self) -> Result<(), SpecError> {
        check_words(&self.code, self.args.iter(), &self.env, self.cwd.as_deref())?;
        check_user(self.user.as_deref())?;
        if self.timeout_ms == 0 || self.timeout_ms > TIMEOUT_MS_MAX {
            return Err(SpecError::Timeout(self.timeout_ms));
        }
        self.limits.check()
    }
}

/// Checks the parts that every program is started with against the limits of this module.
pub(crate) fn check_words<'a>(
    code: &str,
    args: impl Iterator<Item = &'a String> + Clone,
    env: &BTreeMap<String, String>,
    cwd: Option<&str>,
) -> Result<(), SpecError> {
    within("code, in bytes,", code.len(), CODE_BYTES_MAX)?;
    within("number of args", args.clone().count(), WORDS_MAX)?;
    within("args, in bytes,", args.clone().map(String::len).sum(), WORDS_BYTES_MAX)?;
    check_env(env)?;
    within("cwd, in bytes,", cwd.map_or(0, str::len), WORDS_BYTES_MAX)?;
    for arg in args {
        no_nul("an argument", arg)?;
    }
    no_nul("cwd", cwd.unwrap_or_default())
}

/// Checks environment variables against the limits of this module.
///
/// # Errors
/// The first limit that is broken.
pub fn check_env(env: &BTreeMap<String, String>) -> Result<(), SpecError> {
    within("number of env variables", env.len(), WORDS_MAX)?;
    let env_bytes = env.iter().map(|(name, value)| name.len() + value.len()).sum();
    within("env, in bytes,", env_bytes, WORDS_BYTES_MAX)?;
    for (name, value) in env {
        if name.is_empty() || name.contains('=') {
            return Err(SpecError::EnvName(name.clone()));
        }
        no_nul("an environment variable's name", name)?;
        no_nul("an environment variable's value", value)?;
    }
    Ok(())
}

fn within(what: &'static str, amount: usize, limit: usize) -> Result<(), SpecError> {
    if amount > limit { Err(SpecError::TooLarge { what, amount, limit }) } else { Ok(()) }
}

fn no_nul(what: &'static str, text: &str) -> Result<(), SpecError> {
    if text.contains('\0') { Err(SpecError::Nul(what)) } else { Ok(()) }
}

/// A limit that a spec breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A size or count is over its limit.
    #[error("{what} is {amount}, over the limit of {limit}")]
    TooLarge {
        /// The value that is too large.
        what: &'static str,
        /// Its size.
        amount: usize,
        /// The maximum.
        limit: usize,
    },
    /// The time limit is zero or over [`TIMEOUT_MS_MAX`].
    #[error("timeout_ms is {0}, not between 1 and {TIMEOUT_MS_MAX}")]
    Timeout(u64),
    /// The largest size of an image is zero, or over what an image can have.
    #[error("max_image_bytes is {0}, not between 1 and {IMAGE_BYTES_MAX}")]
    Image(u64),
    /// A string contains a NUL byte.
    #[error("{0} contains a NUL byte")]
    Nul(&'static str),
    /// An environment variable's name is empty or holds `=`.
    #[error("`{0}` is not a valid name of an environment variable")]
    EnvName(String),
    /// Both or neither of `code` and `argv` are given, or the program's name is empty.
    #[error("either code or argv is required, and the first word of argv must name a program")]
    Program,
    /// The user name is not valid.
    #[error("`{0}` is not a valid user name")]
    User(String),
    /// A side of the terminal is zero or over [`crate::process::TTY_SIDE_MAX`].
    #[error("a terminal cannot have {0} columns and {1} rows; each must be 1 to 4096")]
    Tty(u16, u16),
    /// A resource limit is zero or too large.
    #[error("limits.{0} is {1}, not between 1 and 4294967296")]
    Limit(&'static str, u64),
}

/// How a program was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum StartedBy {
    /// A new process executed the pack's interpreter.
    Spawn,
    /// The pack's zygote, a warm interpreter, was forked.
    Zygote,
}

/// How a program ended, without its output.
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the JSON by itself")]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ExecExit {
    /// Exit code of the program. 128 + n if signal n killed it, -1 if it was never started or
    /// reached its time limit.
    pub exit_code: i32,
    /// Number of the signal that killed the program, or null.
    pub signal: Option<i32>,
    /// Whether the program reached its time limit, so that its process tree was killed.
    pub timed_out: bool,
    /// Whether the limit of memory was reached, so that the guest's kernel killed the program or a
    /// process that it started. Without `limits.memory_mib`, false if the program succeeded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_of_memory: bool,
    /// Why the program could not be started, or that it timed out; else null.
    pub error: Option<String>,
    /// Wall time from the arrival of the request in the guest to the end of the program, in
    /// microseconds.
    pub duration_us: u64,
    /// Part of `duration_us` before the program had its work, in microseconds.
    #[serde(default)]
    pub launch_us: u64,
    /// How the program was started. Absent if it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<StartedBy>,
    /// Whether standard output exceeded 8 MiB, or what there was room for, and was cut.
    pub stdout_truncated: bool,
    /// Whether standard error exceeded 8 MiB, or what there was room for, and was cut.
    pub stderr_truncated: bool,
    /// Denials of the network policy meanwhile. The host sets them.
    #[serde(flatten)]
    pub egress: EgressDenials,
}

/// How a program ended, with its output.
///
/// Output is bytes, JSON is Unicode. `stdout` has every invalid UTF-8 sequence replaced by U+FFFD;
/// exactly when that changed something, `stdout_base64` has the bytes themselves. The same holds
/// for `stderr`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ExecOutcome {
    /// Standard output as text.
    pub stdout: String,
    /// Standard error as text.
    pub stderr: String,
    /// Standard output as base64. Absent when it is valid UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_base64: Option<String>,
    /// Standard error as base64. Absent when it is valid UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_base64: Option<String>,
    /// `duration_us` in whole milliseconds.
    pub duration_ms: u64,
    /// How the program ended.
    #[serde(flatten)]
    pub exit: ExecExit,
}

impl ExecOutcome {
    /// Combines an exit with the captured output.
    pub fn new(exit: ExecExit, stdout: Vec<u8>, stderr: Vec<u8>) -> Self {
        let (stdout, stdout_base64) = text_and_base64(stdout);
        let (stderr, stderr_base64) = text_and_base64(stderr);
        let duration_ms = exit.duration_us / 1000;
        Self { stdout, stderr, stdout_base64, stderr_base64, duration_ms, exit }
    }

    /// Returns standard output as the program wrote it.
    pub fn stdout_bytes(&self) -> Vec<u8> {
        bytes_of(&self.stdout, self.stdout_base64.as_deref())
    }

    /// Returns standard error as the program wrote it.
    pub fn stderr_bytes(&self) -> Vec<u8> {
        bytes_of(&self.stderr, self.stderr_base64.as_deref())
    }
}

fn text_and_base64(output: Vec<u8>) -> (String, Option<String>) {
    match String::from_utf8(output) {
        Ok(text) => (text, None),
        Err(error) => {
            let bytes = error.as_bytes();
            (String::from_utf8_lossy(bytes).into_owned(), Some(BASE64.encode(bytes)))
        }
    }
}

/// Returns the text if the base64 is invalid, which the daemon never sends.
fn bytes_of(text: &str, base64: Option<&str>) -> Vec<u8> {
    base64.and_then(|encoded| BASE64.decode(encoded).ok()).unwrap_or_else(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_held_and_their_edges_pass() {
        type Edit = fn(&mut ExecSpec);
        let cases: [(Edit, bool); 12] = [
            (|spec| spec.code = "x".repeat(CODE_BYTES_MAX), true),
            (|spec| spec.code = "x".repeat(CODE_BYTES_MAX + 1), false),
            (|spec| spec.timeout_ms = 0, false),
            (|spec| spec.timeout_ms = TIMEOUT_MS_MAX, true),
            (|spec| spec.timeout_ms = TIMEOUT_MS_MAX + 1, false),
            (|spec| spec.args = vec!["a".into(); WORDS_MAX], true),
            (|spec| spec.args = vec!["a".into(); WORDS_MAX + 1], false),
            (|spec| spec.args = vec!["a\0".into()], false),
            (|spec| drop(spec.env.insert("A=B".into(), String::new())), false),
            (|spec| drop(spec.env.insert(String::new(), String::new())), false),
            (|spec| drop(spec.env.insert("A".into(), "x".repeat(WORDS_BYTES_MAX))), false),
            (|spec| spec.cwd = Some("/\0".into()), false),
        ];
        for (case, (edit, valid)) in cases.into_iter().enumerate() {
            let mut spec = ExecSpec::new("");
            edit(&mut spec);
            assert_eq!(spec.check().is_ok(), valid, "case {case}: {:?}", spec.check());
        }
    }

    #[test]
    fn text_output_carries_no_base64() {
        let outcome = ExecOutcome::new(ExecExit::default(), "é\n".into(), Vec::new());
        assert_eq!((outcome.stdout.as_str(), outcome.stdout_base64.as_deref()), ("é\n", None));
    }

    #[test]
    fn output_that_is_not_utf8_survives() {
        let outcome = ExecOutcome::new(ExecExit::default(), vec![b'a', 0xff], vec![0xfe]);
        assert_eq!(outcome.stdout, "a\u{fffd}");
        assert_eq!(outcome.stdout_bytes(), [b'a', 0xff]);
        assert_eq!(outcome.stderr_bytes(), [0xfe]);
        let json = serde_json::to_string(&outcome).unwrap();
        assert_eq!(serde_json::from_str::<ExecOutcome>(&json).unwrap(), outcome);
    }
}
