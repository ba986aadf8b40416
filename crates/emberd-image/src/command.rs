//! Runs the host's tools. An error includes the last lines that the tool printed.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process_group};

/// Number of lines of a tool's standard error that are kept for its error message.
const TAIL_LINES_MAX: usize = 20;
/// Number of bytes kept of each such line.
const LINE_BYTES_MAX: usize = 400;

/// Exit code of a launcher that did not find the program.
const NOT_FOUND: i32 = 127;

/// Why a tool failed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The tool is not installed.
    #[error("`{program}` is not installed; install it with `apt-get install {package}`")]
    NotInstalled {
        /// The program.
        program: String,
        /// The Debian package that contains it.
        package: &'static str,
    },
    /// The tool could not be started or waited for.
    #[error("cannot run `{program}`")]
    Run {
        /// The program.
        program: String,
        /// The cause.
        source: io::Error,
    },
    /// The tool exited with an error.
    #[error("`{program}` failed ({status}){}{}", if stderr.is_empty() { "" } else { ":\n" }, stderr)]
    Failed {
        /// The program.
        program: String,
        /// The exit status.
        status: ExitStatus,
        /// The last lines of its standard error.
        stderr: String,
    },
}

/// A command line of a host tool, in the C locale. The search path includes root's directories.
pub(crate) struct Tool {
    program: &'static str,
    package: &'static str,
    command: Command,
}

impl Tool {
    /// Returns a command for `program`, which is in the Debian package `package`.
    pub fn new(program: &'static str, package: &'static str) -> Self {
        Self::from_command(program, package, Command::new(program))
    }

    /// As [`Self::new`], for a program that must not outlive this process. For root, it runs in
    /// its own mount namespace if mounting is possible, so that its mounts end with it.
    pub fn leashed(program: &'static str, package: &'static str, mounts: bool) -> Self {
        let mut command = Command::new(if mounts { "unshare" } else { "setpriv" });
        if mounts {
            command.args(["--mount", "setpriv"]);
        }
        command.args(["--pdeathsig", "TERM", program]);
        Self::from_command(program, package, command)
    }

    fn from_command(program: &'static str, package: &'static str, mut command: Command) -> Self {
        let mut path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
        path.push(":/usr/local/sbin:/usr/sbin:/sbin");
        command.env("PATH", path).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { program, package, command }
    }

    /// Adds arguments.
    pub fn with(mut self, edit: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        edit(&mut self.command);
        self
    }

    /// Runs the tool and returns its standard output.
    pub fn output(mut self) -> Result<Vec<u8>, ToolError> {
        let output = self.command.output().map_err(|source| self.not_run(source))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let stderr = read_tail(&output.stderr[..], |_line| {});
        Err(ToolError::Failed { program: self.program.to_owned(), status: output.status, stderr })
    }

    /// Starts the tool in its own process group, because mmdebstrap signals its whole group when
    /// it fails. Each line of its standard error is passed to `on_line`, on another thread.
    pub fn start(
        mut self,
        on_line: impl FnMut(&str) + Send + 'static,
    ) -> Result<RunningTool, ToolError> {
        let mut child =
            self.command.process_group(0).spawn().map_err(|source| self.not_run(source))?;
        let stderr = child.stderr.take().expect("piped");
        let tail = std::thread::spawn(move || read_tail(stderr, on_line));
        let (program, package) = (self.program, self.package);
        Ok(RunningTool { program, package, child, tail: Some(tail) })
    }

    fn not_run(&self, source: io::Error) -> ToolError {
        let (program, package) = (self.program.to_owned(), self.package);
        match source.kind() {
            io::ErrorKind::NotFound => ToolError::NotInstalled { program, package },
            _ => ToolError::Run { program, source },
        }
    }
}

/// A running tool. Dropping it kills the tool with its child processes, and waits for it.
pub(crate) struct RunningTool {
    program: &'static str,
    package: &'static str,
    child: Child,
    /// Present until the tool has been waited for.
    tail: Option<JoinHandle<String>>,
}

