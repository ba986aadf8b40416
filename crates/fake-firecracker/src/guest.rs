//! The guest: the real agent as a host process, in its own directory.
//!
//! `guest-<pid>/` in the working directory has a socket for each port that a guest process
//! listens on (`port_1024` is the agent's), and `host`, through which a guest process connects to
//! the host: it writes `CONNECT <port>
//! ` and reads `OK <port>
//! `. A connection to `ready` is one to the port that signals that the guest serves.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use emberd_proto::message::AGENT_PORT;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::keeper::{KEEPER_WORD, PAUSE, RESUME};

/// Environment variable with the path of the `host` socket, for the agent.
const HOST_SOCKET_VARIABLE: &str = "EMBERD_HOST_SOCKET";

/// Directory of the guest's sockets. Dropping it removes it.
#[derive(Debug)]
pub struct GuestDir(PathBuf);

impl GuestDir {
    /// Creates the directory, relative to the working directory, because socket paths have at
    /// most 107 bytes.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn new() -> io::Result<Self> {
        let dir = PathBuf::from(format!("guest-{}", std::process::id()));
        fs::create_dir(&dir)?;
        Ok(Self(dir))
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the socket for a guest process that listens on `port`.
    pub fn port(&self, port: u32) -> PathBuf {
        self.0.join(format!("port_{port}"))
    }

    /// Returns the socket through which the guest connects to the host.
    pub fn host(&self) -> PathBuf {
        self.0.join("host")
    }

    /// Returns the socket through which the guest signals that it serves.
    pub fn ready(&self) -> PathBuf {
        self.0.join("ready")
    }
}

impl Drop for GuestDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A running guest. Dropping it kills all its processes and waits for them.
#[derive(Debug)]
pub struct Guest {
    keeper: Child,
    /// Standard input of the keeper, which lives as long as this.
    orders: Option<UnixStream>,
}

impl Guest {
    /// Starts the agent, with the words of the kernel command line as its environment.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn start(
        agent: &Path,
        dir: &GuestDir,
        pack: Option<&Path>,
        boot_args: &str,
    ) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(KEEPER_WORD).arg(agent).arg("--listen").arg(dir.port(AGENT_PORT));
        command.arg("--ready").arg(dir.ready());
        // Programs run in other directories, so the path must be absolute.
        command.arg("--scratch").arg(std::path::absolute(dir.path())?.join("scratch"));
        if let Some(pack) = pack {
            command.arg("--pack").arg(pack);
        }
        command.env_clear().envs(kernel_environment(boot_args));
        command.env("HOME", "/").env("TERM", "linux").env(HOST_SOCKET_VARIABLE, dir.host());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        let (orders, stdin) = UnixStream::pair()?;
        let keeper = command.stdin(OwnedFd::from(stdin)).process_group(0).spawn()?;
        Ok(Self { keeper, orders: Some(orders) })
    }

    /// Returns a handle for waiting for the agent's end.
    ///
    /// # Errors
    /// If there is no descriptor for it.
    pub fn end(&self) -> io::Result<GuestEnd> {
        Ok(GuestEnd(pidfd_open(Pid::from_child(&self.keeper), PidfdFlags::empty())?))
    }

    /// Stops every process of the guest.
    pub fn pause(&self) {
        self.order(PAUSE);
    }

    /// Continues every process of the guest.
    pub fn resume(&self) {
        self.order(RESUME);
    }

    /// Only the keeper sends signals, because only it knows that it is not just forking the
    /// agent. A keeper stopped at that moment would never continue.
    fn order(&self, order: [u8; 1]) {
        if let Some(mut orders) = self.orders.as_ref() {
            let obeyed = orders.write_all(&order).and_then(|()| orders.read_exact(&mut [0]));
            // A keeper that has ended has no processes to signal.
            obeyed.ok();
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.orders.take());
        // Fails only for a child that was already waited for.
        self.keeper.wait().ok();
    }
}

/// Waits for a guest's end, without keeping the guest alive.
#[derive(Debug)]
pub struct GuestEnd(OwnedFd);

impl GuestEnd {
    /// Blocks until the agent and its descendants have ended.
    pub fn wait(&self) {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        while poll(&mut fds, None) == Err(Errno::INTR) {}
    }
}

/// Words `KEY=VALUE` that the kernel does not know become init's environment (Linux'
/// `init/main.c`); its own parameters are not in capitals.
fn kernel_environment(boot_args: &str) -> impl Iterator<Item = (&str, &str)> {
    let words = boot_args.split_whitespace().filter_map(|word| word.split_once('='));
    words.filter(|(key, _)| {
        let mut letters = key.bytes();
        letters.next().is_some_and(|first| first.is_ascii_uppercase())
            && letters.all(|letter| {
                letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == b'_'
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capital_words_of_the_command_line_are_environment() {
        let words = kernel_environment("quiet root=/dev/vda A=1 8250.nr_uarts=0 B_2=x=y =z Ab=1");
        assert_eq!(words.collect::<Vec<_>>(), [("A", "1"), ("B_2", "x=y")]);
    }
}
