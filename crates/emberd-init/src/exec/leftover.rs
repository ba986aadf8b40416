//! What a program left behind goes on writing to the pipes it inherited.
//!
//! Without a reader its next line would end it by SIGPIPE: a server left behind would die of its
//! own log. So somebody goes on reading, and drops what is read, until nobody can write any more.

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

/// Pipes that are read on at a time. Each costs the agent a descriptor and the kernel some
/// 2 KiB, and each takes a process that lives on; one more than this is closed.
const PIPES_MAX: usize = 4096;

/// Pause between two readings of a pipe: one that is written to without end takes little of
/// the processor from programs somebody waits for.
const READ_PAUSE: Duration = Duration::from_millis(10);

/// What is read at once, in bytes (16 KiB).
const CHUNK_BYTES: usize = 16 << 10;

/// Most that is read between two pauses, in bytes (256 KiB): as much as a pipe was made to hold.
const TURN_BYTES: usize = 256 << 10;

/// The pipes that are read on.
#[derive(Debug, Default)]
pub struct Leftovers {
    pipes: Arc<AtomicUsize>,
}

/// One of [`PIPES_MAX`].
#[derive(Debug)]
struct Seat(Arc<AtomicUsize>);

impl Leftovers {
    /// Takes over the output of a program whose `leader` has ended, until those it left behind
    /// have ended too. Returns at once, and has nothing to do where nobody was left behind.
    pub fn take(&self, mut leader: Leader, outputs: [Output; 2]) {
        if leader.is_gone() {
            drop(leader);
            return self.read_on(outputs);
        }
        // It has told its end, and its process is just being torn down, which closes its pipes.
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
            let Some(seat) = self.seat() else { return };
            let Ok(pipe) = Receiver::from_owned_fd_unchecked(pipe) else { continue };
            tokio::spawn(async move {
                let _seat = seat;
                while pipe.readable().await.is_ok() && discard(&pipe).is_ok() {
                    sleep(READ_PAUSE).await;
                }
            });
        }
    }

    fn seat(&self) -> Option<Seat> {
        let taken = self.pipes.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(Arc::clone(&self.pipes));
        (taken < PIPES_MAX).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether nobody holds the other end.
fn is_closed(pipe: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// Reads what is there; fails once nobody can write any more.
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
