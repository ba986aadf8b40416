//! The programs that guests run, in each supported language, and their expected results.

use emberd_api::ExecOutcome;
use emberd_api::exec::EXIT_CODE_NONE;

const KIB: usize = 1 << 10;

/// Maximum length of an unexpected output in messages, in characters.
const EXCERPT_CHARS_MAX: usize = 200;

/// Why a program cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The program had an unexpected result.
    #[error("{what}: expected {expected}, not {seen}")]
    Unexpected {
        /// The program.
        what: String,
        /// The expected result.
        expected: String,
        /// The actual result.
        seen: String,
    },
    /// There are no programs for a pack.
    #[error("only the packs python, shell and node have programs")]
    NoPrograms,
}

/// A program, its input, and its expected result.
#[derive(Debug, Clone)]
pub struct Program {
    /// Code.
    pub code: String,
    /// Standard input.
    pub stdin: Option<String>,
    /// Time limit, if the program has to exceed it.
    pub timeout_ms: Option<u64>,
    /// Whether to use a new interpreter.
    pub fresh: bool,
    exit_code: i32,
    stdout: Stdout,
}

#[derive(Debug, Clone)]
enum Stdout {
    Text(String),
    Bytes(usize),
    Any,
}

impl Program {
    /// Returns a program that must print `stdout` and succeed.
    pub fn printing(code: impl Into<String>, stdout: impl Into<String>) -> Self {
        Self::new(code, Stdout::Text(stdout.into()))
    }

    /// Returns a program that must succeed, with any output.
    pub fn succeeding(code: impl Into<String>) -> Self {
        Self::new(code, Stdout::Any)
    }

    fn new(code: impl Into<String>, stdout: Stdout) -> Self {
        let code = code.into();
        Self { code, stdin: None, timeout_ms: None, fresh: false, exit_code: 0, stdout }
    }

    /// Returns the same program for a new interpreter.
    pub fn fresh(self) -> Self {
        Self { fresh: true, ..self }
    }

    /// Compares `outcome` with the expected result.
    ///
    /// # Errors
    /// [`ProgramError::Unexpected`].
    pub fn verify(&self, outcome: &ExecOutcome) -> Result<(), ProgramError> {
        let as_wanted = match &self.stdout {
            Stdout::Text(text) => outcome.stdout == *text,
            Stdout::Bytes(bytes) => outcome.stdout.len() == *bytes,
            Stdout::Any => true,
        };
        let (timed_out, exit_code) = (outcome.exit.timed_out, outcome.exit.exit_code);
        let ended_well = timed_out == self.timeout_ms.is_some() && exit_code == self.exit_code;
        if as_wanted && ended_well {
            return Ok(());
        }
        let excerpt = |text: &str| text.chars().take(EXCERPT_CHARS_MAX).collect::<String>();
        let expected = match &self.stdout {
            Stdout::Text(text) => format!("exit {} and {text:?}", self.exit_code),
            Stdout::Bytes(bytes) => format!("exit {} and {bytes} bytes", self.exit_code),
            Stdout::Any => format!("exit {}", self.exit_code),
        };
        Err(ProgramError::Unexpected {
            what: excerpt(&self.code),
            expected,
            seen: format!(
                "exit {exit_code}, {} bytes {:?}, standard error {:?}",
                outcome.stdout.len(),
                excerpt(&outcome.stdout),
                excerpt(&outcome.stderr)
            ),
        })
    }
}

/// The language of a language pack, by the pack's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// `python`.
    Python,
    /// `shell`.
    Shell,
    /// `node`.
    Node,
}

impl Language {
    /// Returns the language of `pack`.
    ///
    /// # Errors
    /// If there are no programs for it.
    pub fn of(pack: &str) -> Result<Self, ProgramError> {
        match pack {
            "python" => Ok(Self::Python),
            "shell" => Ok(Self::Shell),
            "node" => Ok(Self::Node),
            _ => Err(ProgramError::NoPrograms),
        }
    }

    /// Prints `hello`.
    pub fn hello(self) -> Program {
        self.saying("hello")
    }

    /// Prints `word`, which needs no quoting.
    pub fn saying(self, word: &str) -> Program {
        let code = match self {
            Self::Python => format!("print('{word}')"),
            Self::Shell => format!("echo {word}"),
            Self::Node => format!("console.log('{word}')"),
        };
        Program::printing(code, format!("{word}\n"))
    }

    /// Returns the code that starts a count in a context, and the code that increments and prints
    /// it.
    pub fn counting(self) -> [&'static str; 2] {
        match self {
            Self::Python => ["count = 0", "count += 1\ncount"],
            Self::Shell => ["count=0", "count=$((count + 1)); echo $count"],
            Self::Node => ["var count = 0", "count += 1"],
        }
    }

    /// Loads a dozen modules of the standard library; the shell has none.
    pub fn imports(self) -> Option<Program> {
        let code = match self {
            Self::Python => {
                "import argparse, asyncio, collections, csv, dataclasses, datetime, hashlib, \
                 json, logging, pathlib, subprocess, urllib.request\nprint('ok')"
            }
            Self::Shell => return None,
            Self::Node => {
                "for (const name of ['assert', 'child_process', 'crypto', 'events', 'fs', 'http', \
                 'os', 'path', 'stream', 'url', 'util', 'zlib']) require(name)\nconsole.log('ok')"
            }
        };
        Some(Program::printing(code, "ok\n"))
    }

