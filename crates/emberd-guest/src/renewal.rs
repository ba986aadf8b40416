//! Renews a restored guest: its own clock, randomness and names.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use data_encoding::HEXLOWER;
use emberd_proto::{Renewal, Renewed};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::error::ChannelError;
use crate::link::Link;
use crate::random::random;

/// Random bytes each guest gets: twice what the kernel's generator is keyed with.
const ENTROPY_BYTES: usize = 64;

/// Largest accepted delay of a guest's clock; the documented limit is 50 ms. The measured delay
/// includes the time that the guest's answer took.
const LATE_MAX: Duration = Duration::from_millis(40);

/// Most exchanges before a late clock is accepted. The first one runs cold code, the second one
/// does not. A host on which the third one is slow is too busy for a precise clock.
const EXCHANGES_MAX: usize = 3;

/// Greets a guest that has just been restored and gives it its clock, randomness and names in
/// one exchange; returns when it answered. Its host name is `name` with hyphens.
///
/// # Errors
/// [`ChannelError`].
pub async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    name: &str,
) -> Result<(Link<S>, Instant), ChannelError> {
    let (renewal, sent) = (fresh(name), Instant::now());
    let (mut connection, _) = Link::greet_renewing(stream, renewal.clone()).await?;
    let answered = Instant::now();
    let renewed = connection.renewed().await?;
    if late(&renewed, sent) > LATE_MAX {
        set_clock(&mut connection, EXCHANGES_MAX - 1).await?;
    }
    Ok((connection, answered))
}

/// Gives the guest of `connection` its clock, randomness and names.
///
/// # Errors
/// [`ChannelError`].
pub async fn renew<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Link<S>,
    name: &str,
) -> Result<(), ChannelError> {
    let sent = Instant::now();
    let renewed = connection.renew(fresh(name)).await?;
    if late(&renewed, sent) > LATE_MAX {
        set_clock(connection, EXCHANGES_MAX - 1).await?;
    }
    Ok(())
}

/// Sets the clock of a guest that was paused.
///
/// # Errors
/// [`ChannelError`].
pub(crate) async fn correct_clock<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Link<S>,
) -> Result<(), ChannelError> {
    set_clock(connection, EXCHANGES_MAX).await
}

/// Sets the guest's clock until it is in time, at most `exchanges` times.
async fn set_clock<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Link<S>,
    exchanges: usize,
) -> Result<(), ChannelError> {
    for _ in 0..exchanges {
        let sent = Instant::now();
        let renewed = connection.set_clock(wall_clock_us()).await?;
        if late(&renewed, sent) <= LATE_MAX {
            break;
        }
    }
    Ok(())
}

/// Upper limit of the delay of a guest's clock, from its answer to the renewal that was `sent`.
fn late(renewed: &Renewed, sent: Instant) -> Duration {
    match renewed.wall_clock_us {
        Some(theirs) => Duration::from_micros(wall_clock_us().saturating_sub(theirs)),
        None => sent.elapsed(),
    }
}

fn fresh(name: &str) -> Renewal {
    Renewal {
        wall_clock_us: wall_clock_us(),
        entropy_base64: BASE64.encode(random::<ENTROPY_BYTES>()),
        hostname: name.replace('_', "-"),
        machine_id: HEXLOWER.encode(&random::<16>()),
        boot_id: uuid(random()),
    }
}

fn wall_clock_us() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

/// A random UUID (RFC 9562, version 4).
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let parts = [&bytes[..4], &bytes[4..6], &bytes[6..8], &bytes[8..10], &bytes[10..]];
    parts.map(|part| HEXLOWER.encode(part)).join("-")
}

#[cfg(test)]
mod tests {
    use emberd_proto::{Decoder, GuestMessage, HostMessage};
    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::link::scripted::{WELCOME, greeted, messages, next_message};

    #[test]
    fn every_guest_gets_what_no_other_has_and_every_rule_is_kept() {
        let [one, other] = [fresh("sb_00ff1234abcd"), fresh("sb_00ff1234abce")];
        one.check().unwrap();
        assert_ne!(one.entropy_base64, other.entropy_base64);
        assert_ne!(one.machine_id, other.machine_id);
        assert_ne!(one.boot_id, other.boot_id);
        assert_ne!(one.hostname, other.hostname);
        assert_eq!(one.entropy().unwrap().len(), ENTROPY_BYTES);
    }

    #[test]
    fn names_are_as_their_readers_expect() {
        assert_eq!(fresh("sb_00ff1234abcd").hostname, "sb-00ff1234abcd");
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[tokio::test]
    async fn clock_that_is_late_is_told_again() {
        let (mut connection, mut guest) = greeted().await;
        let mut clocks = Vec::new();
        let answers = async {
            loop {
                clocks.push(match next_message(&mut guest).await {
                    HostMessage::Renew(renewal) if clocks.is_empty() => renewal.wall_clock_us,
                    HostMessage::SetClock { wall_clock_us } => wall_clock_us,
                    other => panic!("unexpected {other:?}"),
                });
                let late_us = if clocks.len() == 1 { 2 * LATE_MAX.as_micros() } else { 0 };
                let late_us = u64::try_from(late_us).unwrap();
                let renewed = Renewed { wall_clock_us: Some(wall_clock_us() - late_us) };
                let answer = messages(&[&GuestMessage::Renewed(renewed)]);
                guest.write_all(&answer).await.unwrap();
            }
        };
        tokio::select! {
            renewed = renew(&mut connection, "sb_00ff1234abcd") => renewed.unwrap(),
            () = answers => {}
        }
        let [first, second] = clocks[..] else { panic!("{clocks:?}") };
        assert!(second > first);
    }

    #[tokio::test]
    async fn restored_guest_is_woken_once() {
        let (host, mut guest) = tokio::io::duplex(1 << 20);
        let mut renewing = Box::pin(greet(host, "sb_00ff1234abcd"));
        assert!((&mut renewing).now_or_never().is_none());
        // Both arrive before the guest has sent anything.
        let mut decoder = Decoder::default();
        while let Some(read) = guest.read_buf(decoder.buffer()).now_or_never() {
            read.unwrap();
        }
        let mut said = Vec::new();
        while let Some(frame) = decoder.next_frame().unwrap() {
            said.push(frame.message::<HostMessage>().unwrap());
        }
        let in_order = matches!(said[..], [HostMessage::Hello { .. }, HostMessage::Renew(_)]);
        assert!(in_order, "{said:?}");
        let renewed = Renewed { wall_clock_us: Some(wall_clock_us()) };
        let answers = messages(&[WELCOME, &GuestMessage::Renewed(renewed)]);
        guest.write_all(&answers).await.unwrap();
        let (mut connection, _) = renewing.await.unwrap();
        assert!(connection.is_idle());
    }
}
