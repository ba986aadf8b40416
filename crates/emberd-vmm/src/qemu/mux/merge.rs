//! Merges the data of a guest before the mux.
//!
//! ```text
//! channel ─▶ frames ─▶ bytes held for each stream ─▶ one frame ─▶ yamux ─▶ reader
//!                       while its reader has some left
//! ```
//! The mux keeps each data frame as a piece of its own, and a piece of one byte takes some 80
//! bytes. So data that no reader has requested yet wait here, concatenated in one buffer. The
//! guest's pings wait too ([`PONG_AFTER_BYTES`]).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, BufMut as _, BytesMut};
use futures::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use parking_lot::{Mutex, MutexGuard};

use super::HEADER_BYTES;

/// Bytes taken from the channel in one go.
const READ_BYTES: usize = 64 << 10;

/// Largest frame that is passed on; the mux takes 1 MiB.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Bytes that are worth a piece of their own while a reader has some left.
const PIECE_BYTES_MIN: usize = 16 << 10;

/// Most bytes a reader may have left when it gets more.
const UNREAD_BYTES_MAX: usize = 64 << 10;

/// Bytes sent to the guest until the mux answers a ping of the guest: half of the window that
/// yamux grants each stream from the start. The guest's yamux lets a window grow once half of it
/// is used up within two round trips. The channel is idle at most of the guest's pings, and a
/// round trip then is shorter than that, so that the stream that carries all of egress would wait
/// for its window.
const PONG_AFTER_BYTES: usize = yamux::DEFAULT_CREDIT as usize / 2;

/// Types of frames (yamux specification).
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const PING: u8 = 2;
const TYPES: u8 = 4;

/// Flags of frames.
const SYN: u16 = 1;
const ACK: u16 = 2;
const FIN: u16 = 4;
const RST: u16 = 8;

/// The streams of one session, with the data held for each.
#[derive(Clone, Default)]
pub(super) struct Inbox(Arc<Mutex<Streams>>);

#[derive(Default)]
struct Streams {
    by_id: HashMap<u32, Held>,
    /// Streams whose data can be passed on.
    ready: VecDeque<u32>,
    /// Waker of the task that passes data on.
    waker: Option<Waker>,
    /// Whether all data are passed on, at the end of the channel.
    draining: bool,
}

/// Data held for one stream.
#[derive(Default)]
struct Held {
    data: BytesMut,
    /// Bytes passed on and not read yet.
    unread: usize,
    /// Whether the guest has ended the stream; passed to the mux after the data.
    ended: bool,
    is_listed: bool,
}

impl Held {
    fn can_pass(&self, draining: bool) -> bool {
        let more = !self.data.is_empty()
            && (self.unread == 0
                || draining
                || self.unread <= UNREAD_BYTES_MAX && self.data.len() >= PIECE_BYTES_MIN);
        more || self.ended && self.data.is_empty()
    }
}

impl Inbox {
    /// Holds data of a stream from now on.
    pub(super) fn register(&self, id: u32) {
        self.lock().by_id.insert(id, Held::default());
    }

    /// Drops the data held for a stream.
    pub(super) fn forget(&self, id: u32) {
        self.lock().by_id.remove(&id);
    }

