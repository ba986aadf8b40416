//! The double for tests: an executable in a test's directory, and images for its guests.
//!
//! A driver clears the environment and does not know the double's flags. The executable is
//! therefore a script, which runs the commands of a second file before it becomes the double.
//! That file can change from one microVM to the next.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// Maximum number of bytes read of the host's first message; a hello is much shorter.
const GREETING_BYTES_MAX: usize = 4096;

/// Behaviour of a guest after its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Closes the connection.
    Close,
    /// Keeps the connection open and sends nothing more.
    Silence,
}

/// A Firecracker for tests. Without faults, it behaves like the real one.
#[derive(Debug)]
pub struct Double {
    dir: PathBuf,
}

impl Double {
    /// Creates a double in `dir`, which must exist and have no quote in its name.
    ///
    /// # Panics
    /// If it cannot be created, or the programs that it needs are not built.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let double = Self { dir: std::path::absolute(dir.into()).expect("a working directory") };
        for (path, content) in [(double.kernel(), "\x7fELF"), (double.initramfs(), "070701")] {
            fs::write(path, content).expect("the directory can be written to");
        }
        double.behave();
        // Informational flags are always answered; the rest is for starting a microVM.
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

    /// Returns the path of the executable.
    pub fn binary(&self) -> PathBuf {
        self.dir.join("firecracker")
    }

    /// Returns the path of a valid kernel file.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// Returns the path of a valid initramfs file.
    pub fn initramfs(&self) -> PathBuf {
        self.dir.join("initramfs.cpio")
    }

    fn behaviour(&self) -> PathBuf {
        self.dir.join("behaviour.sh")
    }

    /// Removes faults from later microVMs.
    pub fn behave(&self) {
        self.first("");
    }

    /// Adds faults to later microVMs: values of the double's `--fault`, separated by commas.
    pub fn misbehave(&self, faults: &str) {
        self.first(&format!("set -- \"$@\" --fault '{faults}'"));
    }

    /// Makes later microVMs run `script` instead of the agent. It gets the agent's arguments, of
    /// which the second is the socket to listen on.
    pub fn replace_agent(&self, script: &str) {
        let agent = self.dir.join("agent");
        write_program(&agent, script);
        self.first(&format!("set -- \"$@\" --fake-agent '{}'", agent.display()));
    }

    /// Makes the agent of later guests one of the generation before.
    pub fn age_agent(&self) {
        let double = beside_current_exe("fake-firecracker");
        let agent = beside_current_exe("emberd-init");
        let [double, agent] = [double.display(), agent.display()];
        self.replace_agent(&format!("exec '{double}' older-agent '{agent}' \"$@\""));
    }

    /// Makes later guests capture the connections of their programs, each in a network namespace
    /// of its own. Needs root.
    pub fn capture(&self) {
        let agent = beside_current_exe("emberd-init");
        self.replace_agent(&format!(
            "touch resolv.conf\n\
             exec unshare --net --mount /bin/sh -c 'ulimit -n $(ulimit -H -n); \
             mount --bind resolv.conf /etc/resolv.conf && exec \"$@\"' sh '{}' \
             --egress resolv.conf \"$@\"",
            agent.display()
        ));
    }

    /// Makes later guests answer any first message with `bytes`, and nothing else.
    ///
    /// # Panics
    /// If no socket can be created in the directory.
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
        // Guests run in other directories, so the path of their socket is a link to this one.
        self.replace_agent(&format!("ln -s '{}' \"$2\"\nexec sleep inf", socket.display()));
    }

    /// Makes later VMMs run these lines of shell before they become the double.
    ///
    /// # Panics
    /// If the directory cannot be written to.
    pub fn first(&self, script: &str) {
        // Replaced atomically, because a microVM may just be starting.
        let new = self.dir.join("behaviour.sh.new");
        fs::write(&new, format!("{script}\n")).expect("the directory can be written to");
        fs::rename(&new, self.behaviour()).expect("the directory can be written to");
    }

    /// Returns the processes whose working directory is `dir` or below, such as leftovers of a
    /// microVM.
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

/// Reads first: data that arrives at a closed connection would reset it and lose the answer.
fn greet(mut stream: UnixStream, answer: &[u8]) -> Option<UnixStream> {
    let _bytes = stream.read(&mut [0; GREETING_BYTES_MAX]).ok()?;
    stream.write_all(answer).ok()?;
    Some(stream)
}

/// Returns the path of the program `name`, built beside the running test.
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

/// Writes an executable shell script, by means of a shell. If this process opened it for writing,
/// a child forked by another thread could hold it open, and executing it would fail ("text file
/// busy").
///
/// # Panics
/// If it cannot be written.
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
