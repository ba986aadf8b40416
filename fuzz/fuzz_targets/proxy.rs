//! What listens on a port against the proxy: whatever it answers, the caller gets an answer of
//! HTTP without what belongs to the guest's connection, and its end.
#![no_main]

use std::collections::VecDeque;
use std::future::pending;

use axum::body::Body;
use axum::http::Request;
use bytes::BytesMut;
use emberd::http::through;
use emberd_fuzz::with_guest;
use emberd_proto::{GuestMessage, Kind, frame};
use http_body_util::BodyExt as _;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    upgrades: bool,
    method: u8,
    pieces: Vec<Vec<u8>>,
    /// Whether the answer is begun as one of HTTP.
    is_http: bool,
    taken: u16,
    ends: bool,
}

/// Most bytes that are read of an answer.
const BODY_BYTES_MAX: usize = 64 << 20;

fuzz_target!(|input: Input| {
    let mut dialed = BytesMut::new();
    frame::encode_message(&GuestMessage::Dialed, &mut dialed);
    let mut said = BytesMut::new();
    if input.taken > 0 {
        frame::encode_message(&GuestMessage::DataTaken { bytes: input.taken.into() }, &mut said);
    }
    if input.is_http {
        frame::encode(Kind::Data, b"HTTP/1.1 ", &mut said);
    }
    for piece in input.pieces.iter().filter(|piece| !piece.is_empty()) {
        frame::encode(Kind::Data, piece, &mut said);
    }
    if input.ends {
        frame::encode(Kind::DataEnd, &[], &mut said);
    }
    let script = VecDeque::from([dialed.to_vec(), said.to_vec()]);
    let method = ["GET", "HEAD", "POST", "OPTIONS"][usize::from(input.method) % 4];
    let mut request = Request::builder().method(method).uri("/a?b");
    if input.upgrades {
        request = request.header("connection", "upgrade").header("upgrade", "websocket");
    }
    let request = request.body(Body::from("body")).unwrap();
    with_guest(script, async |guest, closing| {
        let Ok(tcp) = guest.ports().dial(80).await else { return };
        let answer = through(tcp, request, closing, pending()).await;
        let (head, mut body) = answer.into_parts();
        for own in ["transfer-encoding", "keep-alive", "proxy-connection", "upgrade"] {
            assert!(!head.headers.contains_key(own), "{own}: {:?}", head.headers);
        }
        let mut bytes = 0;
        while let Some(Ok(piece)) = body.frame().await {
            bytes += piece.into_data().map_or(0, |data| data.len());
            assert!(bytes <= BODY_BYTES_MAX);
        }
    });
});
