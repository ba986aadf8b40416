//! A process about to be started: all it starts with, made before there is a child.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use emberd_proto::process::Limits;

use crate::agent::Environment;
use crate::users::User;

/// Where a program without a slash in its name is looked for when `PATH` is not set.
const PATH_FALLBACK: &str = "/bin:/usr/bin";

/// What [`crate::sys::start`] starts.
#[derive(Debug)]
pub struct NewProcess<'a> {
    /// Files to execute; the first that can be is.
    pub files: Vec<CString>,
    /// Its words, the program's name first.
    pub arguments: Vec<CString>,
    /// Its environment, as `NAME=value`.
    pub environment: Vec<CString>,
    /// Its working directory.
    pub directory: CString,
    /// Its standard input, output and error; none of them one of the agent's own.
    pub stdio: [BorrowedFd<'a>; 3],
    /// A descriptor it inherits besides, under the number it has here.
    pub kept: Option<BorrowedFd<'a>>,
    /// The `cgroup.procs` file of the cgroup it joins.
    pub cgroup_procs: Option<BorrowedFd<'a>>,
    /// Whom it becomes; nobody else than the agent when absent.
    pub user: Option<&'a User>,
    /// Whether its standard input is a terminal that is to control it.
    pub terminal: bool,
    /// What the kernel holds it to.
    pub resources: ResourceLimits,
}

impl<'a> NewProcess<'a> {
    /// The program `words` name, found as a shell finds it.
    ///
    /// # Errors
    /// When a string holds a NUL byte.
    ///
    /// # Panics
    /// When there are no words.
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

/// What setrlimit(2) is told of a process, each as a soft and a hard limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Processor time, in seconds. It ends by SIGXCPU at the soft limit; one that lives on is
    /// killed at the hard one.
    pub cpu_s: Option<(u64, u64)>,
    /// Size of each file, in bytes.
    pub file_bytes: Option<(u64, u64)>,
}

impl ResourceLimits {
    /// Those of `limits` that are held for each process by itself.
    pub fn of(limits: &Limits) -> Self {
        let cpu_s = limits.cpu_ms.map(|cpu_ms| cpu_ms.div_ceil(1000));
        let file_bytes = limits.file_mib.map(|mib| mib.saturating_mul(1 << 20));
        Self {
            cpu_s: cpu_s.map(|seconds| (seconds, seconds + 1)),
            file_bytes: file_bytes.map(|bytes| (bytes, bytes)),
        }
    }
}

/// The files `program` may stand for.
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
