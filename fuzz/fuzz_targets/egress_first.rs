//! What a guest sends first over a connection: TLS's first message and the heads of requests.
//! Never a panic; a part of what is whole is the beginning of something; a head that is read is
//! read alone in the same way, and a body is not longer than what there is.
#![no_main]

use emberd_egress::hello::{self, Hello};
use emberd_egress::http::{self, Body, Chunks};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Hello::Whole(read) = hello::read(bytes) {
        let half = &bytes[..bytes.len() / 2];
        match hello::read(half) {
            Hello::Partial => {}
            // The message ends before the half.
            other => assert_eq!(other, Hello::Whole(read)),
        }
    }
    let Ok(Some(head)) = http::read(bytes) else { return };
    let (alone, mut body) = bytes.split_at(head.bytes);
    assert_eq!(http::read(alone).as_ref(), Ok(&Some(head.clone())));
    assert!(!head.method.contains(|c: char| c.is_whitespace()) && !head.path.contains('?'));
    if head.body == Body::Chunked {
        let mut state = Chunks::Length;
        while let Ok(Some((here, next))) = state.next(body) {
            body = &body[here..];
            state = next;
        }
    }
});
