//! `stream`: output of processes. Measures the first output of a process compared with an exec of
//! the same program, a line to a `cat` and back, and bulk output with its losses. Each alternates
//! with the same work without that part of emberd.

use std::io;
use std::time::{Duration, Instant};

use emberd_api::{ProcessEventKind, ProcessSpec};
use emberd_client::{Attachment, Client, ClientError};
use tokio::runtime::Runtime;

use crate::measure::error::MeasureError;
use crate::measure::events::Listener;
use crate::measure::floors::{self, Cat};
use crate::measure::programs::Language;
use crate::measure::rig::{Rig, WARM_UPS};
use crate::statistics::BYTES_SUFFIX;

/// The line that a `cat` echoes.
const LINE: &str = "a line that goes there and back\n";

/// Size of the file that is output, in bytes (16 MiB), and how often.
const FILE_BYTES: usize = 16 << 20;
const FILE_TIMES: usize = 8;

/// Total size of that output, in bytes (128 MiB), which makes the start and end negligible.
const OUTPUT_BYTES: usize = FILE_BYTES * FILE_TIMES;

/// Size of an exec's output, in bytes (8 MiB): the maximum that is kept.
const EXEC_OUTPUT_BYTES: usize = 8 << 20;

/// The latencies have this many iterations for each one that outputs [`OUTPUT_BYTES`], which
/// takes seconds.
const OUTPUT_DIVISOR: usize = 10;

/// Length of each line of output with its newline, in bytes, as in typical programs.
const OUTPUT_LINE_BYTES: usize = 64;

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    for pack in packs {
        let (id, _) = rig.create(pack)?;
        first_byte(rig, &id, pack)?;
        rig.delete(&id)?;
    }
    // A `cat` is the same in every pack.
    let Some(pack) = packs.first() else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(&rig.address.to_string());
    let client = client.map_err(|error| io::Error::other(error.to_string()))?;
    let (id, _) = rig.create(pack)?;
    let room = Room { id, pack, runtime, client };
    echo(rig, &room)?;
    output(rig, &room)?;
    rig.delete(&room.id)?;
    Ok(())
}

/// A sandbox, and a client of its daemon.
struct Room<'a> {
    id: String,
    pack: &'a str,
    runtime: Runtime,
    client: Client,
}

impl Room<'_> {
    /// Starts `argv` and attaches to it.
    fn start<const N: usize>(&self, argv: [&str; N]) -> Result<(u32, Attachment), MeasureError> {
        let spec = ProcessSpec::of_argv(argv);
        let attached = async {
            let process = self.client.start_process(&self.id, &spec).await?;
            Ok((process.pid, self.client.attach(&self.id, process.pid, 0).await?))
        };
        self.runtime.block_on(attached).map_err(failed)
    }
}

/// Measures the time until a program's first output arrives: start, request of events, first
/// event.
fn first_byte(rig: &mut Rig, id: &str, pack: &str) -> Result<(), MeasureError> {
    let program = Language::of(pack)?.hello();
    let spec = ProcessSpec { code: Some(program.code.clone()), ..ProcessSpec::default() };
    for iteration in 0..WARM_UPS + rig.iterations {
        rig.settle()?;
        let listener = Listener::connect(&rig.address)?;
        let asked = Instant::now();
        let (pid, start) = rig.connection.start(id, &spec)?;
        let began = Instant::now();
        let mut events = listener.follow(id, pid)?;
        let follow = began.elapsed();
        let text = events.output()?;
        let whole = asked.elapsed();
        expect("the first output", text.as_deref(), "hello\n")?;
        events.exit()?;
        rig.connection.kill(id, pid)?;
        rig.settle()?;
        let (_, ran) = rig.exec(id, &program)?;
        if iteration < WARM_UPS {
            continue;
        }
        let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let output = us(whole.saturating_sub(start).saturating_sub(follow));
        let stages = [("start", us(start)), ("follow", us(follow)), ("output", output)];
        let stages = stages.map(|(name, us)| (name.to_owned(), us));
        rig.record.time_with_stages(&format!("first_byte_{pack}"), whole, &stages);
        rig.record.call(&format!("exec_{pack}"), &ran);
    }
    Ok(())
}

/// Measures a line to a `cat` and back over one WebSocket. For comparison: a request that the
/// agent answers without a program, and a `cat` on the host.
fn echo(rig: &mut Rig, room: &Room) -> Result<(), MeasureError> {
    let (pid, mut attachment) = room.start(["cat"])?;
    let mut host = Cat::start()?;
    for iteration in 0..WARM_UPS + rig.iterations {
        rig.settle()?;
        let sent = Instant::now();
        let text = room.runtime.block_on(there_and_back(&mut attachment)).map_err(failed)?;
        let took = sent.elapsed();
        expect("the echo", text.as_deref(), LINE)?;
        rig.settle()?;
        let asked = rig.connection.stat(&room.id, "/")?;
        let floor = host.echo(LINE)?;
        if iteration >= WARM_UPS {
            rig.record.time(&format!("echo_{}", room.pack), took);
            rig.record.time(&format!("agent_{}_floor", room.pack), asked);
            rig.record.time("echo_floor", floor);
        }
    }
    drop(attachment);
    rig.connection.kill(&room.id, pid)?;
    Ok(host.end()?)
}

