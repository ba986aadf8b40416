//! One connection to a guest's agent: greeting, then one exec at a time.
//!
//! The guest is hostile: every frame is checked against what may come next, and the first one
//! that breaks a rule ends the connection. The caller sets time limits.

use std::io;
use std::pin::pin;

use bytes::BytesMut;
use emberd_proto::exec::{ExecExit, OUTPUT_BYTES_MAX};
use emberd_proto::frame::{BULK_BYTES_MAX, encode, encode_message};
use emberd_proto::message::{GENERATION, GENERATION_OLDEST};
use emberd_proto::{
    Decoder, ExecOutcome, ExecSpec, Frame, GuestMessage, HostMessage, Kind, Renewal, Renewed,
    Settled, Welcome,
};
use futures::FutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::error::ChannelError;
use crate::wire::{self, delivered, next_frame, write_frames};

mod halves;
#[cfg(test)]
pub(crate) mod scripted;

pub(crate) use halves::{Reader, Writer};

/// Called for each piece of a program's output; returns whether there is room to keep it.
pub type Room<'a> = dyn FnMut(&[u8]) -> bool + Send + 'a;

/// A greeted connection.
#[derive(Debug)]
pub struct Link<S> {
    stream: S,
    decoder: Decoder,
    idle: bool,
    /// Generation of the wire that the guest speaks.
    generation: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    /// Opens the conversation on a fresh stream; waits until the guest answers.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn greet(stream: S) -> Result<(Self, Welcome), ChannelError> {
        Self::greet_saying(stream, None).await
    }

    /// As [`Self::greet`], and sends a renewal in the same write, so that a restored guest wakes
    /// only once. [`Self::renewed`] reads the answer to the renewal.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn greet_renewing(
        stream: S,
        renewal: Renewal,
    ) -> Result<(Self, Welcome), ChannelError> {
        let (mut connection, welcome) =
            Self::greet_saying(stream, Some(&HostMessage::Renew(renewal))).await?;
        connection.idle = false;
        Ok((connection, welcome))
    }

    async fn greet_saying(
        mut stream: S,
        more: Option<&HostMessage>,
    ) -> Result<(Self, Welcome), ChannelError> {
        let mut hello = BytesMut::new();
        encode_message(&HostMessage::hello(), &mut hello);
        if let Some(more) = more {
            encode_message(more, &mut hello);
        }
        wire::write(&mut stream, &hello).await?;
        let decoder = Decoder::of_guest();
        let mut connection = Self { stream, decoder, idle: true, generation: GENERATION };
        let frame = next_frame(&mut connection.stream, &mut connection.decoder).await?;
        match answer(&frame)? {
            GuestMessage::Welcome(welcome) => {
                connection.generation = welcome.generation;
                if !(GENERATION_OLDEST..=GENERATION).contains(&welcome.generation) {
                    return Err(ChannelError::Protocol(
                        "it speaks a generation it was not asked for",
                    ));
                }
                Ok((connection, welcome))
            }
            GuestMessage::Refused(refusal) => Err(ChannelError::Refused(refusal)),
            _ => Err(ChannelError::Protocol("unexpected answer to the greeting")),
        }
    }

    /// Pings the guest.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn ping(&mut self) -> Result<(), ChannelError> {
        match self.ask(&HostMessage::Ping).await? {
            GuestMessage::Pong => Ok(()),
            _ => Err(ChannelError::Protocol("unexpected answer to a ping")),
        }
    }

    /// Renews a restored guest.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn renew(&mut self, renewal: Renewal) -> Result<Renewed, ChannelError> {
        self.say(&HostMessage::Renew(renewal)).await?;
        self.renewed().await
    }

    /// Sets the guest's wall clock, in microseconds since the epoch.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn set_clock(&mut self, wall_clock_us: u64) -> Result<Renewed, ChannelError> {
        self.say(&HostMessage::SetClock { wall_clock_us }).await?;
        self.renewed().await
    }

    /// Reads the answer to a renewal.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn renewed(&mut self) -> Result<Renewed, ChannelError> {
        match self.receive().await? {
            GuestMessage::Renewed(renewed) => Ok(renewed),
            _ => Err(ChannelError::Protocol("unexpected answer to a renewal")),
        }
    }

    /// Brings the guest to rest before a snapshot.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn settle(&mut self) -> Result<Settled, ChannelError> {
        match self.ask(&HostMessage::Settle).await? {
            GuestMessage::Settled(settled) => Ok(settled),
            _ => Err(ChannelError::Protocol("unexpected answer to a settle request")),
        }
    }

    /// Sends one message and reads the one that answers it. A refusal is an error, after
    /// which the connection is idle again.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn ask(&mut self, message: &HostMessage) -> Result<GuestMessage, ChannelError> {
        self.say(message).await?;
        self.receive().await
    }

    async fn say(&mut self, message: &HostMessage) -> Result<(), ChannelError> {
        self.idle = false;
        let mut out = BytesMut::new();
        encode_message(message, &mut out);
        wire::write(&mut self.stream, &out).await
    }

    /// Reads the answer to the last message.
    pub(crate) async fn receive(&mut self) -> Result<GuestMessage, ChannelError> {
        let frame = next_frame(&mut self.stream, &mut self.decoder).await?;
        let answer = answer(&frame)?;
        self.idle = true;
        match answer {
            GuestMessage::Refused(refusal) => Err(ChannelError::Refused(refusal)),
            answer => Ok(answer),
        }
    }

    /// Runs `spec` and collects its output. Standard input is written while output is read.
    ///
    /// Dropping the future leaves the connection unusable; dropping that ends the program.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn exec(
        &mut self,
        spec: ExecSpec,
        stdin: &[u8],
    ) -> Result<ExecOutcome, ChannelError> {
        self.exec_within(spec, stdin, &mut |_| true).await
    }

    /// As [`Self::exec`], but calls `room` for each piece of output to learn whether there is room
    /// to keep it. Output without room is cut and flagged as truncated.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn exec_within(
        &mut self,
        spec: ExecSpec,
        stdin: &[u8],
        room: &mut Room<'_>,
    ) -> Result<ExecOutcome, ChannelError> {
        self.idle = false;
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let mut write = pin!(write_request(&mut writer, spec, stdin));
        let mut read = pin!(read_outcome(&mut reader, &mut self.decoder, room));
        let (mut writing, mut written) = (true, false);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut read => break outcome,
                result = &mut write, if writing => {
                    writing = false;
                    match delivered(result) {
                        Ok(delivered) => written = delivered,
                        Err(error) => break Err(error),
                    }
                }
            }
        };
        // A program that ended before it read all its input leaves the rest unwritten. Waiting
        // for the guest to read the rest is not worthwhile.
        let in_step = matches!(outcome, Ok(_) | Err(ChannelError::Refused(_)));
        self.idle = in_step && written;
        outcome
    }

    /// Reads the next frame. Cancel safe.
    pub(crate) async fn frame(&mut self) -> Result<Frame, ChannelError> {
        next_frame(&mut self.stream, &mut self.decoder).await
    }

    /// Writes one frame.
    pub(crate) async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), ChannelError> {
        self.idle = false;
        write_frames(&mut self.stream, kind, payload).await
    }

    /// Marks the last operation as ended in step.
    pub(crate) fn set_idle(&mut self) {
        self.idle = true;
    }

    /// The stream, and what was read of it ahead.
    pub(crate) fn into_raw(mut self) -> (S, BytesMut) {
        let ahead = std::mem::take(self.decoder.buffer());
        (self.stream, ahead)
    }

    /// Whether processes and contexts of the guest outlive their connections.
    pub(crate) fn keeps_programs(&self) -> bool {
        self.generation > 1
    }

    /// Splits both directions.
    pub(crate) fn split(self) -> (Reader<S>, Writer<S>) {
        let (reader, writer) = tokio::io::split(self.stream);
        (Reader::new(reader, self.decoder, self.generation), Writer::new(writer))
    }

    /// Joins both directions of one connection, which is not idle.
    pub(crate) fn join(reader: Reader<S>, writer: Writer<S>) -> Self {
        let (stream, decoder, generation) = reader.join(writer);
        Self { stream, decoder, idle: false, generation }
    }

    /// Whether another exec may be sent: the last one ended in step, and the guest neither
    /// closed the connection nor spoke unasked since.
    pub fn is_idle(&mut self) -> bool {
        let mut unasked = [0];
        self.idle
            && self.decoder.buffer().is_empty()
            && self.stream.read(&mut unasked).now_or_never().is_none()
    }
}

