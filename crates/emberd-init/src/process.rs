//! A process that is about to be started, prepared before there is a child.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use emberd_proto::process::Limits;

use crate::environment::Environment;
use crate::users::User;

/// Search path for a program without a slash in its name if `PATH` is not set.
const PATH_FALLBACK: &str = "/bin:/usr/bin";

/// Description of a process for [`crate::sys::start`].
#[derive(Debug)]
pub struct NewProcess<'a> {
    /// Files to execute, in order; the first executable one is used.
    pub files: Vec<CString>,
    /// Arguments, starting with the program's name.
    pub arguments: Vec<CString>,
    /// Environment, as `NAME=value`.
    pub environment: Vec<CString>,
    /// Working directory.
    pub directory: CString,
    /// Standard input, output and error; none of them may be the agent's own.
    pub stdio: [BorrowedFd<'a>; 3],
    /// An additional descriptor to inherit, under its current number.
    pub kept: Option<BorrowedFd<'a>>,
    /// The `cgroup.procs` file of the cgroup that the process joins.
    pub cgroup_procs: Option<BorrowedFd<'a>>,
    /// The user to become; the agent's user if absent.
    pub user: Option<&'a User>,
    /// Whether standard input is a terminal that becomes the controlling terminal.
    pub terminal: bool,
    /// Resource limits enforced by the kernel.
    pub resources: ResourceLimits,
}

impl<'a> NewProcess<'a> {
    /// Returns the process for the program that `words` name, which is searched for as a shell
    /// does.
    ///
    /// # Errors
    /// If a string contains a NUL byte.
    ///
    /// # Panics
    /// If `words` is empty.
    pub fn new(
        words: &[String],
        environment: &Environment,
        directory: &Path,
        stdio: [BorrowedFd<'a>; 3],
    ) -> io::Result<Self> {
        let variable = |(name, value): (&OsString, &OsString)| {
            let mut text = name.clone();
            text.push("=");
            text.push(value);
            CString::new(text.into_vec())
        };
        Ok(Self {
            files: files(&words[0], environment.get("PATH"))?,
            arguments: words
                .iter()
                .map(|word| CString::new(word.as_str()))
                .collect::<Result<_, _>>()?,
            environment: environment.into_iter().map(variable).collect::<Result<_, _>>()?,
            directory: CString::new(directory.as_os_str().as_bytes())?,
            stdio,
            kept: None,
            cgroup_procs: None,
            user: None,
            terminal: false,
            resources: ResourceLimits::default(),
        })
    }
}

/// Resource limits for setrlimit(2), each a soft and a hard limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Processor time, in seconds. The process gets SIGXCPU at the soft limit and is killed at
    /// the hard limit.
    pub cpu_s: Option<(u64, u64)>,
    /// Size of each file, in bytes.
    pub file_bytes: Option<(u64, u64)>,
}

impl ResourceLimits {
    /// Returns the limits of `limits` that apply to each process separately.
    pub fn of(limits: &Limits) -> Self {
        let cpu_s = limits.cpu_ms.map(|cpu_ms| cpu_ms.div_ceil(1000));
        let file_bytes = limits.file_mib.map(|mib| mib.saturating_mul(1 << 20));
        Self {
            cpu_s: cpu_s.map(|seconds| (seconds, seconds + 1)),
            file_bytes: file_bytes.map(|bytes| (bytes, bytes)),
        }
    }
}

/// Returns the files that `program` may refer to.
fn files(program: &str, path: Option<&OsStr>) -> io::Result<Vec<CString>> {
    if program.contains('/') {
        return Ok(vec![CString::new(program)?]);
    }
    let path = path.unwrap_or(OsStr::new(PATH_FALLBACK));
    std::env::split_paths(path)
        .map(|dir| Ok(CString::new(dir.join(program).into_os_string().into_vec())?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_rounded_up() {
        let limits = Limits { cpu_ms: Some(1001), file_mib: Some(2), ..Limits::default() };
        let held = ResourceLimits::of(&limits);
        assert_eq!((held.cpu_s, held.file_bytes), (Some((2, 3)), Some((2 << 20, 2 << 20))));
        assert_eq!(ResourceLimits::of(&Limits::default()), ResourceLimits::default());
    }

    #[test]
    fn program_is_looked_for_where_path_says() {
        let check = |program: &str, path: Option<&str>, expect: &[&str]| {
            let found = files(program, path.map(OsStr::new)).unwrap();
            let found: Vec<_> = found.iter().map(|file| file.to_str().unwrap()).collect();
            assert_eq!(found, expect);
        };
        check("/bin/sh", Some("/usr"), &["/bin/sh"]);
        check("./sh", Some("/usr"), &["./sh"]);
        check("sh", Some("/usr:/bin"), &["/usr/sh", "/bin/sh"]);
        check("sh", None, &["/bin/sh", "/usr/bin/sh"]);
        assert!(files("a\0", None).is_err());
    }
}
