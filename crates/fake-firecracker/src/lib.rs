//! The double as tests use it: a program in a directory of theirs, and what its guests boot
//! from.
//!
//! A driver clears the environment and knows no flags of the double's. So the program is a
//! script: before it becomes the double it does what a second file says, which can change
//! from one microVM to the next.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// Most bytes read of what a host says first: a greeting is far shorter.
const GREETING_BYTES_MAX: usize = 4096;

/// What a guest does after its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It closes the connection.
    Close,
    /// It keeps the connection open and says nothing more.
    Silence,
}

/// A Firecracker for tests. It behaves, until told otherwise.
#[derive(Debug)]
pub struct Double {
    dir: PathBuf,
}

impl Double {
    /// A double that lives in `dir`, which must exist and have no quote in its name.
    ///
    /// # Panics
    /// When it cannot be made, or the programs it needs are not built.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let double = Self { dir: std::path::absolute(dir.into()).expect("a working directory") };
        for (path, content) in [(double.kernel(), "\x7fELF"), (double.initramfs(), "070701")] {
            fs::write(path, content).expect("the directory can be written to");
        }
        double.behave();
        // Questions are always answered: what follows is for those who want a microVM.
        write_program(
            &double.binary(),
            &format!(
                "export PATH=/usr/bin:/bin\n\
                 case $1 in --version | --snapshot-version | --describe-snapshot) ;;\n\
                 *) . '{}' ;;\nesac\nexec '{}' \"$@\"\n",
                double.behaviour().display(),
                beside_current_exe("fake-firecracker").display()
            ),
        );
        double
    }

    /// The program.
    pub fn binary(&self) -> PathBuf {
        self.dir.join("firecracker")
    }

    /// A file that passes for a kernel.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// A file that passes for an initramfs.
    pub fn initramfs(&self) -> PathBuf {
        self.dir.join("initramfs.cpio")
    }

    fn behaviour(&self) -> PathBuf {
        self.dir.join("behaviour.sh")
    }

    /// Later microVMs behave.
    pub fn behave(&self) {
        self.first("");
    }

    /// Later microVMs have these faults: words of the double's `--fault`, with commas between.
    pub fn misbehave(&self, faults: &str) {
        self.first(&format!("set -- \"$@\" --fault '{faults}'"));
    }

    /// Later microVMs run `script` in place of the agent. It is given the agent's arguments,
    /// of which the second is the socket to listen on.
    pub fn replace_agent(&self, script: &str) {
        let agent = self.dir.join("agent");
        write_program(&agent, script);
        self.first(&format!("set -- \"$@\" --fake-agent '{}'", agent.display()));
    }

    /// Later guests answer whatever they are told first with `bytes`, and nothing else.
    ///
    /// # Panics
    /// When nothing can listen in the directory.
    pub fn answer(&self, bytes: &'static [u8], then: Then) {
        let socket = self.dir.join("rogue.sock");
        fs::remove_file(&socket).ok();
        let listener = UnixListener::bind(&socket).expect("the directory can be written to");
        thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming().flatten() {
                silent.extend(greet(stream, bytes).filter(|_| then == Then::Silence));
            }
        });
        // Guests live elsewhere: what they are to listen on leads here.
        self.replace_agent(&format!("ln -s '{}' \"$2\"\nexec sleep inf", socket.display()));
    }

    /// Later VMMs do as these lines of shell say before they become the double, if they do.
    ///
    /// # Panics
    /// When the directory cannot be written to.
    pub fn first(&self, script: &str) {
        // Replaced whole: a microVM may just be starting.
        let new = self.dir.join("behaviour.sh.new");
        fs::write(&new, format!("{script}\n")).expect("the directory can be written to");
        fs::rename(&new, self.behaviour()).expect("the directory can be written to");
    }

    /// Processes that run in `dir` or below it, such as what a microVM left behind.
    ///
    /// # Panics
    /// Without `/proc`.
    pub fn processes_in(dir: &Path) -> Vec<PathBuf> {
        let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let inside = |process: &PathBuf| {
            fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
        };
        processes.map(|entry| entry.path()).filter(inside).collect()
    }
}

/// Listens first: bytes that arrive at a closed connection would take the answer along.
fn greet(mut stream: UnixStream, answer: &[u8]) -> Option<UnixStream> {
    let _bytes = stream.read(&mut [0; GREETING_BYTES_MAX]).ok()?;
    stream.write_all(answer).ok()?;
    Some(stream)
}

/// The program `name`, built beside the running test.
fn beside_current_exe(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its own path");
    let found =
        exe.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!(
            "no {name} near {}: run `cargo build -p fake-firecracker -p emberd-init` first",
            exe.display()
        )
    })
}

/// Writes a shell script that can be run, by way of a shell: were it open for writing here, a
/// child that another thread forks meanwhile would hold it open, and it could not be run
/// ("text file busy").
///
/// # Panics
/// When it cannot be written.
pub fn write_program(path: &Path, script: &str) {
    let mut shell = Command::new("/bin/sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("there is a shell");
    let mut stdin = shell.stdin.take().expect("it is piped");
    stdin.write_all(format!("#!/bin/sh\n{script}\n").as_bytes()).expect("the shell reads");
    drop(stdin);
    assert!(shell.wait().expect("the shell ends").success(), "{} not written", path.display());
}
