//! What a guest says first over a connection, and what it may say later.

use std::time::Duration;

use bytes::BytesMut;
use emberd_proto::EgressReason;
use tokio::time::timeout;

use crate::hello::{self, ClientHello, Hello, RECORD_BYTES_MAX};
use crate::http::{self, Body, Chunks, HEAD_BYTES_MAX, Head};
use crate::peer::Peer;
use crate::splice::{Cut, Upward};

/// Time that a guest may take for the first message of a TLS connection.
const HELLO_WAIT_MAX: Duration = Duration::from_secs(10);

/// Time that a guest may take for the head of a request.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(30);

/// Reads the first message of a TLS connection, and leaves it to be sent. None if the guest ends
/// the connection first.
///
/// # Errors
/// Why what the guest sends is refused.
pub(crate) async fn client_hello(peer: &mut Peer) -> Option<Result<ClientHello, EgressReason>> {
    let reading = async {
        loop {
            match hello::read(&peer.head) {
                Hello::Whole(hello) => return Some(Ok(hello)),
                Hello::Fragmented => return Some(Err(EgressReason::FragmentedHello)),
                Hello::Other => return Some(Err(EgressReason::NotTls)),
                // A record of the largest size is whole.
                Hello::Partial if peer.head.len() > 2 * RECORD_BYTES_MAX => {
                    return Some(Err(EgressReason::NotTls));
                }
                Hello::Partial => {}
            }
            if !peer.more().await.ok()? {
                return None;
            }
        }
    };
    timeout(HELLO_WAIT_MAX, reading).await.unwrap_or(Some(Err(EgressReason::NotTls)))
}

/// Reads the head of the first request, and leaves it to be sent. None if the guest ends the
/// connection first.
///
/// # Errors
/// Why what the guest sends is refused.
pub(crate) async fn head(peer: &mut Peer) -> Option<Result<Head, EgressReason>> {
    let reading = async {
        let mut searched = 0;
        loop {
            match next_head(&peer.head, &mut searched) {
                Ok(None) => {}
                Ok(Some(head)) => return Some(Ok(head)),
                Err(reason) => return Some(Err(reason)),
            }
            if !peer.more().await.ok()? {
                return None;
            }
        }
    };
    timeout(HEAD_WAIT_MAX, reading).await.unwrap_or(Some(Err(EgressReason::NotHttp)))
}

/// Reads a head as [`http::read`] does. `searched` is how many of the bytes are known to hold no
/// end: a guest that sends one at a time does not have all of them read again each time.
fn next_head(bytes: &[u8], searched: &mut usize) -> Result<Option<Head>, EgressReason> {
    let from = searched.saturating_sub(3);
    let has_end = bytes[from..].windows(4).any(|window| window == b"\r\n\r\n");
    let is_first = *searched == 0;
    *searched = bytes.len();
    if has_end || is_first || bytes.len() >= HEAD_BYTES_MAX { http::read(bytes) } else { Ok(None) }
}

/// Passes on requests, from `first` on, each once `permit` has allowed it. `bytes` are what the
/// guest has sent so far.
pub(crate) async fn requests(
    mut upward: Upward<'_>,
    mut bytes: BytesMut,
    first: Head,
    mut permit: impl FnMut(&Head) -> Result<(), EgressReason>,
) -> Result<(), Cut> {
    let mut head = first;
    loop {
        permit(&head).map_err(Cut::Refused)?;
        upward.send(&bytes.split_to(head.bytes)).await?;
        let complete = match head.body {
            Body::Length(length) => counted(&mut upward, &mut bytes, length).await?,
            Body::Chunked => chunked(&mut upward, &mut bytes).await?,
        };
        if !complete || bytes.is_empty() && !more(&upward, &mut bytes).await? {
            return upward.end().await;
        }
        let next = timeout(HEAD_WAIT_MAX, following(&upward, &mut bytes)).await;
        match next.unwrap_or(Err(Cut::Refused(EgressReason::NotHttp)))? {
            Some(next) => head = next,
            None => return upward.end().await,
        }
    }
}

/// Waits for the head of a later request. None if the guest ends before it is whole.
async fn following(upward: &Upward<'_>, bytes: &mut BytesMut) -> Result<Option<Head>, Cut> {
    let mut searched = 0;
    loop {
        if let Some(head) = next_head(bytes, &mut searched).map_err(Cut::Refused)? {
            return Ok(Some(head));
        }
        if !more(upward, bytes).await? {
            return Ok(None);
        }
    }
}

/// Waits for more of what the guest sends; returns whether it has not ended.
async fn more(upward: &Upward<'_>, bytes: &mut BytesMut) -> Result<bool, Cut> {
    let Some(chunk) = upward.stream.chunk().await.map_err(|_| Cut::Guest)? else {
        return Ok(false);
    };
    if bytes.is_empty() {
        *bytes = chunk.into();
    } else {
        bytes.extend_from_slice(&chunk);
    }
    Ok(true)
}

/// Passes on a body of `left` bytes; returns whether the guest sent all of it.
async fn counted(
    upward: &mut Upward<'_>,
    bytes: &mut BytesMut,
    mut left: u64,
) -> Result<bool, Cut> {
    while left > 0 {
        if bytes.is_empty() && !more(upward, bytes).await? {
            return Ok(false);
        }
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        upward.send(&bytes.split_to(here)).await?;
        left -= here as u64;
    }
    Ok(true)
}

/// Passes on a body in chunks; returns whether the guest sent all of it.
async fn chunked(upward: &mut Upward<'_>, bytes: &mut BytesMut) -> Result<bool, Cut> {
    let mut state = Chunks::Length;
    while state != Chunks::End {
        match state.next(bytes).map_err(Cut::Refused)? {
            Some((here, next)) => {
                upward.send(&bytes.split_to(here)).await?;
                state = next;
            }
            None => {
                if !more(upward, bytes).await? {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}
