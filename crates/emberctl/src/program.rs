//! A program to run as given on the command line, and its outcome as this process's own.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use emberd_api::exec::{CODE_BYTES_MAX, STDIN_BYTES_MAX, TIMEOUT_MS_DEFAULT};
use emberd_api::{ExecBody, ExecExit, ExecOutcome, ExecSpec, Limits, ProcessSpec};
use serde::Serialize;

use crate::exit;
use crate::output::{Output, printable};
use crate::policy;
use crate::trace::Trace;

/// The file name that stands for standard input.
const STANDARD_INPUT: &str = "-";

/// Options that `run` and `exec` share.
#[derive(Debug, clap::Args)]
pub struct ProgramArgs {
    /// Program text in the sandbox's language.
    code: Option<String>,
    /// Read the program from a file; `-` is standard input.
    #[arg(short, long, conflicts_with = "code")]
    file: Option<PathBuf>,
    /// Pass standard input on to the program.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Time limit, such as 500ms, 10s or 2m [default: 30s].
    #[arg(long, value_parser = emberd_config::duration::parse, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Set an environment variable; can be repeated.
    #[arg(short, long, value_parser = variable, value_name = "NAME=VALUE")]
    env: Vec<(String, String)>,
    /// Working directory in the sandbox.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// User that the program runs as [default: root].
    #[arg(short, long, value_name = "NAME")]
    user: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Start a new interpreter instead of forking the warm one of the pack.
    #[arg(long)]
    fresh: bool,
    /// Print the duration of each step on standard error; with --json, in the field `trace`.
    #[arg(long)]
    trace: bool,
    /// Arguments of the program.
    #[arg(last = true)]
    args: Vec<String>,
}

/// Limits of the program and of the processes it starts.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_field_names, reason = "each names its flag")]
struct LimitArgs {
    /// CPU time limit of each process, such as 10s, rounded up to whole seconds.
    #[arg(long, value_parser = emberd_config::duration::parse, value_name = "TIME")]
    max_cpu: Option<Duration>,
    /// Memory limit of all processes together, in MiB [default: two thirds of the guest's memory].
    #[arg(long, value_name = "MIB")]
    max_memory: Option<u64>,
    /// Most processes and threads at the same time.
    #[arg(long, value_name = "NUMBER")]
    max_pids: Option<u64>,
    /// Size limit of each written file, in MiB.
    #[arg(long, value_name = "MIB")]
    max_file: Option<u64>,
}

impl From<LimitArgs> for Limits {
    fn from(args: LimitArgs) -> Self {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            cpu_ms: args.max_cpu.map(milliseconds),
            memory_mib: args.max_memory,
            pids: args.max_pids,
            file_mib: args.max_file,
        }
    }
}

/// Parses a name and a value.
///
/// # Errors
/// There is no `=`.
pub fn variable(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl ProgramArgs {
    /// Whether to say where the time went.
    pub fn trace(&self) -> bool {
        self.trace
    }

    /// Whether standard input is passed on.
    pub fn passes_stdin(&self) -> bool {
        self.stdin
    }

    /// The process to start: the code, or the program that `args` names, or a shell.
    ///
    /// # Errors
    /// As [`Self::into_body`].
    pub fn into_process(self) -> anyhow::Result<ProcessSpec> {
        let code = match (self.code, self.file) {
            (Some(code), _) => Some(code),
            (None, Some(file)) => Some(code_from(&file, self.stdin)?),
            (None, None) => None,
        };
        let (program, args) = match (&code, self.args) {
            (Some(_), words) => (Vec::new(), words),
            (None, words) if words.is_empty() => (vec!["/bin/sh".to_owned()], words),
            (None, words) => (words, Vec::new()),
        };
        let limit = self.timeout.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        let spec = ProcessSpec {
            code,
            argv: program,
            args,
            env: self.env.into_iter().collect(),
            cwd: self.cwd,
            user: self.user,
            limits: self.limits.into(),
            timeout_ms: limit,
            fresh: self.fresh,
            ..ProcessSpec::default()
        };
        spec.check()?;
        Ok(spec)
    }

    /// Reads the files named and makes the request's body.
    ///
    /// # Errors
    /// A file cannot be read, is not text or is over its limit; an option breaks a limit.
    pub fn into_body(self) -> anyhow::Result<ExecBody> {
        let code = match (self.code, self.file) {
            (Some(code), _) => code,
            (None, Some(file)) => code_from(&file, self.stdin)?,
            (None, None) => anyhow::bail!("no program given: pass CODE, or a file with --file"),
        };
        let timeout_ms = self.timeout.map_or(TIMEOUT_MS_DEFAULT.into(), |limit| limit.as_millis());
        let spec = ExecSpec {
            args: self.args,
            env: self.env.into_iter().collect(),
            cwd: self.cwd,
            user: self.user,
            limits: self.limits.into(),
            timeout_ms: u64::try_from(timeout_ms).unwrap_or(u64::MAX),
            fresh: self.fresh,
            ..ExecSpec::new(code)
        };
        spec.check()?;
        let stdin = if self.stdin { read(io::stdin(), STDIN_BYTES_MAX)? } else { Vec::new() };
        Ok(body(spec, stdin))
    }
}

fn code_from(file: &Path, stdin_is_input: bool) -> anyhow::Result<String> {
    let code = if file == Path::new(STANDARD_INPUT) {
        anyhow::ensure!(
            !stdin_is_input,
            "standard input cannot be both the code and the program's input"
        );
        read(io::stdin(), CODE_BYTES_MAX)
    } else {
        std::fs::File::open(file).map_err(Into::into).and_then(|file| read(file, CODE_BYTES_MAX))
    };
    let code = code.with_context(|| format!("cannot read {}", file.display()))?;
    String::from_utf8(code).with_context(|| format!("{} is not UTF-8 text", file.display()))
}

fn read(source: impl io::Read, bytes_max: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    anyhow::ensure!(bytes.len() <= bytes_max, "over the limit of {bytes_max} bytes");
    Ok(bytes)
}

/// The request that runs `spec` with `stdin`, as text where it is text.
pub fn body(spec: ExecSpec, stdin: Vec<u8>) -> ExecBody {
    let (stdin, stdin_base64) = match String::from_utf8(stdin) {
        Ok(text) if text.is_empty() => (None, None),
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(BASE64.encode(error.as_bytes()))),
    };
    ExecBody { spec, stdin, stdin_base64 }
}

