//! Requests byte by byte, for what a decent client does not send.

use emberd_api::ErrorBody;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;

/// An answer, taken apart.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn error(&self) -> ErrorBody {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends one request with a body of a known length and reads the answer.
pub async fn request(authority: &str, method: &str, path: &str, body: &str) -> Answer {
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n");
    send(authority, format!("{head}Connection: close\r\n\r\n{body}").into_bytes()).await
}

/// Sends `bytes` and reads the answer, until the daemon closes the connection.
pub async fn send(authority: &str, bytes: Vec<u8>) -> Answer {
    exchange(TcpStream::connect(authority).await.unwrap(), bytes).await
}

/// The same over a connection that is open.
pub async fn exchange(stream: impl AsyncRead + AsyncWrite, bytes: Vec<u8>) -> Answer {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        // The daemon may have heard enough before all is written.
        let cut = writer.write_all(&bytes).await.err();
        (writer, cut)
    };
    let mut answer = Vec::new();
    let (read, _kept_open) = tokio::join!(reader.read_to_end(&mut answer), write);
    read.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// Sends `bytes` and reads the answer, whose length is known, on a connection that stays open.
pub async fn answer(authority: &str, bytes: Vec<u8>) -> Answer {
    let mut stream = BufReader::new(TcpStream::connect(authority).await.unwrap());
    stream.write_all(&bytes).await.unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).await.unwrap() > 0, "{head}");
    }
    let field = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; field.map_or(0, |length| length.trim().parse().unwrap())];
    stream.read_exact(&mut body).await.unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: String::from_utf8(body).unwrap() }
}
