//! Server-sent events, in bytes that arrive piece by piece.
//!
//! The format is that of the HTML standard, §9.2.6, without `id` and `retry`.

use crate::lines::Lines;

/// One server-sent event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerEvent {
    /// Name of the event; empty if it has none.
    pub name: String,
    /// Its data, with a line feed between two lines.
    pub data: String,
}

/// The bytes are no server-sent events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServerEventError {
    /// An event is larger than the limit, in bytes.
    #[error("a server-sent event has more than {0} bytes")]
    TooLong(usize),
    /// A line is not UTF-8.
    #[error("a server-sent event is not UTF-8")]
    NotUtf8,
}

/// Takes the server-sent events out of a stream. Does no I/O.
#[derive(Debug)]
pub struct ServerEvents {
    bytes_max: usize,
    lines: Lines,
    unfinished: ServerEvent,
    has_data: bool,
}

impl ServerEvents {
    /// The events of a new stream, each of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        let (lines, unfinished) = (Lines::default(), ServerEvent::default());
        Self { bytes_max, lines, unfinished, has_data: false }
    }

    /// Adds what arrived.
    pub fn push(&mut self, piece: &[u8]) {
        self.lines.push(piece);
    }

    /// The next event that has arrived whole. Comments, unknown fields and events without data are
    /// skipped.
    ///
    /// # Errors
    /// [`ServerEventError`]; the stream cannot be read on.
    pub fn event(&mut self) -> Result<Option<ServerEvent>, ServerEventError> {
        while let Some(line) = self.lines.whole() {
            let line = std::str::from_utf8(&line).map_err(|_| ServerEventError::NotUtf8)?;
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.is_empty() {
                let event = std::mem::take(&mut self.unfinished);
                if std::mem::take(&mut self.has_data) {
                    return Ok(Some(event));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.unfinished.name),
                "data" => {
                    if self.has_data {
                        self.unfinished.data.push('\n');
                    }
                    self.unfinished.data.push_str(value);
                    self.has_data = true;
                }
                _ => {}
            }
            self.check_size(0)?;
        }
        // Of a line that has not ended, all that arrived counts.
        self.check_size(self.lines.pending())?;
        Ok(None)
    }

    /// Whether a part of an event, or of a line, has arrived without its end.
    pub fn is_partial(&self) -> bool {
        self.lines.pending() > 0 || self.unfinished != ServerEvent::default() || self.has_data
    }

    fn check_size(&self, more_bytes: usize) -> Result<(), ServerEventError> {
        let bytes = self.unfinished.name.len() + self.unfinished.data.len() + more_bytes;
        if bytes <= self.bytes_max {
            Ok(())
        } else {
            Err(ServerEventError::TooLong(self.bytes_max))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of `stream`, which arrives in pieces of every size; then whether one is cut off.
    fn check(stream: &str, expect: &[(&str, &str)], is_cut: bool) {
        for piece_bytes in 1..=stream.len() {
            let (mut events, mut seen) = (ServerEvents::new(stream.len()), Vec::new());
            for piece in stream.as_bytes().chunks(piece_bytes) {
                events.push(piece);
                while let Some(ServerEvent { name, data }) = events.event().unwrap() {
                    seen.push((name, data));
                }
            }
            let seen: Vec<_> = seen.iter().map(|(name, data)| (&name[..], &data[..])).collect();
            assert_eq!((seen.as_slice(), events.is_partial()), (expect, is_cut), "{stream:?}");
        }
    }

    #[test]
    fn events_have_a_name_and_data() {
        check("event: change\ndata: {}\n\n", &[("change", "{}")], false);
        check("data: a\n\ndata:b\r\n\r\n", &[("", "a"), ("", "b")], false);
        check("id: 0\ndata: a\ndata:  b\ndata\n\n", &[("", "a\n b\n")], false);
        check(":\n\n: alive\n\nevent: x\n\ndata: a\n\n", &[("", "a")], false);
    }

    #[test]
    fn an_event_without_its_end_is_partial() {
        check("data: a\n\ndata: b", &[("", "a")], true);
        check("data: a\n", &[], true);
        check("event: a\n", &[], true);
        check("data:\n", &[], true);
    }

    #[test]
    fn long_events_and_other_bytes_are_refused() {
        for (stream, is_fine) in [
            ("data: 12345678\n\n", true),
            ("data: 123456789\n\n", false),
            ("data: 1234\n\ndata: 5678\n\n", true),
            ("data: 1234\ndata: 5678\n\n", false),
            ("event: 1234\ndata: 45678\n", false),
            ("data: 12", true),
            ("data: 123", false),
        ] {
            let mut events = ServerEvents::new(8);
            events.push(stream.as_bytes());
            let expect = if is_fine { Ok(()) } else { Err(ServerEventError::TooLong(8)) };
            assert_eq!(events.event().map(drop), expect, "{stream:?}");
        }
        let mut events = ServerEvents::new(100);
        events.push(b"data: \xff\n\n");
        assert_eq!(events.event(), Err(ServerEventError::NotUtf8));
    }
}
