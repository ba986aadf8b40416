//! Ctrl-C, hang-up and termination as something to wait for, so that nothing is left behind.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The request to stop: SIGINT, SIGTERM or SIGHUP.
pub struct Interrupt {
    signals: [(Signal, SignalKind); 3],
}

/// The user or the system asked to stop.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted {
    signal: i32,
}

impl Interrupted {
    /// 128 and the signal's number, as shells have it.
    pub fn exit_code(self) -> i32 {
        128 + self.signal
    }
}

impl Interrupt {
    /// From now on the signals no longer end this process by themselves.
    ///
    /// # Errors
    /// The signals cannot be caught.
    pub fn listen() -> io::Result<Self> {
        let listen = |kind| signal(kind).map(|signal| (signal, kind));
        let signals = [
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ];
        Ok(Self { signals })
    }

    /// Waits for the next request to stop. Cancel safe; one that came earlier counts.
    pub async fn next(&mut self) -> Interrupted {
        let [(int, int_kind), (term, term_kind), (hup, hup_kind)] = &mut self.signals;
        let kind = tokio::select! {
            _ = int.recv() => int_kind,
            _ = term.recv() => term_kind,
            _ = hup.recv() => hup_kind,
        };
        Interrupted { signal: kind.as_raw_value() }
    }
}