async fn write_request(
    writer: &mut (impl AsyncWrite + Unpin),
    spec: ExecSpec,
    stdin: &[u8],
) -> io::Result<()> {
    let mut out = BytesMut::new();
    encode_message(&HostMessage::Exec(spec), &mut out);
    for chunk in stdin.chunks(BULK_BYTES_MAX) {
        encode(Kind::Stdin, chunk, &mut out);
        if out.len() >= BULK_BYTES_MAX {
            writer.write_all(&out).await?;
            out.clear();
        }
    }
    encode(Kind::StdinEnd, &[], &mut out);
    writer.write_all(&out).await?;
    writer.flush().await
}

async fn read_outcome(
    reader: &mut (impl AsyncRead + Unpin),
    decoder: &mut Decoder,
    room: &mut Room<'_>,
) -> Result<ExecOutcome, ChannelError> {
    let (mut stdout, mut stderr) = (Output::default(), Output::default());
    loop {
        let frame = next_frame(reader, decoder).await?;
        match frame.kind {
            Kind::Stdout => stdout.append(&frame.payload, room)?,
            Kind::Stderr => stderr.append(&frame.payload, room)?,
            Kind::Stdin | Kind::StdinEnd | Kind::Control | Kind::Data | Kind::DataEnd => {
                let mut exit = exit(&frame)?;
                exit.stdout_truncated |= stdout.is_cut();
                exit.stderr_truncated |= stderr.is_cut();
                return Ok(ExecOutcome::new(exit, stdout.kept, stderr.kept));
            }
        }
    }
}