async fn there_and_back(attachment: &mut Attachment) -> Result<Option<String>, ClientError> {
    attachment.write(LINE.as_bytes()).await?;
    while let Some(event) = attachment.event().await? {
        if let ProcessEventKind::Stdout(text) = event.kind {
            return Ok(Some(text.text));
        }
    }
    Ok(None)
}

/// Measures bulk output over a WebSocket and of an exec. For comparison: the same program into a
/// pipe inside the guest, and as many bytes over the host's loopback interface.
fn output(rig: &mut Rig, room: &Room) -> Result<(), MeasureError> {
    let Room { id, pack, .. } = room;
    let text = lines();
    let dir = rig.connection.sandbox(id)?.dir;
    let path = format!("{dir}/output");
    rig.connection.write(id, &path, &text)?;
    let files = [path.as_str(); FILE_TIMES].join(" ");
    // The program waits for a client, because output without one may be lost.
    let program = format!("read go; exec cat {files}");
    let floor = format!("cat {files} | cat > /dev/null");
    let exec_path = format!("{dir}/exec-output");
    rig.connection.write(id, &exec_path, &text[..EXEC_OUTPUT_BYTES])?;
    let large = Language::of(pack)?.file(&exec_path, EXEC_OUTPUT_BYTES);
    for iteration in 0..WARM_UPS + rig.iterations.div_ceil(OUTPUT_DIVISOR) {
        rig.settle()?;
        let (pid, mut attachment) = room.start(["/bin/sh", "-c", &program])?;
        let began = Instant::now();
        let received = room.runtime.block_on(receive(&mut attachment, &text)).map_err(failed)?;
        let took = began.elapsed();
        rig.connection.kill(id, pid)?;
        rig.settle()?;
        let (_, ran) = rig.exec(id, &large)?;
        rig.settle()?;
        let in_guest = rig.in_guest(id, ["/bin/sh", "-c", &floor])?;
        let loopback = floors::loopback(OUTPUT_BYTES)?;
        if !received.is_right {
            expect("the output", Some("other bytes"), "the file's")?;
        }
        if iteration < WARM_UPS {
            continue;
        }
        rig.record.transfer(&format!("output_128m_{pack}"), received.bytes, took);
        let lost = OUTPUT_BYTES.saturating_sub(received.bytes) as u64;
        rig.record.sample(&format!("output_128m_{pack}_lost{BYTES_SUFFIX}"), lost);
        rig.record.transfer(&format!("exec_8m_{pack}"), EXEC_OUTPUT_BYTES, ran.latency);
        rig.record.transfer(&format!("output_128m_{pack}_floor"), OUTPUT_BYTES, in_guest);
        rig.record.transfer("loopback_128m_floor", OUTPUT_BYTES, loopback);
    }
    Ok(())
}

/// The received part of a process's output.
struct Received {
    bytes: usize,
    /// Whether the output up to the first loss is correct.
    is_right: bool,
}

/// Lets the process begin, and follows it to its end.
async fn receive(attachment: &mut Attachment, file: &[u8]) -> Result<Received, ClientError> {
    attachment.write(b"\n").await?;
    let mut received = Received { bytes: 0, is_right: true };
    let mut is_whole = true;
    while let Some(event) = attachment.event().await? {
        match event.kind {
            ProcessEventKind::Stdout(text) => {
                let piece = text.text.as_bytes();
                received.is_right &= !is_whole || is_next(piece, file, received.bytes % file.len());
                received.bytes += text.text.len();
            }
            ProcessEventKind::Gap { .. } => is_whole = false,
            _ => {}
        }
    }
    Ok(received)
}

/// Returns whether `piece` is at `offset` of the repeated `file`.
fn is_next(piece: &[u8], file: &[u8], offset: usize) -> bool {
    let (start, end) = file.split_at(offset);
    let (first, second) = piece.split_at(piece.len().min(end.len()));
    end.starts_with(first) && start.starts_with(second)
}

/// Returns distinct lines of text.
fn lines() -> Vec<u8> {
    let digits = OUTPUT_LINE_BYTES - 1;
    let lines = (0..FILE_BYTES / OUTPUT_LINE_BYTES).map(|line| format!("{line:0digits$}\n"));
    lines.collect::<String>().into_bytes()
}

fn expect(what: &str, seen: Option<&str>, expected: &str) -> Result<(), MeasureError> {
    if seen == Some(expected) {
        return Ok(());
    }
    let (what, expected) = (what.to_owned(), format!("{expected:?}"));
    Err(MeasureError::Unexpected { what, expected, seen: format!("{seen:?}") })
}

fn failed(error: ClientError) -> MeasureError {
    io::Error::other(error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_file_put_out_again_and_again_are_known() {
        assert!(is_next(b"bc", b"abc", 1) && is_next(b"cab", b"abc", 2) && is_next(b"", b"abc", 0));
        assert!(!is_next(b"ba", b"abc", 1) && !is_next(b"caa", b"abc", 2));
    }

    #[test]
    fn lines_fill_the_file() {
        let file = lines();
        assert_eq!(file.len(), FILE_BYTES);
        assert_ne!(file[..OUTPUT_LINE_BYTES], file[OUTPUT_LINE_BYTES..2 * OUTPUT_LINE_BYTES]);
    }
}