/// The JSON output of `run` and `exec`.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    outcome: &'a ExecOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<&'a Trace>,
}

/// Writes the output of the program, byte for byte, then the trace if it was requested.
/// Returns the exit code.
///
/// # Errors
/// Standard output or standard error is closed or full.
pub fn finish(
    outcome: &ExecOutcome,
    trace: Option<&Trace>,
    output: Output,
) -> anyhow::Result<ExitCode> {
    if output.json {
        output.print(&Document { outcome, trace }, String::new)?;
    } else {
        io::stdout().write_all(&outcome.stdout_bytes())?;
        io::stdout().flush()?;
        io::stderr().write_all(&outcome.stderr_bytes())?;
        for (name, cut) in
            [("output", outcome.exit.stdout_truncated), ("error", outcome.exit.stderr_truncated)]
        {
            if cut {
                writeln!(io::stderr(), "emberctl: standard {name} was cut at its limit")?;
            }
        }
        say_why(&outcome.exit)?;
        if let Some(trace) = trace {
            write!(anstream::stderr(), "{}", trace.text())?;
        }
    }
    Ok(match &outcome.exit {
        exit if exit.timed_out => exit::TIMED_OUT.into(),
        exit if exit.error.is_some() => exit::NOT_STARTED.into(),
        exit => exit::of_program(exit.exit_code),
    })
}

/// Says why a program ended that could not itself, and what the network policy denied to it.
///
/// # Errors
/// Standard error is closed.
pub fn say_why(exit: &ExecExit) -> io::Result<()> {
    if let Some(error) = &exit.error {
        writeln!(io::stderr(), "emberctl: {}", printable(error))?;
    }
    if exit.out_of_memory {
        writeln!(io::stderr(), "emberctl: out of memory: the program reached its limit")?;
    }
    policy::say_denied(&exit.egress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        program: ProgramArgs,
    }

    fn limits_of(flags: &[&str]) -> anyhow::Result<Limits> {
        let line = [&["x", "code"], flags].concat();
        Ok(<Line as clap::Parser>::parse_from(line).program.into_body()?.spec.limits)
    }

    #[test]
    fn limits_are_those_of_the_flags() {
        let flags = ["--max-cpu", "1500ms", "--max-memory", "48", "--max-pids", "5"];
        let expect =
            Limits { cpu_ms: Some(1500), memory_mib: Some(48), pids: Some(5), file_mib: None };
        assert_eq!(limits_of(&flags).unwrap(), expect);
        assert_eq!(limits_of(&["--max-file", "2"]).unwrap().file_mib, Some(2));
        assert!(limits_of(&[]).unwrap().is_none());
        assert!(limits_of(&["--max-pids", "0"]).is_err());
    }

    #[test]
    fn stdin_travels_as_text_where_it_is_text() {
        let fields = |stdin: &[u8]| {
            let body = body(ExecSpec::new(""), stdin.to_vec());
            (body.stdin, body.stdin_base64)
        };
        assert_eq!(fields(b""), (None, None));
        assert_eq!(fields(b"a\n"), (Some("a\n".into()), None));
        assert_eq!(fields(&[0xff]), (None, Some("/w==".into())));
    }
}
