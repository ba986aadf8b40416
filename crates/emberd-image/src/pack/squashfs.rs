//! Converts a tar stream to a SquashFS image without unpacking it.
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

/// Size of a data block, in bytes: the default of SquashFS, a compromise of ratio and read size.
const BLOCK_BYTES: u32 = 128 << 10;
const PUMP_BYTES: usize = 256 << 10;

/// A message from a tool or the pump while an image is made.
pub(super) enum Event {
    Line(String),
    Bytes(u64),
}

/// A root file system as a tar stream.
pub(super) struct RootStream {
    pub reader: Box<dyn Read + Send>,
    /// The tool that writes the stream, if there is one.
    pub tool: Option<RunningTool>,
    /// Size of the stream in bytes, if known.
    pub total_bytes: Option<u64>,
    /// The source to name in errors of the stream.
    pub origin: std::path::PathBuf,
}

/// Writes the image of `prelude` and then `root` to `out`, which must not exist. Times after
/// `newest` are replaced by it, and so are missing times, such as the image's own.
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
        // The tool only reports what it skips, such as a broken link.
        lines.send(Event::Line(line.to_owned())).ok();
    })?;
    let stdin = squash.take_stdin();
    let RootStream { reader, tool, total_bytes, origin } = root;
    let pump = thread::spawn(move || pump(&prelude, reader, stdin, &events));
    // Ends once the pump and both tools have dropped their senders.
    for event in received {
        match event {
            Event::Line(line) => progress.line(&line),
            Event::Bytes(done) => progress.bytes(done, total_bytes),
        }
    }
    let pumped = pump.join().expect("the pump does not panic");
    // Reports the first failure of the chain.
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
        // File handles let the overlay keep hard links together.
        command.arg("-exports");
        command.args(["-root-mode", "0755", "-root-uid", "0", "-root-gid", "0"]);
        command.args(["-b", &BLOCK_BYTES.to_string()]);
        match compression {
            // The tool's default level is 15: sqfstar 4.5 cannot parse the option that sets it.
            Compression::Zstd => command.args(["-comp", "zstd"]),
            Compression::Lz4 => command.args(["-comp", "lz4", "-Xhc"]),
            // The super block names a compressor anyway, which the kernel must support.
            Compression::None => command.args(["-comp", "zstd", "-noI", "-noD", "-noF", "-noX"]),
        };
        command.arg(out)
    })
}

#[derive(Debug)]
enum PumpError {
    /// The stream failed.
    Root(ArchiveError),
    /// The squashfs tool stopped reading; its own error gives the reason.
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
        // The receiver is gone only if the build was cancelled.
        events.send(Event::Bytes(done)).ok();
    }
}