/// The part of one program output received so far.
#[derive(Debug, Default)]
struct Output {
    /// Its beginning, up to the first piece there was no room for.
    kept: Vec<u8>,
    /// Bytes of all of it.
    bytes: usize,
}

impl Output {
    /// The agent cuts output at the same limit and flags it; more output breaks the protocol.
    fn append(&mut self, piece: &[u8], room: &mut Room<'_>) -> Result<(), ChannelError> {
        if piece.is_empty() {
            return Err(ChannelError::Protocol("empty piece of output"));
        }
        if self.bytes + piece.len() > OUTPUT_BYTES_MAX {
            return Err(ChannelError::Protocol("more output than allowed"));
        }
        if !self.is_cut() && room(piece) {
            self.kept.extend_from_slice(piece);
        }
        self.bytes += piece.len();
        Ok(())
    }

    fn is_cut(&self) -> bool {
        self.kept.len() < self.bytes
    }
}

fn exit(frame: &Frame) -> Result<ExecExit, ChannelError> {
    match answer(frame)? {
        GuestMessage::Exited(exit) => Ok(exit),
        GuestMessage::Refused(refusal) => Err(ChannelError::Refused(refusal)),
        _ => Err(ChannelError::Protocol("unexpected message in place of the program's exit")),
    }
}

