//! The exits of this process.

use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::log::Log;

/// Exit code for a system call that seccomp does not allow. reference §1.5.
const EXIT_CODE_BAD_SYSCALL: u8 = 148;

/// Ends the process, at once or after the current answer.
#[derive(Debug, Clone)]
pub struct Exits {
    now: mpsc::UnboundedSender<u8>,
    after_answer: watch::Sender<Option<u8>>,
}

impl Exits {
    /// Returns the exits, and the receiver of the exit code.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<u8>) {
        let (now, receiver) = mpsc::unbounded_channel();
        (Self { now, after_answer: watch::Sender::new(None) }, receiver)
    }

    /// Ends the process.
    pub fn now(&self, code: u8) {
        // The receiver is gone only if the process is already ending.
        self.now.send(code).ok();
    }

    /// Ends the process once the current answer is sent.
    pub fn after_answer(&self, code: u8) {
        self.after_answer.send_replace(Some(code));
    }

    /// Logs the messages of Firecracker's signal handlers, which then end the process with
    /// `code`.
    pub fn last_words(log: &Log, code: u8) {
        if code == EXIT_CODE_BAD_SYSCALL {
            log.error("Shutting down VM after intercepting a bad syscall (999).");
        }
    }

    /// Waits until the process has to end after an answer, and returns its code.
    pub async fn wait_after_answer(&self) -> u8 {
        let mut code = self.after_answer.subscribe();
        let code = code.wait_for(Option::is_some).await.map(|code| *code);
        code.ok().flatten().expect("this value holds the sender")
    }
}
