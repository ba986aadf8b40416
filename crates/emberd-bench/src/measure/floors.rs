//! The cost of the same work without emberd.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Size of each write and read, in bytes (64 KiB): as much as a frame to a guest holds.
const PIECE_BYTES: usize = 64 << 10;

/// Measures `bytes` bytes over the loopback interface, from one thread to another.
///
/// # Errors
/// If a socket fails.
pub fn loopback(bytes: usize) -> io::Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut far = TcpStream::connect(listener.local_addr()?)?;
    let (mut near, _) = listener.accept()?;
    let mut piece = vec![0; PIECE_BYTES];
    let asked = Instant::now();
    let writer = thread::spawn(move || {
        let piece = vec![0; PIECE_BYTES];
        let mut left = bytes;
        while left > 0 {
            let length = left.min(PIECE_BYTES);
            far.write_all(&piece[..length])?;
            left -= length;
        }
        io::Result::Ok(())
    });
    let mut read = 0;
    while read < bytes {
        match near.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => read += length,
        }
    }
    let took = asked.elapsed();
    writer.join().map_err(|_| io::Error::other("the writer panicked"))??;
    Ok(took)
}

/// A `cat` on this host, which echoes over two pipes.
#[derive(Debug)]
pub struct Cat {
    process: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

impl Cat {
    /// Starts one.
    ///
    /// # Errors
    /// If there is no `cat`.
    pub fn start() -> io::Result<Self> {
        let mut command = Command::new("cat");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        match (process.stdin.take(), process.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok(Self { process, stdin, stdout }),
            _ => unreachable!("both are pipes"),
        }
    }

    /// Measures a round trip of `line`.
    ///
    /// # Errors
    /// If a pipe fails.
    pub fn echo(&mut self, line: &str) -> io::Result<Duration> {
        let mut answer = vec![0; line.len()];
        let sent = Instant::now();
        self.stdin.write_all(line.as_bytes())?;
        self.stdout.read_exact(&mut answer)?;
        Ok(sent.elapsed())
    }

    /// Ends the process.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn end(self) -> io::Result<()> {
        let Self { mut process, stdin, stdout } = self;
        drop((stdin, stdout));
        process.wait().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass() {
        assert!(loopback(3 * PIECE_BYTES + 1).unwrap() > Duration::ZERO);
        let mut cat = Cat::start().unwrap();
        assert!(cat.echo("hello\n").unwrap() > Duration::ZERO);
        cat.end().unwrap();
    }
}
