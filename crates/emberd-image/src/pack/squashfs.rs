//! From a tar stream to a SquashFS image: the stream is piped through, never unpacked.
//!
//! ```text
//! prelude + tar stream ──▶ pump (counts, limits) ──▶ sqfstar ──▶ image
//! ```

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;

use super::Compression;
use super::archive::{ArchiveError, ROOT_BYTES_MAX};
use crate::build::BuildError;
use crate::command::{RunningTool, Tool};
use crate::progress::Progress;

/// Data block, in bytes: SquashFS's default, a fair deal between ratio and read size.
const BLOCK_BYTES: u32 = 128 << 10;
const PUMP_BYTES: usize = 256 << 10;

/// What a tool or the pump tells while an image is made.
pub(super) enum Event {
    Line(String),
    Bytes(u64),
}

/// A root file system as a tar stream.
pub(super) struct RootStream {
    pub reader: Box<dyn Read + Send>,
    /// The tool that writes the stream, where one does.
    pub tool: Option<RunningTool>,
    /// Bytes of the stream, where known.
    pub total_bytes: Option<u64>,
    /// What errors in the stream itself are blamed on.
    pub origin: std::path::PathBuf,
}

/// Writes the image of `prelude` and then `root` to `out`, which must not exist. No time in
/// it is after `newest`; what has no time of its own, such as the image, gets that one.
pub(super) fn write(
    out: &Path,
    prelude: Vec<u8>,
    root: RootStream,
    compression: Compression,
    newest: u32,
    (events, received): (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    progress: &mut dyn Progress,
) -> Result<(), BuildError> {
    let lines = events.clone();
    let mut squash = sqfstar(out, compression, newest).start(move |line| {
        // What the tool leaves out, such as a link to nothing, it only mentions.
        lines.send(Event::Line(line.to_owned())).ok();
    })?;
    let stdin = squash.take_stdin();
    let RootStream { reader, tool, total_bytes, origin } = root;
    let pump = thread::spawn(move || pump(&prelude, reader, stdin, &events));
    // Ends once the pump and both tools have let go of their senders.
    for event in received {
        match event {
            Event::Line(line) => progress.line(&line),
            Event::Bytes(done) => progress.bytes(done, total_bytes),
        }
    }
    let pumped = pump.join().expect("the pump does not panic");
    // Blame in the order in which one failure leads to the next.
    if let Err(PumpError::Root(source)) = pumped {
        return Err(BuildError::Root { path: origin, source });
    }
    if let (Some(tool), Ok(())) = (tool, &pumped) {
        tool.finish()?;
    }
    squash.finish()?;
    pumped.map_err(|error| BuildError::Root { path: origin, source: error.into_source() })
}

fn sqfstar(out: &Path, compression: Compression, newest: u32) -> Tool {
    Tool::new("sqfstar", "squashfs-tools").with(|command| {
        command.stdin(Stdio::piped()).env("SOURCE_DATE_EPOCH", newest.to_string());
        command.args(["-quiet", "-no-progress", "-no-xattrs", "-exit-on-error"]);
        // With file handles the overlay keeps names of one file together.
        command.arg("-exports");
        command.args(["-root-mode", "0755", "-root-uid", "0", "-root-gid", "0"]);
        command.args(["-b", &BLOCK_BYTES.to_string()]);
        match compression {
            // At the tool's own level, 15: sqfstar 4.5 cannot parse the option that sets it.
            Compression::Zstd => command.args(["-comp", "zstd"]),
            Compression::Lz4 => command.args(["-comp", "lz4", "-Xhc"]),
            // The super block names a compressor all the same, which the kernel must have.
            Compression::None => command.args(["-comp", "zstd", "-noI", "-noD", "-noF", "-noX"]),
        };
        command.arg(out)
    })
}

#[derive(Debug)]
enum PumpError {
    /// The stream is to blame.
    Root(ArchiveError),
    /// The squashfs tool stopped reading; its own error says why.
    Closed(io::Error),
}

impl PumpError {
    fn into_source(self) -> ArchiveError {
        match self {
            Self::Root(error) => error,
            Self::Closed(error) => ArchiveError::Read(error),
        }
    }
}

fn pump(
    prelude: &[u8],
    mut root: impl Read,
    mut out: impl Write,
    events: &mpsc::Sender<Event>,
) -> Result<(), PumpError> {
    out.write_all(prelude).map_err(PumpError::Closed)?;
    let mut buffer = vec![0; PUMP_BYTES];
    let mut done = 0;
    loop {
        let count = match root.read(&mut buffer) {
            Ok(0) => return out.flush().map_err(PumpError::Closed),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(PumpError::Root(ArchiveError::Read(error))),
        };
        done += count as u64;
        if done > ROOT_BYTES_MAX {
            return Err(PumpError::Root(ArchiveError::TooLarge));
        }
        out.write_all(&buffer[..count]).map_err(PumpError::Closed)?;
        // Nobody listens any more only when the build has been given up.
        events.send(Event::Bytes(done)).ok();
    }
}