    /// Returns a program of `bytes` that prints `ok` and otherwise consists of a comment, to
    /// measure the transport of a long text and not its parsing.
    pub fn long(self, bytes: usize) -> Program {
        const LINE_BYTES: usize = 64;
        let (comment, say) = match self {
            Self::Python => ("#", "print('ok')"),
            Self::Shell => ("#", "echo ok"),
            Self::Node => ("//", "console.log('ok')"),
        };
        let line = format!("{comment}{}\n", "x".repeat(LINE_BYTES - 1 - comment.len()));
        let mut code = line.repeat((bytes - say.len()) / LINE_BYTES);
        code.push_str(&"\n".repeat(bytes - say.len() - code.len()));
        code.push_str(say);
        Program::printing(code, "ok\n")
    }

    /// Prints `bytes` bytes.
    pub fn output(self, bytes: usize) -> Program {
        let code = match self {
            Self::Python => format!("import sys; sys.stdout.write('x' * {bytes})"),
            Self::Shell => format!("head -c {bytes} /dev/zero | tr '\\0' x"),
            Self::Node => format!("process.stdout.write('x'.repeat({bytes}))"),
        };
        Program::new(code, Stdout::Bytes(bytes))
    }

    /// Prints the file at `path`, which has `bytes` bytes and needs no quoting.
    pub fn file(self, path: &str, bytes: usize) -> Program {
        let code = match self {
            Self::Python => format!(
                "import shutil, sys\nshutil.copyfileobj(open('{path}', 'rb'), sys.stdout.buffer)"
            ),
            Self::Shell => format!("cat {path}"),
            Self::Node => format!("process.stdout.write(require('fs').readFileSync('{path}'))"),
        };
        Program::new(code, Stdout::Bytes(bytes))
    }

    /// Reads `bytes` bytes of standard input and prints how many there were.
    pub fn stdin(self, bytes: usize) -> Program {
        let code = match self {
            Self::Python => "import sys; print(len(sys.stdin.read()))",
            Self::Shell => "echo $(wc -c)",
            Self::Node => "console.log(require('fs').readFileSync(0).length)",
        };
        let stdin = Some("x".repeat(bytes));
        Program { stdin, ..Program::printing(code, format!("{bytes}\n")) }
    }

    /// Ends with exit code 3.
    pub fn exit_3(self) -> Program {
        let code = match self {
            Self::Python => "raise SystemExit(3)",
            Self::Shell => "exit 3",
            Self::Node => "process.exit(3)",
        };
        Program { exit_code: 3, ..Program::printing(code, "") }
    }

    /// Does nothing until its time limit of one second.
    pub fn timeout_1s(self) -> Program {
        let code = match self {
            Self::Python => "import time\nwhile True: time.sleep(10)",
            Self::Shell => "sleep 600",
            Self::Node => "setInterval(() => {}, 10000)",
        };
        let timeout_ms = Some(1000);
        Program { timeout_ms, exit_code: EXIT_CODE_NONE, ..Program::printing(code, "") }
    }

    /// Returns every workload, by name.
    pub fn workloads(self) -> Vec<(&'static str, Program)> {
        let imports = self.imports().map(|program| ("imports", program));
        let mut workloads = vec![("hello", self.hello())];
        workloads.extend(imports);
        workloads.extend([
            ("code_64k", self.long(64 * KIB)),
            ("code_900k", self.long(900 * KIB)),
            ("output_1k", self.output(KIB)),
            ("output_1m", self.output(KIB * KIB)),
            ("stdin_64k", self.stdin(64 * KIB)),
            ("exit_3", self.exit_3()),
            ("timeout_1s", self.timeout_1s()),
        ]);
        workloads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use emberd_api::ExecExit;

    fn outcome(exit_code: i32, stdout: &str) -> ExecOutcome {
        let exit = ExecExit { exit_code, ..ExecExit::default() };
        ExecOutcome::new(exit, stdout.into(), Vec::new())
    }

    #[test]
    fn long_programs_are_as_long_as_asked() {
        for language in [Language::Python, Language::Shell, Language::Node] {
            for bytes in [64, 1000, 64 * KIB, 900 * KIB] {
                assert_eq!(language.long(bytes).code.len(), bytes);
            }
        }
    }

    #[test]
    fn programs_that_do_something_else_are_noticed() {
        let python = Language::Python;
        assert!(python.hello().verify(&outcome(0, "hello\n")).is_ok());
        assert!(python.hello().verify(&outcome(0, "hell\n")).is_err());
        assert!(python.hello().verify(&outcome(1, "hello\n")).is_err());
        assert!(python.output(3).verify(&outcome(0, "xxx")).is_ok());
        assert!(python.output(3).verify(&outcome(0, "xx")).is_err());
        assert!(python.exit_3().verify(&outcome(3, "")).is_ok());
        assert!(python.timeout_1s().verify(&outcome(-1, "")).is_err());
        assert!(Language::of("cobol").is_err());
    }
}
