//! The host's side of the wire.

use std::time::Duration;

use bytes::BytesMut;
use emberd_proto::frame::{self, Decoder, Frame, Kind};
use emberd_proto::message::AGENT_PORT;
use emberd_proto::{ExecSpec, GuestMessage, HostMessage};
use emberd_vmm::MicroVm;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The host's side of one connection to the agent.
pub struct Agent<S> {
    stream: S,
    decoder: Decoder,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Agent<S> {
    pub async fn connect(vm: &impl MicroVm<Stream = S>) -> Self {
        let connect = tokio::time::timeout(Duration::from_secs(60), vm.connect(AGENT_PORT));
        Self::greet(connect.await.expect("the guest is ready").unwrap()).await
    }

    pub async fn greet(stream: S) -> Self {
        let mut agent = Self { stream, decoder: Decoder::default() };
        agent.send(&HostMessage::hello()).await;
        let welcome: GuestMessage = agent.next().await.unwrap().message().unwrap();
        assert!(matches!(welcome, GuestMessage::Welcome(_)), "{welcome:?}");
        agent
    }

    /// Standard output of `code`, which must succeed.
    pub async fn run(&mut self, code: &str) -> String {
        self.send(&HostMessage::Exec(ExecSpec::new(code))).await;
        let mut end = BytesMut::new();
        frame::encode(Kind::StdinEnd, b"", &mut end);
        self.stream.write_all(&end).await.unwrap();
        self.stream.flush().await.unwrap();
        let mut output = Vec::new();
        loop {
            let frame = self.next().await.unwrap();
            match frame.kind {
                Kind::Stdout => output.extend_from_slice(&frame.payload),
                Kind::Control => {
                    let GuestMessage::Exited(exit) = frame.message().unwrap() else {
                        panic!("{frame:?}")
                    };
                    assert_eq!(exit.exit_code, 0, "{exit:?}");
                    return String::from_utf8(output).unwrap();
                }
                _ => panic!("{frame:?}"),
            }
        }
    }

    /// Whether the connection has ended, in whatever way.
    pub async fn has_ended(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]).await, Ok(0) | Err(_))
    }

    async fn send(&mut self, message: &HostMessage) {
        let mut out = BytesMut::new();
        frame::encode_message(message, &mut out);
        self.stream.write_all(&out).await.unwrap();
    }

    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            if self.stream.read_buf(self.decoder.buffer()).await.unwrap() == 0 {
                return None;
            }
        }
    }
}
