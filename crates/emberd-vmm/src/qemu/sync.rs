//! Begins a session with a guest whose last host has vanished in the middle of one.
//!
//! ```text
//! sync.sock  ── nonce ─▶ guest ends its session, opens its port again ── nonce ─▶
//! agent.sock ── connect, disconnect
//! sync.sock  ── ALONE nonce ─▶ guest opens its port, sees nobody there ── nonce ─▶
//! agent.sock ── connect ─▶ a fresh session
//! ```
//! The guest's port does not tell one host from another: what follows would be read as the rest of
//! the old frames. So the guest is told first. One that stands still answers once it runs again.
//! QEMU forgets that a host left while the guest stood still, and holds back all that the guest
//! wrote since until it sees a host leave: hence the connection in between.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Begins a question that the guest answers when it sees no host at its port (`ALONE` of the wire).
const ALONE: &[u8] = b"lone";

/// Bytes of a nonce.
const NONCE_BYTES: usize = 16;

/// Most bytes read before the nonce: answers to earlier hosts.
const STALE_BYTES_MAX: usize = 4096;

/// Asks over `port` for a fresh session, and waits for the answer.
pub(super) async fn ask(port: &mut UnixStream) -> io::Result<()> {
    synchronise(port, b"", nonce()?).await
}

/// As [`ask`], and the guest answers once it sees no host at its port.
pub(super) async fn ask_alone(port: &mut UnixStream) -> io::Result<()> {
    synchronise(port, ALONE, nonce()?).await
}

fn nonce() -> io::Result<[u8; NONCE_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}

/// Sends `question` and `nonce`, and waits until the guest has sent the nonce back.
async fn synchronise(
    port: &mut UnixStream,
    question: &[u8],
    nonce: [u8; NONCE_BYTES],
) -> io::Result<()> {
    port.write_all(&[question, &nonce].concat()).await?;
    let mut heard = Vec::with_capacity(NONCE_BYTES);
    while !heard.ends_with(&nonce) {
        if heard.len() >= STALE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the guest answers at random"));
        }
        if port.read_buf(&mut heard).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: [u8; NONCE_BYTES] = *b"0123456789abcdef";

    /// Synchronises with a guest that says `pieces`, the last ones after it has heard the nonce.
    async fn check(before: &[u8], after: &[&[u8]], expect: Result<(), io::ErrorKind>) {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(before).await.unwrap();
        let guest = async {
            let mut heard = [0; ALONE.len() + NONCE_BYTES];
            theirs.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, [ALONE, &NONCE].concat()[..]);
            for piece in after {
                theirs.write_all(piece).await.unwrap();
            }
            drop(theirs);
        };
        let (done, ()) = tokio::join!(synchronise(&mut ours, ALONE, NONCE), guest);
        assert_eq!(done.map_err(|error| error.kind()), expect);
    }

    #[tokio::test]
    async fn the_guest_has_answered_when_it_has_said_the_nonce_and_nothing_after() {
        check(b"", &[&NONCE], Ok(())).await;
        check(b"an older nonce", &[&NONCE[..5], &NONCE[5..]], Ok(())).await;
        check(&NONCE[..7], &[&NONCE], Ok(())).await;
        check(b"", &[&NONCE[..15]], Err(io::ErrorKind::UnexpectedEof)).await;
        check(&[b'x'; 9000], &[], Err(io::ErrorKind::InvalidData)).await;
    }
}
