//! A guest's end of a connection, for tests that send a guest's messages.

use bytes::BytesMut;
use emberd_proto::frame::{Decoder, encode_message};
use emberd_proto::message::GENERATION;
use emberd_proto::{GuestMessage, HostMessage, Welcome};
use tokio::io::{AsyncWriteExt as _, DuplexStream};

use super::Link;
use crate::wire::next_frame;

/// The first message of an agent.
pub(crate) const WELCOME: &GuestMessage = &GuestMessage::Welcome(Welcome {
    generation: GENERATION,
    agent_version: String::new(),
    init_started_us: None,
    serving_us: None,
});

/// The frames of `messages`.
pub(crate) fn messages(messages: &[&GuestMessage]) -> BytesMut {
    let mut out = BytesMut::new();
    for message in messages {
        encode_message(message, &mut out);
    }
    out
}

/// A connection and its guest's end, with the greeting behind them.
pub(crate) async fn greeted() -> (Link<DuplexStream>, DuplexStream) {
    let (host, mut guest) = tokio::io::duplex(1 << 20);
    guest.write_all(&messages(&[WELCOME])).await.unwrap();
    let (connection, _) = Link::greet(host).await.unwrap();
    let HostMessage::Hello { .. } = next_message(&mut guest).await else {
        panic!("the host did not greet");
    };
    (connection, guest)
}

/// Reads the host's next message.
pub(crate) async fn next_message(guest: &mut DuplexStream) -> HostMessage {
    next_frame(guest, &mut Decoder::default()).await.unwrap().message().unwrap()
}
