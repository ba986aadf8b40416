//! Reads the output of processes that a program left behind.
//!
//! Without a reader, their next write would end them by SIGPIPE, for example a server that writes
//! a log. The agent therefore keeps reading and drops the output until no process can write any
//! more.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::net::unix::pipe::Receiver;
use tokio::time::sleep;

use super::leader::Leader;
use super::output::Output;

/// Maximum number of pipes that are read. Each costs the agent a descriptor and the kernel about
/// 2 KiB, and belongs to a running process. Further pipes are closed.
const PIPES_MAX: usize = 4096;

/// Pause between two reads of a pipe, so that a process that writes without end takes little
/// processor time from other programs.
const READ_PAUSE: Duration = Duration::from_millis(10);

/// Read size, in bytes (16 KiB).
const CHUNK_BYTES: usize = 16 << 10;

/// Maximum read between two pauses, in bytes (256 KiB): the capacity that pipes were given.
const TURN_BYTES: usize = 256 << 10;

/// The pipes of processes that were left behind.
#[derive(Debug, Default)]
pub struct Leftovers {
    pipes: Arc<AtomicUsize>,
}

/// One of [`PIPES_MAX`].
#[derive(Debug)]
struct Permit(Arc<AtomicUsize>);

impl Leftovers {
    /// Takes over the output of a program whose `leader` has ended, until the processes that it
    /// left behind have ended too. Returns at once, and does nothing if no process was left
    /// behind.
    pub fn take(&self, mut leader: Leader, outputs: [Output; 2]) {
        if leader.is_gone() {
            drop(leader);
            return self.read_on(outputs);
        }
        // The program has reported its end, and its process is exiting, which closes its pipes.
        let all = Self { pipes: Arc::clone(&self.pipes) };
        tokio::spawn(async move {
            leader.gone().await;
            drop(leader);
            all.read_on(outputs);
        });
    }

    fn read_on(&self, outputs: [Output; 2]) {
        for pipe in outputs.into_iter().filter_map(Output::into_pipe) {
            if is_closed(&pipe) {
                continue;
            }
            let Some(permit) = self.permit() else { return };
            let Ok(pipe) = Receiver::from_owned_fd_unchecked(pipe) else { continue };
            tokio::spawn(async move {
                let _permit = permit;
                while pipe.readable().await.is_ok() && discard(&pipe).is_ok() {
                    sleep(READ_PAUSE).await;
                }
            });
        }
    }

    fn permit(&self) -> Option<Permit> {
        let taken = self.pipes.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(Arc::clone(&self.pipes));
        (taken < PIPES_MAX).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns whether the other end is closed.
fn is_closed(pipe: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// Reads available data; fails once no process can write any more.
fn discard(pipe: &Receiver) -> io::Result<()> {
    let mut chunk = [0; CHUNK_BYTES];
    let mut total = 0;
    while total < TURN_BYTES {
        match pipe.try_read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => total += bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
