//! Scripted guests: the host's half of the wire over a stream whose other end sends the fuzzer's
//! messages. The guest and its host are those of the tests of `emberd-guest`.
//!
//! The clock is paused and advances only while every task waits, so time limits take no time.

use std::collections::VecDeque;
use std::time::Duration;

use emberd_guest::Guest;
use emberd_proto::message::GENERATION;
use tokio::io::DuplexStream;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

#[path = "../../crates/emberd-guest/tests/it/host.rs"]
mod host;
#[path = "../../crates/emberd-guest/tests/it/scripted.rs"]
mod scripted;

/// Longest wait for an operation in a guest, by the paused clock.
const ALL_MAX: Duration = Duration::from_secs(40_000);

/// A guest at the other end of a pipe.
pub type ScriptedGuest = Guest<DuplexStream>;

/// Runs `what` in a new guest that sends `script`.
///
/// # Panics
/// When `what` does not end.
pub fn with_guest<F: Future<Output = ()>>(
    script: VecDeque<Vec<u8>>,
    what: impl FnOnce(ScriptedGuest, CancellationToken) -> F,
) {
    runtime().block_on(async {
        let closing = CancellationToken::new();
        let guest = scripted::guest_of(script, closing.clone(), GENERATION).await;
        tokio::time::timeout(ALL_MAX, what(guest, closing)).await.unwrap();
    });
}

fn runtime() -> Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap()
}
