//! A web server on loopback that answers each request as the test says, and keeps its head.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// How requests are answered, in turn; the last one for all that follow.
#[derive(Clone)]
pub enum Answer {
    /// The file, or the part of it a `Range` asks for.
    File(Vec<u8>),
    /// The file whole, whatever part was asked for.
    Whole(Vec<u8>),
    /// As `File`, but the connection breaks after this many bytes of the body.
    CutAfter(Vec<u8>, usize),
    /// As `Whole`, without a length, and only this many bytes: the end looks like the end.
    SilentlyCut(Vec<u8>, usize),
    /// Elsewhere.
    Redirect(String),
    /// Nothing there.
    NotFound,
}

/// A running server; its thread ends with the test's process.
pub struct FileServer {
    pub url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl FileServer {
    pub fn start(answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (answers, kept) = (answers.to_vec(), Arc::clone(&heads));
        thread::spawn(move || {
            let last = answers.last().unwrap().clone();
            let answers = answers.into_iter().chain(std::iter::repeat(last));
            for (stream, answer) in listener.incoming().zip(answers) {
                let mut stream = stream.unwrap();
                let head = read_head(&stream);
                kept.lock().unwrap().push(head.clone());
                // A client that has enough goes away before the end.
                drop(answer.write(&head, &mut stream));
            }
        });
        Self { url, heads }
    }

    /// The heads of all requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn read_head(stream: &TcpStream) -> String {
    let lines = BufReader::new(stream).lines().map(Result::unwrap);
    lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Where a `Range: bytes=N-` begins.
fn range_start(head: &str) -> Option<usize> {
    let line = head.lines().find_map(|line| line.strip_prefix("Range: bytes="))?;
    line.strip_suffix('-')?.parse().ok()
}

impl Answer {
    fn write(&self, head: &str, stream: &mut TcpStream) -> std::io::Result<()> {
        match self {
            Self::File(file) => write_part(stream, file, head, usize::MAX),
            Self::CutAfter(file, bytes) => write_part(stream, file, head, *bytes),
            Self::Whole(file) => write_part(stream, file, "", usize::MAX),
            Self::SilentlyCut(file, bytes) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
                stream.write_all(&file[..*bytes])
            }
            Self::Redirect(url) => write!(
                stream,
                "HTTP/1.1 302 Found\r\nlocation: {url}\r\nconnection: close\r\n\
                 content-length: 0\r\n\r\n"
            ),
            Self::NotFound => stream.write_all(
                b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 4\r\n\r\ngone",
            ),
        }
    }
}

fn write_part(
    stream: &mut TcpStream,
    file: &[u8],
    head: &str,
    bytes_max: usize,
) -> std::io::Result<()> {
    let start = range_start(head);
    let from = start.unwrap_or(0);
    if from >= file.len() && start.is_some() {
        return stream.write_all(
            b"HTTP/1.1 416 Range Not Satisfiable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        );
    }
    let part = &file[from..];
    match start {
        None => write!(stream, "HTTP/1.1 200 OK\r\n")?,
        Some(_) => write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {from}-{}/{}\r\n",
            file.len() - 1,
            file.len()
        )?,
    }
    write!(stream, "connection: close\r\ncontent-length: {}\r\n\r\n", part.len())?;
    stream.write_all(&part[..part.len().min(bytes_max)])
}
