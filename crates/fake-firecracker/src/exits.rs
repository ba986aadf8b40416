//! The ways this process ends by itself.

use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::log::Log;

/// Exit code of a system call that seccomp does not allow. reference §1.5.
const EXIT_CODE_BAD_SYSCALL: u8 = 148;

/// Ends the process, at once or after the answer that is under way.
#[derive(Debug, Clone)]
pub struct Exits {
    now: mpsc::UnboundedSender<u8>,
    after_answer: watch::Sender<Option<u8>>,
}

impl Exits {
    /// The exits, and where the code arrives.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<u8>) {
        let (now, receiver) = mpsc::unbounded_channel();
        (Self { now, after_answer: watch::Sender::new(None) }, receiver)
    }

    /// Ends the process.
    pub fn now(&self, code: u8) {
        // The receiver is gone only when the process ends already.
        self.now.send(code).ok();
    }

    /// Ends the process once the answer under way is sent.
    pub fn after_answer(&self, code: u8) {
        self.after_answer.send_replace(Some(code));
    }

    /// Logs what Firecracker's signal handlers do before they end the process with `code`.
    pub fn last_words(log: &Log, code: u8) {
        if code == EXIT_CODE_BAD_SYSCALL {
            log.error("Shutting down VM after intercepting a bad syscall (999).");
        }
    }

    /// Waits until the process is to end after an answer, and tells its code.
    pub async fn wait_after_answer(&self) -> u8 {
        let mut code = self.after_answer.subscribe();
        let code = code.wait_for(Option::is_some).await.map(|code| *code);
        code.ok().flatten().expect("this value holds the sender")
    }
}