    /// Records that a reader has taken `bytes` of a stream.
    pub(super) fn took(&self, id: u32, bytes: usize) {
        let mut streams = self.lock();
        if let Some(held) = streams.by_id.get_mut(&id) {
            held.unread = held.unread.saturating_sub(bytes);
            streams.offer(id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.0.lock()
    }
}

impl Streams {
    /// Marks a stream as ready if its data can be passed on.
    fn offer(&mut self, id: u32) {
        let Some(held) = self.by_id.get_mut(&id) else { return };
        if !held.is_listed && held.can_pass(self.draining) {
            held.is_listed = true;
            self.ready.push_back(id);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }

    /// Appends a frame that can be passed on.
    fn pass(&mut self, out: &mut BytesMut) -> bool {
        while let Some(id) = self.ready.pop_front() {
            let Some(held) = self.by_id.get_mut(&id) else { continue };
            held.is_listed = false;
            if !held.can_pass(self.draining) {
                continue;
            }
            if !held.data.is_empty() {
                let piece = held.data.split_to(held.data.len().min(PIECE_BYTES_MAX));
                put_header(out, DATA, 0, id, piece.len());
                out.extend_from_slice(&piece);
                held.unread += piece.len();
            }
            if held.data.is_empty() {
                held.data = BytesMut::new();
                if std::mem::take(&mut held.ended) {
                    put_header(out, WINDOW_UPDATE, FIN, id, 0);
                }
            }
            self.offer(id);
            return true;
        }
        false
    }

    /// Marks the end of the channel: passes on all held data.
    fn drain(&mut self) {
        self.draining = true;
        let ids: Vec<_> = self.by_id.keys().copied().collect();
        for id in ids {
            self.offer(id);
        }
    }
}

fn put_header(out: &mut BytesMut, kind: u8, flags: u16, id: u32, length: usize) {
    out.put_slice(&[0, kind]);
    out.put_u16(flags);
    out.put_u32(id);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// Where in a frame the channel is.
enum At {
    /// The received bytes of a header, and their number.
    Header([u8; HEADER_BYTES], usize),
    /// The bytes of data to come: for a held stream, or for the mux to check.
    Body { held: Option<u32>, left: usize },
    /// The bytes are not a frame of the mux, which detects the error itself.
    Malformed,
}

const START: At = At::Header([0; HEADER_BYTES], 0);

/// A ping of the guest that the mux has not seen yet.
struct HeldPing {
    header: [u8; HEADER_BYTES],
    /// Bytes sent to the guest meanwhile.
    sent: usize,
}

impl HeldPing {
    fn new(header: [u8; HEADER_BYTES]) -> Self {
        Self { header, sent: 0 }
    }

    fn can_pass(&self) -> bool {
        self.sent >= PONG_AFTER_BYTES
    }

    /// Appends the ping if it can be passed on.
    fn pass(held: &mut Option<Self>, out: &mut BytesMut) -> bool {
        let ping = held.take_if(|ping| ping.can_pass());
        ping.inspect(|ping| out.extend_from_slice(&ping.header)).is_some()
    }
}

/// A channel whose data are merged. It outlives the sessions over it: closing only flushes.
pub(super) struct Merging<C> {
    channel: C,
    inbox: Inbox,
    at: At,
    input: Box<[u8]>,
    /// On its way to the mux.
    out: BytesMut,
    ping: Option<HeldPing>,
}

impl<C> Merging<C> {
    /// Records that `bytes` were sent to the guest.
    fn sent(&mut self, bytes: usize) {
        let Some(ping) = &mut self.ping else { return };
        ping.sent += bytes;
        if ping.can_pass()
            && let Some(waker) = self.inbox.lock().waker.take()
        {
            waker.wake();
        }
    }
}

impl<C: AsyncRead + Unpin> Merging<C> {
    pub(super) fn over(channel: C) -> Self {
        let input = vec![0; READ_BYTES].into();
        let out = BytesMut::new();
        Self { channel, inbox: Inbox::default(), at: START, input, out, ping: None }
    }

    /// Drops the last session, and begins another. `ping` is the guest's, if it was received
    /// before.
    pub(super) fn begin(&mut self, ping: Option<[u8; HEADER_BYTES]>) -> Inbox {
        self.inbox = Inbox::default();
        self.out = BytesMut::new();
        self.ping = ping.map(HeldPing::new);
        self.inbox.clone()
    }

    /// The channel, for reading frame by frame: with as much of the next header as is in already,
    /// behind the rest of the frame that was being read.
    pub(super) async fn unmerged(&mut self) -> io::Result<(&mut C, [u8; HEADER_BYTES], usize)> {
        let (header, have) = match std::mem::replace(&mut self.at, START) {
            At::Header(header, have) => (header, have),
            At::Body { left, .. } => {
                let rest = (&mut self.channel).take(left as u64);
                futures::io::copy(rest, &mut futures::io::sink()).await?;
                ([0; HEADER_BYTES], 0)
            }
            At::Malformed => return Err(malformed("not a frame of the mux")),
        };
        Ok((&mut self.channel, header, have))
    }

    /// Processes received bytes.
    fn receive(&mut self, mut input: &[u8]) -> io::Result<()> {
        let mut streams = self.inbox.lock();
        while !input.is_empty() {
            match &mut self.at {
                At::Header(header, have) => {
                    let bytes = input.len().min(HEADER_BYTES - *have);
                    header[*have..*have + bytes].copy_from_slice(&input[..bytes]);
                    input.advance(bytes);
                    *have += bytes;
                    match *header {
                        _ if *have < HEADER_BYTES => {}
                        header @ [0, PING, _, 1, ..] => {
                            self.ping = Some(HeldPing::new(header));
                            self.at = START;
                        }
                        header => self.at = head(&mut streams, header, &mut self.out)?,
                    }
                }
                At::Body { held, left } => {
                    let bytes = input.len().min(*left);
                    let (body, rest) = input.split_at(bytes);
                    match held.and_then(|id| streams.by_id.get_mut(&id)) {
                        Some(held) => held.data.extend_from_slice(body),
                        // The reader has left: the mux gets no such frame.
                        None if held.is_some() => {}
                        None => self.out.extend_from_slice(body),
                    }
                    held.inspect(|id| streams.offer(*id));
                    *left -= bytes;
                    input = rest;
                    if *left == 0 {
                        self.at = START;
                    }
                }
                At::Malformed => {
                    self.out.extend_from_slice(input);
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Returns the state after a header; appends to `out` what the mux must process at once.
fn head(streams: &mut Streams, header: [u8; HEADER_BYTES], out: &mut BytesMut) -> io::Result<At> {
    let [version, kind, f0, f1, i0, i1, i2, i3, l0, l1, l2, l3] = header;
    let flags = u16::from_be_bytes([f0, f1]);
    let id = u32::from_be_bytes([i0, i1, i2, i3]);
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    if version != 0 || kind >= TYPES {
        out.extend_from_slice(&header);
        return Ok(At::Malformed);
    }
    let body = if kind == DATA { length as usize } else { 0 };
    let after = |held| if body > 0 { At::Body { held, left: body } } else { START };
    let held = streams.by_id.get_mut(&id).filter(|_| kind == DATA || kind == WINDOW_UPDATE);
    let Some(held) = held else {
        if flags & SYN != 0 && (kind == DATA || kind == WINDOW_UPDATE) {
            // The mux would log each such frame.
            return Err(malformed("the guest opened a stream"));
        }
        out.extend_from_slice(&header);
        return Ok(after(None));
    };
    if body > 0 && held.data.len() + held.unread + body > yamux::DEFAULT_CREDIT as usize {
        return Err(malformed("more data than their window"));
    }
    if flags & RST != 0 {
        // A reset is passed on before held data, which are dropped.
        *held = Held::default();
        put_header(out, WINDOW_UPDATE, flags, id, 0);
        return Ok(after(Some(id)));
    }
    let credit = if kind == WINDOW_UPDATE { length as usize } else { 0 };
    if credit > 0 || flags & (SYN | ACK) != 0 {
        put_header(out, WINDOW_UPDATE, flags & !FIN, id, credit);
    }
    held.ended |= flags & FIN != 0;
    if body == 0 {
        streams.offer(id);
    }
    Ok(after(Some(id)))
}

pub(super) fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<C: AsyncRead + Unpin> AsyncRead for Merging<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            if !this.out.is_empty() {
                let bytes = buffer.len().min(this.out.len());
                this.out.copy_to_slice(&mut buffer[..bytes]);
                return Poll::Ready(Ok(bytes));
            }
            {
                let mut streams = this.inbox.lock();
                // Nothing interrupts a frame that is not held.
                let between = !matches!(this.at, At::Body { held: None, .. });
                let out = &mut this.out;
                if between && (HeldPing::pass(&mut this.ping, out) || streams.pass(out)) {
                    continue;
                }
                if streams.draining {
                    return Poll::Ready(Ok(0));
                }
                streams.waker = Some(context.waker().clone());
            }
            let read = Pin::new(&mut this.channel).poll_read(context, &mut this.input);
            let bytes = ready!(read)?;
            if bytes == 0 {
                this.inbox.lock().drain();
                continue;
            }
            let input = std::mem::take(&mut this.input);
            let taken = this.receive(&input[..bytes]);
            this.input = input;
            taken?;
        }
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Merging<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.channel).poll_write(context, bytes))?;
        self.sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::io::Cursor;

    use super::*;

    /// A frame of the guest.
    fn frame(kind: u8, flags: u16, id: u32, body: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        put_header(&mut out, kind, flags, id, body.len());
        out.extend_from_slice(body);
        out.to_vec()
    }

    /// Frames as the mux gets them: type, flags, stream and data or credit.
    type Frames = Vec<(u8, u16, u32, Vec<u8>)>;

    fn frames(mut bytes: &[u8]) -> Frames {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            assert_eq!(bytes.get_u8(), 0);
            let (kind, flags, id) = (bytes.get_u8(), bytes.get_u16(), bytes.get_u32());
            let length = bytes.get_u32();
            let body = if kind == DATA { bytes.split_to_vec(length) } else { vec![] };
            frames.push((kind, flags, id, body));
        }
        frames
    }

    trait SplitTo {
        fn split_to_vec(&mut self, bytes: u32) -> Vec<u8>;
    }

    impl SplitTo for &[u8] {
        fn split_to_vec(&mut self, bytes: u32) -> Vec<u8> {
            let (begin, rest) = self.split_at(usize::try_from(bytes).unwrap());
            *self = rest;
            begin.to_vec()
        }
    }

    /// End of the guest's bytes.
    enum Then {
        Nothing,
        End,
    }

    /// A guest that sends bytes, and what the mux reads of it until it has to wait.
    struct Guest {
        merging: Merging<futures::io::Chain<Cursor<Vec<u8>>, Rest>>,
        inbox: Inbox,
    }

    /// A channel on which nothing comes, or that has ended.
    struct Rest(Then);

    impl AsyncRead for Rest {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            match self.0 {
                Then::Nothing => Poll::Pending,
                Then::End => Poll::Ready(Ok(0)),
            }
        }
    }

    impl Guest {
        fn sends(bytes: Vec<u8>, ids: &[u32], then: Then) -> Self {
            let mut merging = Merging::over(Cursor::new(bytes).chain(Rest(then)));
            let inbox = merging.begin(None);
            for id in ids {
                inbox.register(*id);
            }
            Self { merging, inbox }
        }

        fn mux_reads(&mut self) -> Vec<u8> {
            let mut read = Vec::new();
            let mut buffer = [0; 1000];
            while let Some(bytes) = self.merging.read(&mut buffer).now_or_never() {
                let bytes = bytes.unwrap();
                if bytes == 0 {
                    break;
                }
                read.extend_from_slice(&buffer[..bytes]);
            }
            read
        }
    }

    #[test]
    fn bytes_nobody_reads_are_few_pieces_and_no_more_memory_than_they_are() {
        const WINDOW: usize = yamux::DEFAULT_CREDIT as usize;
        let ids = [1, 3, 5];
        let mut bytes = Vec::new();
        for _ in 0..WINDOW {
            for id in ids {
                bytes.extend(frame(DATA, 0, id, b"x"));
            }
        }
        let mut guest = Guest::sends(bytes, &ids, Then::Nothing);
        let passed = frames(&guest.mux_reads());
        assert!(passed.len() <= 6 * ids.len(), "{}", passed.len());
        let held: usize = guest.inbox.lock().by_id.values().map(|held| held.data.capacity()).sum();
        assert!(held <= 2 * ids.len() * WINDOW, "{held}");
        // As they are read, the others come, and every one.
        let mut read = [0; 3];
        let mut waiting = passed;
        while !waiting.is_empty() {
            for (kind, _, id, body) in std::mem::take(&mut waiting) {
                assert_eq!(kind, DATA);
                read[ids.iter().position(|known| *known == id).unwrap()] += body.len();
                guest.inbox.took(id, body.len());
            }
            waiting = frames(&guest.mux_reads());
        }
        assert_eq!(read, [WINDOW; 3]);
        assert!(guest.inbox.lock().by_id.values().all(|held| held.data.capacity() == 0));
    }

    #[test]
    fn order_is_kept_and_an_end_comes_last() {
        let mut bytes = frame(DATA, ACK, 1, b"");
        bytes.extend(frame(DATA, 0, 1, b"a"));
        bytes.extend(frame(DATA, 0, 1, b"b"));
        bytes.extend(frame(DATA, FIN, 1, b"c"));
        bytes.extend(frame(WINDOW_UPDATE, 0, 1, b""));
        let mut guest = Guest::sends(bytes, &[1], Then::Nothing);
        let passed = frames(&guest.mux_reads());
        let (data, ack) = ((DATA, 0, 1, b"abc".to_vec()), (WINDOW_UPDATE, ACK, 1, vec![]));
        assert_eq!(passed, [ack, data, (WINDOW_UPDATE, FIN, 1, vec![])]);
    }

    #[test]
    fn a_reset_is_not_held_up() {
        let mut bytes = frame(DATA, 0, 1, &[b'x'; 1000]);
        bytes.extend(frame(DATA, RST, 1, b"yy"));
        bytes.extend(frame(DATA, 0, 3, b"z"));
        let mut guest = Guest::sends(bytes, &[1, 3], Then::Nothing);
        let passed = frames(&guest.mux_reads());
        assert_eq!(passed[0], (WINDOW_UPDATE, RST, 1, vec![]));
        assert!(passed.contains(&(DATA, 0, 3, b"z".to_vec())), "{passed:?}");
    }

    #[test]
    fn what_is_held_when_the_channel_ends_is_passed_on() {
        let bytes = frame(DATA, 0, 1, b"x").repeat(70_000);
        let mut guest = Guest::sends(bytes, &[1], Then::End);
        let passed = frames(&guest.mux_reads());
        assert_eq!(passed.iter().map(|(.., body)| body.len()).sum::<usize>(), 70_000);
    }

    #[test]
    fn more_than_a_window_is_refused() {
        let bytes = frame(DATA, 0, 1, &vec![0; 1 << 15]).repeat(9);
        let mut guest = Guest::sends(bytes, &[1], Then::Nothing);
        let mut buffer = vec![0; 1 << 20];
        let error = loop {
            match guest.merging.read(&mut buffer).now_or_never() {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("it waits"),
            }
        };
        assert_eq!(error.to_string(), "more data than their window");
    }

    #[test]
    fn a_stream_of_the_guests_own_ends_the_channel() {
        for kind in [DATA, WINDOW_UPDATE] {
            let mut guest = Guest::sends(frame(kind, SYN, 2, b"x"), &[1], Then::Nothing);
            let read = guest.merging.read(&mut [0; 100]).now_or_never().unwrap();
            assert_eq!(read.unwrap_err().to_string(), "the guest opened a stream");
        }
    }

    #[test]
    fn a_frame_that_is_not_held_is_not_interrupted() {
        let mut bytes = frame(DATA, 0, 1, b"a");
        bytes.extend(frame(PING, SYN, 0, b""));
        let other = frame(DATA, 0, 9, b"hello");
        let (begun, rest) = other.split_at(HEADER_BYTES + 3);
        bytes.extend(begun);
        let mut guest = Guest::sends(bytes, &[1], Then::Nothing);
        let mut read = guest.mux_reads();
        guest.merging.sent(PONG_AFTER_BYTES);
        read.extend(guest.mux_reads());
        assert_eq!(read, begun);
        guest.merging.receive(rest).unwrap();
        read.extend(guest.mux_reads());
        let held = [frame(PING, SYN, 0, b""), frame(DATA, 0, 1, b"a")].concat();
        assert_eq!(read, [other, held].concat());
    }

    #[test]
    fn a_ping_waits_until_half_a_window_was_sent() {
        let ping = frame(PING, SYN, 0, b"");
        let mut guest = Guest::sends(ping.clone(), &[1], Then::Nothing);
        assert_eq!(guest.mux_reads(), b"");
        guest.merging.sent(PONG_AFTER_BYTES - 1);
        assert_eq!(guest.mux_reads(), b"");
        guest.merging.sent(1);
        assert_eq!(guest.mux_reads(), ping);
        guest.merging.sent(PONG_AFTER_BYTES);
        assert_eq!(guest.mux_reads(), b"");
    }

    #[test]
    fn what_is_not_held_passes_as_it_is() {
        let mut bytes = frame(PING, ACK, 0, b"");
        bytes.extend(frame(DATA, 0, 9, b"hello"));
        bytes.extend(frame(3, 0, 0, b""));
        bytes.extend(b"GET / HTTP/1.1\r\n\r\n and so on");
        let mut guest = Guest::sends(bytes.clone(), &[1], Then::Nothing);
        assert_eq!(guest.mux_reads(), bytes);
    }

    mod properties {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            #[test]
            fn every_stream_gets_its_bytes(
                sent in prop::collection::vec((0_u32..3, 0_usize..40), 0..200),
                piece_bytes in 1_usize..50,
            ) {
                let mut expect: [Vec<u8>; 3] = Default::default();
                let mut bytes = Vec::new();
                for (index, (stream, length)) in sent.into_iter().enumerate() {
                    let byte = |offset: usize| (index + offset).to_le_bytes()[0];
                    let body: Vec<u8> = (0..length).map(byte).collect();
                    bytes.extend(frame(DATA, 0, stream * 2 + 1, &body));
                    expect[stream as usize].extend(body);
                }
                let mut guest = Guest::sends(vec![], &[1, 3, 5], Then::Nothing);
                let mut got: [Vec<u8>; 3] = Default::default();
                for piece in bytes.chunks(piece_bytes) {
                    guest.merging.receive(piece).unwrap();
                    for (_, _, id, body) in frames(&guest.mux_reads()) {
                        guest.inbox.took(id, body.len());
                        got[(id / 2) as usize].extend(body);
                    }
                }
                for (_, _, id, body) in frames(&guest.mux_reads()) {
                    got[(id / 2) as usize].extend(body);
                }
                prop_assert_eq!(got, expect);
            }

            #[test]
            fn any_bytes_are_survived(
                bytes in prop::collection::vec(any::<u8>(), 0..200), piece_bytes in 1_usize..50,
            ) {
                let mut guest = Guest::sends(vec![], &[0, 1], Then::Nothing);
                for piece in bytes.chunks(piece_bytes) {
                    if guest.merging.receive(piece).is_err() {
                        break;
                    }
                    guest.mux_reads();
                }
            }
        }
    }
}
