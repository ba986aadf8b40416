//! A guest that sends whatever a script holds, over a pipe. The fuzz targets use it too.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use emberd_guest::{Guest, Link};
use emberd_proto::{Decoder, Frame, GuestMessage, HostMessage, Kind, Welcome, frame};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_util::sync::CancellationToken;

use crate::host::TestHost;

/// Most bytes on the way between host and guest (256 KiB).
const PIPE_BYTES: usize = 256 << 10;

/// Answers of a guest, one for each frame of its host that needs an answer.
type Script = Arc<Mutex<VecDeque<Vec<u8>>>>;

/// A guest of that generation that answers by `script`; its host stops once `closing` is cancelled.
pub async fn guest_of(
    script: VecDeque<Vec<u8>>,
    closing: CancellationToken,
    generation: u32,
) -> Guest<DuplexStream> {
    let script = Script::new(Mutex::new(script));
    let open = move || {
        let (host, guest) = tokio::io::duplex(PIPE_BYTES);
        tokio::spawn(speak(guest, Arc::clone(&script), generation));
        host
    };
    let (first, _) = Link::greet(open()).await.unwrap();
    let connect = Box::new(move || {
        let stream = open();
        Box::pin(async move { Ok(stream) }) as _
    });
    Guest::new("sb_000000000000".to_owned(), TestHost { closing, ..TestHost::new(connect) }, first)
}

/// Greets, then sends the next answer of the script for each message of the host.
async fn speak(mut stream: DuplexStream, script: Script, generation: u32) {
    let mut decoder = Decoder::default();
    loop {
        while let Ok(Some(heard)) = decoder.next_frame() {
            let said = match fixed_answer(&heard, generation) {
                Some(said) => said,
                None => script.lock().pop_front().unwrap_or_default(),
            };
            if stream.write_all(&said).await.is_err() {
                return;
            }
        }
        if stream.read_buf(decoder.buffer()).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

/// Answers that are the same for every script.
fn fixed_answer(heard: &Frame, generation: u32) -> Option<Vec<u8>> {
    match heard.message() {
        Ok(HostMessage::Hello { .. }) => Some(message(&GuestMessage::Welcome(Welcome {
            generation,
            agent_version: "script".to_owned(),
            init_started_us: None,
            serving_us: None,
        }))),
        // A guest does not answer most streamed frames.
        Ok(HostMessage::Note { .. }) => Some(Vec::new()),
        _ if heard.kind == Kind::Stdin => Some(Vec::new()),
        _ => None,
    }
}

/// `message` as a guest sends it.
pub fn message(message: &GuestMessage) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::encode_message(message, &mut out);
    out.to_vec()
}
