//! Ctrl-C and termination as a flag that is checked between iterations, so that an interrupted
//! run stops its daemon in order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// Whether the run was interrupted. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

/// The run was interrupted.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

impl Interrupt {
    /// Makes SIGINT, SIGTERM and SIGHUP set the flag instead of ending the process.
    ///
    /// # Errors
    /// If the signals cannot be caught.
    pub fn listen() -> io::Result<Self> {
        let interrupt = Self::default();
        let flag = interrupt.clone();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let mut int = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let mut hup = signal(SignalKind::hangup())?;
        drop(guard);
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                    _ = hup.recv() => {}
                }
                flag.0.store(true, Ordering::Relaxed);
            });
        });
        Ok(interrupt)
    }

    /// Fails once the run was interrupted.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.0.load(Ordering::Relaxed) { Err(Interrupted) } else { Ok(()) }
    }
}
