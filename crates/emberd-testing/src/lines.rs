//! The first line that a child process prints, waited for with an end.

use std::io::{self, BufRead as _, BufReader, Read};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Longest wait for the line; only a failing test reaches it.
pub const LINE_WAIT_MAX: Duration = Duration::from_secs(300);

/// Most bytes of the line.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Reads the first line of `output`, with its newline, and returns it with the rest of `output`.
/// The line is cut at 64 KiB, and lacks its newline where the output ends before one.
///
/// # Errors
/// The error of a read; `TimedOut` after [`LINE_WAIT_MAX`]. The reader has ended then.
pub fn first_line<R: Read + Send + 'static>(output: R) -> io::Result<(String, BufReader<R>)> {
    within(LINE_WAIT_MAX, output)
}

fn within<R: Read + Send + 'static>(
    limit: Duration,
    output: R,
) -> io::Result<(String, BufReader<R>)> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = String::new();
        let read = (&mut output).take(LINE_BYTES_MAX).read_line(&mut line);
        // Nobody waits any more once the time is over.
        sender.send(read.map(|_bytes| (line, output))).ok();
    });
    let in_vain =
        |_error| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no line in {limit:?}")));
    receiver.recv_timeout(limit).unwrap_or_else(in_vain)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_line_and_then_the_rest() {
        let (line, mut rest) = first_line(Cursor::new("one\ntwo\nthree")).unwrap();
        assert_eq!(line, "one\n");
        let mut text = String::new();
        rest.read_to_string(&mut text).unwrap();
        assert_eq!(text, "two\nthree");
        assert_eq!(first_line(Cursor::new("")).unwrap().0, "");
    }

    #[test]
    fn an_endless_line_is_cut() {
        let (line, _) = first_line(io::repeat(b'x')).unwrap();
        assert_eq!(line.len() as u64, LINE_BYTES_MAX);
    }

    #[test]
    fn silence_ends() {
        let (reader, _writer) = io::pipe().unwrap();
        let error = within(Duration::ZERO, reader).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
