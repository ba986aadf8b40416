//! What listens on a port against the proxy: whatever it answers, the caller gets an answer of
//! HTTP without what belongs to the guest's connection, and the daemon goes on.
#![no_main]

use std::cell::OnceCell;
use std::collections::VecDeque;

use axum::body::Body;
use axum::http::Request;
use bytes::BytesMut;
use emberd_fuzz::Daemon;
use emberd_proto::{GuestMessage, Kind, frame};
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

thread_local! {
    static DAEMON: OnceCell<Daemon> = const { OnceCell::new() };
}

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
    DAEMON.with(|daemon| {
        let daemon = daemon.get_or_init(Daemon::start);
        let answers = daemon.run(script, |id| {
            let method =
                ["GET", "HEAD", "POST", "OPTIONS", "CONNECT"][usize::from(input.method) % 5];
            let mut request = Request::builder().method(method).uri("/a?b");
            if input.upgrades {
                request = request.header("connection", "upgrade").header("upgrade", "websocket");
            }
            let request = request.header("x-emberd-sandbox", id.to_string());
            vec![request.header("x-emberd-port", "80").body(Body::from("body")).unwrap()]
        });
        for (_, fields, _) in answers {
            for own in ["transfer-encoding", "keep-alive", "proxy-connection", "upgrade"] {
                assert!(!fields.contains_key(own), "{own}: {fields:?}");
            }
        }
    });
});
