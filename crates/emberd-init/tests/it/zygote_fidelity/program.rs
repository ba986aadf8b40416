//! A program of the corpus, and what became of it when it ran. Lines of a program that begin
//! with `#: ` say how it is to be run:
//!
//! ```text
//! arg TEXT · env NAME=VALUE · cwd PATH   one more argument or variable; where, if not in an
//!                                        empty directory
//! stdin TEXT · stdin-lines N             one more line of input; N numbered ones
//! append N TEXT · stdout-closed          it ends with N more such lines; nobody reads
//! beside NAME                            a file from `beside/` lies in its working directory
//! until 3.N                              newer interpreters do something at their very end
//!                                        here that the zygote does not
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use tempfile::TempDir;

use super::python::Python;

/// One program.
#[derive(Debug, Clone)]
pub struct Program {
    pub name: String,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Where it lies; the same place in every run.
    pub file: PathBuf,
    /// The N of the last Python 3.N that it is for.
    until: Option<u32>,
    cwd: Option<PathBuf>,
    stdin: Vec<u8>,
    stdout_closed: bool,
    /// Files by their names, the program's own among them.
    files: BTreeMap<String, Vec<u8>>,
}

/// The ends of its standard streams that a program gets.
pub struct Streams {
    pub stdin: PipeReader,
    pub stdout: PipeWriter,
    pub stderr: PipeWriter,
    /// Where it is to run.
    pub cwd: PathBuf,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Code(i32),
    Signal(i32),
}

/// What became of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub end: End,
    /// What it left in its working directory.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Program {
    /// Reads a program of the corpus, which will run in `place`.
    pub fn read(path: &Path, place: &Path) -> Self {
        let source = fs::read(path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let mut program = Self::new(name, place, &source);
        for line in String::from_utf8_lossy(&source).lines() {
            let Some(direction) = line.strip_prefix("#: ") else { continue };
            let (what, text) = direction.split_once(' ').unwrap_or((direction, ""));
            match what {
                "arg" => program.args.push(text.to_owned()),
                "env" => program.env.push(variable(text)),
                "stdin" => program.stdin.extend(format!("{text}\n").bytes()),
                "stdin-lines" => (0..text.parse().unwrap())
                    .for_each(|line: u32| program.stdin.extend(format!("{line}\n").bytes())),
                "append" => {
                    let (count, line) = text.split_once(' ').unwrap();
                    let lines = format!("{line}\n").repeat(count.parse().unwrap());
                    program.files.entry("main.py".into()).or_default().extend(lines.bytes());
                }
                "stdout-closed" => program.stdout_closed = true,
                "cwd" => program.cwd = Some(text.into()),
                "until" => program.until = Some(text.strip_prefix("3.").unwrap().parse().unwrap()),
                "beside" => {
                    let beside = fs::read(path.with_file_name("beside").join(text)).unwrap();
                    program.files.insert(text.to_owned(), beside);
                }
                _ => panic!("{name}: {line}"),
            }
        }
        program
    }

    /// The program of this source.
    pub fn new(name: &str, place: &Path, source: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            file: place.join("code/main.py"),
            until: None,
            cwd: None,
            stdin: Vec::new(),
            stdout_closed: false,
            files: [("main.py".to_owned(), source.to_vec())].into(),
        }
    }

    /// Whether it is for this interpreter.
    pub fn is_for(&self, python: &Python) -> bool {
        self.until.is_none_or(|minor| python.minor <= minor)
    }

    /// Lets `start` run it, which returns once the program has ended.
    pub fn run(&self, start: impl FnOnce(Streams) -> End) -> Outcome {
        let code = self.file.parent().unwrap();
        let work = code.with_file_name("work");
        for dir in [code, &work] {
            fs::remove_dir_all(dir).ok(); // the last program's
            fs::create_dir_all(dir).unwrap();
        }
        for (name, content) in &self.files {
            let dir = if name == "main.py" { code } else { &work };
            fs::write(dir.join(name), content).unwrap();
        }
        let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) =
            (io::pipe().unwrap(), io::pipe().unwrap(), io::pipe().unwrap());
        let writer = write_all(to_stdin, self.stdin.clone());
        let stdout_reader = (!self.stdout_closed).then(|| read_all(from_stdout));
        let stderr_reader = read_all(from_stderr);
        let cwd = self.cwd.clone().unwrap_or(work.clone());
        let end = start(Streams { stdin, stdout, stderr, cwd });
        writer.join().unwrap();
        Outcome {
            stdout: stdout_reader.map(|reader| reader.join().unwrap()).unwrap_or_default(),
            stderr: without_addresses(&stderr_reader.join().unwrap()),
            end,
            files: left_in(&work),
        }
    }
}

/// A place for programs.
pub fn place() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn variable(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap();
    (name.to_owned(), value.to_owned())
}

fn write_all(mut pipe: PipeWriter, bytes: Vec<u8>) -> JoinHandle<()> {
    // A program may leave before it has read everything.
    thread::spawn(move || drop(pipe.write_all(&bytes)))
}

fn read_all(mut pipe: PipeReader) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Addresses of objects, which `repr` prints, differ from run to run.
fn without_addresses(text: &[u8]) -> Vec<u8> {
    const START: &[u8] = b" at 0x";
    let mut rest = text;
    let mut kept = Vec::new();
    while let Some(at) = rest.windows(START.len()).position(|window| window == START) {
        let (before, address) = rest.split_at(at + START.len());
        kept.extend(before);
        let digits = address.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        rest = &address[digits..];
    }
    kept.extend(rest);
    kept
}

fn left_in(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap_or_default())
    });
    files.collect()
}

impl Outcome {
    /// How `other` differs from this one, for people.
    pub fn difference(&self, other: &Self) -> Option<String> {
        (self != other).then(|| format!("fresh: {self}\nforked: {other}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| -> String {
            String::from_utf8_lossy(bytes).chars().take(4000).collect()
        };
        write!(
            f,
            "{:?}\n--- stdout, {} bytes\n{}\n--- stderr, {} bytes\n{}\n--- files {:?}",
            self.end,
            self.stdout.len(),
            text(&self.stdout),
            self.stderr.len(),
            text(&self.stderr),
            self.files,
        )
    }
}