impl RunningTool {
    /// Takes the standard output; once, and only if it was not redirected.
    pub fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("piped and taken once")
    }

    /// Takes the standard input; once, and only if it was piped.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("piped and taken once")
    }

    /// Waits for the tool to end.
    pub fn finish(mut self) -> Result<(), ToolError> {
        let tail = self.tail.take().map(JoinHandle::join);
        let program = self.program.to_owned();
        let status = match self.child.wait() {
            Ok(status) => status,
            Err(source) => return Err(ToolError::Run { program, source }),
        };
        if status.success() {
            return Ok(());
        }
        if status.code() == Some(NOT_FOUND) {
            return Err(ToolError::NotInstalled { program, package: self.package });
        }
        let stderr = tail.and_then(Result::ok).unwrap_or_default();
        Err(ToolError::Failed { program, status, stderr })
    }
}

impl Drop for RunningTool {
    fn drop(&mut self) {
        if self.tail.is_none() {
            return;
        }
        // Fails only for a group that has already ended.
        kill_process_group(Pid::from_child(&self.child), Signal::KILL).ok();
        self.child.wait().ok();
    }
}

/// Reads to the end, passes every line to `on_line` and returns the last ones, each cut to
/// [`LINE_BYTES_MAX`]. A read error counts as the end, because the tool's status decides.
fn read_tail(mut reader: impl Read, mut on_line: impl FnMut(&str)) -> String {
    let mut lines = VecDeque::new();
    let mut line = Vec::new();
    let mut end_line = |line: &mut Vec<u8>| {
        let text = String::from_utf8_lossy(line).trim_end().replace(char::is_control, " ");
        line.clear();
        if text.is_empty() {
            return;
        }
        on_line(&text);
        lines.push_back(text);
        if lines.len() > TAIL_LINES_MAX {
            lines.pop_front();
        }
    };
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        for byte in &buffer[..count] {
            match byte {
                b'\n' | b'\r' => end_line(&mut line),
                byte if line.len() < LINE_BYTES_MAX => line.push(*byte),
                _ => {}
            }
        }
    }
    end_line(&mut line);
    lines.make_contiguous().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Tool {
        Tool::new("sh", "dash").with(|command| command.args(["-c", script]))
    }

    #[test]
    fn output_is_returned() {
        assert_eq!(shell("echo out; echo err >&2").output().unwrap(), b"out\n");
    }

    #[test]
    fn a_failure_carries_status_and_last_words() {
        let script = "for n in 1 2 3; do echo line $n >&2; done; exit 3";
        let finished = shell(script).start(|_line| {}).and_then(RunningTool::finish);
        for error in [shell(script).output().unwrap_err(), finished.unwrap_err()] {
            let text = error.to_string();
            let expect = "`sh` failed (exit status: 3):\nline 1\nline 2\nline 3";
            assert_eq!(text, expect);
        }
    }

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        let direct = Tool::new("emberd-no-such-tool", "squashfs-tools").output().map(drop);
        let leashed = Tool::leashed("emberd-no-such-tool", "squashfs-tools", false);
        let leashed = leashed.start(|_line| {}).and_then(RunningTool::finish);
        for error in [direct.unwrap_err(), leashed.unwrap_err()] {
            assert!(error.to_string().ends_with("`apt-get install squashfs-tools`"), "{error}");
        }
    }

    #[test]
    fn the_tail_is_bounded_and_printable() {
        let noise = format!("{}\n{}\u{1b}[31m", "many\n".repeat(100), "x".repeat(10_000));
        let mut count = 0;
        let tail = read_tail(noise.as_bytes(), |_line| count += 1);
        assert_eq!((count, tail.lines().count()), (101, TAIL_LINES_MAX));
        assert!(tail.lines().all(|line| line.len() <= LINE_BYTES_MAX));
        assert!(!tail.contains('\u{1b}'));
    }

    #[test]
    fn dropping_a_tool_ends_it() {
        let mut tool = shell("sleep 600 & echo started; wait").start(|_line| {}).unwrap();
        let mut stdout = tool.take_stdout();
        let mut first = [0; 8];
        stdout.read_exact(&mut first).unwrap();
        drop(tool);
        // Ends because the background process, which holds the other end, is killed too.
        assert_eq!(stdout.read_to_end(&mut Vec::new()).unwrap(), 0);
    }
}
