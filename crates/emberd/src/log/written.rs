//! Collects what a log writes, for tests.

use std::io;
use std::sync::{Arc, Mutex};

/// Keeps what is written to it. Clones share it.
#[derive(Clone, Default)]
pub struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    /// Everything written so far.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Returns what makes the writers of a log.
    pub fn maker(&self) -> impl Fn() -> Self + use<> {
        let written = self.clone();
        move || written.clone()
    }
}

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