fn answer(frame: &Frame) -> Result<GuestMessage, ChannelError> {
    frame.message().map_err(ChannelError::Frame)
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::scripted::{WELCOME, messages};
    use super::*;
    use crate::wire::PENDING_BYTES_MAX;

    fn frames(frames: &[(Kind, &[u8])]) -> BytesMut {
        let mut out = BytesMut::new();
        for (kind, payload) in frames {
            encode(*kind, payload, &mut out);
        }
        out
    }

    fn exited() -> GuestMessage {
        GuestMessage::Exited(ExecExit { exit_code: 7, ..ExecExit::default() })
    }

    /// Greets, lets the guest say `script` and close, and runs one exec.
    async fn exec_against(script: BytesMut) -> Result<ExecOutcome, ChannelError> {
        let (host, mut guest) = tokio::io::duplex(1 << 10);
        let speak = tokio::spawn(async move {
            guest.write_all(&messages(&[WELCOME])).await.unwrap();
            // The host may hang up early: that is what most of these tests are about.
            let _cut = guest.write_all(&script).await;
            guest.shutdown().await.unwrap();
            // Reads on, so that the host's request never meets a closed pipe.
            tokio::io::copy(&mut guest, &mut tokio::io::sink()).await.unwrap();
        });
        let (mut connection, _) = Link::greet(host).await.unwrap();
        let outcome = connection.exec(ExecSpec::new("code"), b"input").await;
        drop(connection);
        speak.await.unwrap();
        outcome
    }

    async fn check_refused(script: BytesMut, expect: &str) {
        let error = exec_against(script).await.unwrap_err();
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        let text = format!("{error}{}", source.unwrap_or_default());
        assert!(text.contains(expect), "{text}");
    }

    #[tokio::test]
    async fn outcome_carries_both_streams_and_the_exit() {
        let mut script =
            frames(&[(Kind::Stdout, b"a"), (Kind::Stderr, b"e"), (Kind::Stdout, b"b")]);
        script.extend_from_slice(&messages(&[&exited()]));
        let outcome = exec_against(script).await.unwrap();
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("ab", "e"));
        assert_eq!(outcome.exit.exit_code, 7);
    }

    #[tokio::test]
    async fn truncated_frame() {
        check_refused(BytesMut::from(&b"\0\0\0\x09\x04abc"[..]), "inside a frame").await;
    }

    #[tokio::test]
    async fn hostile_lengths() {
        check_refused(BytesMut::from(&b"\xff\xff\xff\xff\x04"[..]), "exceeds the limit").await;
        check_refused(BytesMut::from(&b"\0\0\0\0"[..]), "without a kind byte").await;
    }

    #[tokio::test]
    async fn frame_larger_than_any_an_agent_sends() {
        let mut script = BytesMut::from(&b"\x03\xff\xff\xff\x04"[..]);
        script.resize(2 * PENDING_BYTES_MAX, b'x');
        check_refused(script, "larger than allowed").await;
    }

    #[tokio::test]
    async fn wrong_messages() {
        check_refused(messages(&[WELCOME]), "in place of the program's exit").await;
        check_refused(frames(&[(Kind::Stdin, b"x")]), "expected a control frame").await;
        check_refused(frames(&[(Kind::Control, b"}")]), "not a valid message").await;
        check_refused(BytesMut::from(&b"\0\0\0\x01\x7f"[..]), "unknown frame kind").await;
    }

    #[tokio::test]
    async fn end_of_stream_in_the_middle() {
        check_refused(frames(&[(Kind::Stdout, b"half")]), "closed its connection").await;
    }

    #[tokio::test]
    async fn output_past_the_cap() {
        let piece = vec![b'x'; BULK_BYTES_MAX];
        let flood = vec![(Kind::Stderr, piece.as_slice()); OUTPUT_BYTES_MAX / BULK_BYTES_MAX + 1];
        check_refused(frames(&flood), "more output than allowed").await;
    }

    #[tokio::test]
    async fn output_without_room_is_cut_and_the_program_goes_on() {
        let (mut connection, mut guest) = scripted::greeted().await;
        let pieces: [(Kind, &[u8]); 5] = [
            (Kind::Stdout, b"abc"),
            (Kind::Stderr, b"e"),
            (Kind::Stdout, b"defg"),
            (Kind::Stdout, b"h"),
            (Kind::Stderr, b"f"),
        ];
        guest.write_all(&frames(&pieces)).await.unwrap();
        guest.write_all(&messages(&[&exited()])).await.unwrap();
        let mut left: usize = 6;
        let mut room = |piece: &[u8]| {
            let rest = left.checked_sub(piece.len());
            left = rest.unwrap_or(left);
            rest.is_some()
        };
        let spec = ExecSpec::new("code");
        let outcome = connection.exec_within(spec, b"", &mut room).await.unwrap();
        // Output after a gap is dropped, even where there is room.
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("abc", "ef"));
        let ExecExit { exit_code, stdout_truncated, stderr_truncated, .. } = outcome.exit;
        assert_eq!((exit_code, stdout_truncated, stderr_truncated), (7, true, false));
    }

    #[tokio::test]
    async fn endless_empty_output() {
        check_refused(frames(&[(Kind::Stdout, b"")]), "empty piece of output").await;
    }

    #[tokio::test]
    async fn refusal_is_told() {
        let refusal = emberd_proto::Refusal {
            code: emberd_proto::RefusalCode::Invalid,
            message: "not today".into(),
        };
        check_refused(messages(&[&GuestMessage::Refused(refusal)]), "not today").await;
    }

    #[tokio::test]
    async fn greeting_must_be_a_welcome() {
        let (host, mut guest) = tokio::io::duplex(1 << 10);
        guest.write_all(&messages(&[&GuestMessage::Pong])).await.unwrap();
        let error = Link::greet(host).await.unwrap_err();
        assert!(matches!(error, ChannelError::Protocol(_)), "{error}");
    }

    /// A greeted connection whose guest has read the first request and said `answer`.
    async fn after_one_exec(stdin: &[u8], answer: BytesMut) -> (Link<DuplexStream>, DuplexStream) {
        let (host, mut guest) = tokio::io::duplex(1 << 20);
        guest.write_all(&messages(&[WELCOME])).await.unwrap();
        let (mut connection, _) = Link::greet(host).await.unwrap();
        assert!(connection.is_idle());
        guest.write_all(&answer).await.unwrap();
        connection.exec(ExecSpec::new("code"), stdin).await.unwrap();
        (connection, guest)
    }

    #[tokio::test]
    async fn connection_is_idle_again_after_an_exec() {
        let (host, mut guest) = tokio::io::duplex(1 << 20);
        guest.write_all(&messages(&[WELCOME])).await.unwrap();
        let (mut connection, _) = Link::greet(host).await.unwrap();
        for _ in 0..3 {
            let exec = connection.exec(ExecSpec::new("code"), b"");
            let answer = async {
                let mut request = Decoder::default();
                while next_frame(&mut guest, &mut request).await.unwrap().kind != Kind::StdinEnd {}
                guest.write_all(&messages(&[&exited()])).await.unwrap();
            };
            let (outcome, ()) = tokio::join!(exec, answer);
            outcome.unwrap();
            assert!(connection.is_idle());
        }
    }

    #[tokio::test]
    async fn guest_that_hangs_up_or_speaks_unasked_is_not_idle() {
        let (mut connection, guest) = after_one_exec(b"", messages(&[&exited()])).await;
        drop(guest);
        assert!(!connection.is_idle());

        let (mut connection, _guest) = after_one_exec(b"", messages(&[&exited(), &exited()])).await;
        assert!(!connection.is_idle());
    }

    #[tokio::test]
    async fn program_that_ignores_its_input_is_not_waited_for() {
        let stdin = vec![b'x'; 4 << 20];
        let (mut connection, _guest) = after_one_exec(&stdin, messages(&[&exited()])).await;
        assert!(!connection.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn silent_guest_delays_nobody_past_the_time_limit() {
        let (host, mut guest) = tokio::io::duplex(1 << 10);
        guest.write_all(&messages(&[WELCOME])).await.unwrap();
        let (mut connection, _) = Link::greet(host).await.unwrap();
        let exec = connection.exec(ExecSpec::new("code"), b"");
        let limit = std::time::Duration::from_secs(30);
        assert!(tokio::time::timeout(limit, exec).await.is_err());
        assert!(!connection.is_idle());
    }
}
