//! The terminal `emberctl` itself runs in: its size, and its raw mode for as long as it is
//! needed.

use std::io::{self, IsTerminal as _, Read as _};

use emberd_api::TtySize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// Size assumed where there is no terminal.
const SIZE_DEFAULT: TtySize = TtySize { cols: 80, rows: 24 };

/// Most bytes of input read at once (4 KiB).
const INPUT_BYTES: usize = 4 << 10;

/// Pieces of input read ahead; while they wait, no more is read.
const INPUT_PIECES: usize = 4;

/// Whether both standard input and standard output are a terminal.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// How large the terminal is.
pub fn size() -> TtySize {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            TtySize { cols: size.ws_col, rows: size.ws_row }
        }
        _ => SIZE_DEFAULT,
    }
}

/// Raw mode: keys come as they are, none has a meaning here. Dropping it restores what was.
pub struct RawMode(Termios);

impl RawMode {
    /// Begins it.
    ///
    /// # Errors
    /// Standard input is no terminal.
    pub fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        tcsetattr(io::stdin(), OptionalActions::Now, &self.0).ok();
    }
}

/// Standard input in pieces; the channel closes at its end.
///
/// Read by a thread of its own, which nobody waits for: a read from a terminal cannot be
/// taken back.
pub fn input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(INPUT_PIECES);
    std::thread::spawn(move || {
        let mut piece = [0; INPUT_BYTES];
        loop {
            match io::stdin().lock().read(&mut piece) {
                Ok(0) => break,
                Ok(bytes) if sender.blocking_send(piece[..bytes].to_vec()).is_err() => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    });
    receiver
}
