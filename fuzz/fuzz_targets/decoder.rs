//! Hostile bytes against the frame decoder: never a panic, never more memory than was
//! received, and whatever decodes encodes back to the bytes it came from.
#![no_main]

use bytes::BytesMut;
use emberd_proto::{Decoder, GuestMessage, HostMessage, frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (chunk_bytes, stream) = input;
    let mut decoder = Decoder::default();
    let mut again = BytesMut::new();
    for chunk in stream.chunks(usize::from(chunk_bytes).max(1)) {
        decoder.buffer().extend_from_slice(chunk);
        loop {
            match decoder.next_frame() {
                Ok(Some(decoded)) => {
                    let _host = decoded.message::<HostMessage>();
                    let _guest = decoded.message::<GuestMessage>();
                    frame::encode(decoded.kind, &decoded.payload, &mut again);
                }
                Ok(None) => break,
                Err(_) => {
                    assert!(stream.starts_with(&again));
                    return;
                }
            }
        }
    }
    assert!(stream.starts_with(&again));
    assert_eq!(decoder.buffer().len(), stream.len() - again.len());
});
