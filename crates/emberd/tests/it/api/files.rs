//! Files over HTTP.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use emberd_api::{ChangeKind, ErrorCode, FileList, FileType, GuestPath};
use emberd_client::{ClientError, Download, FileOptions, FileSpan, Upload, WatchError};
use futures::stream;

use super::{Api, refusal};
use crate::{raw, wait};

/// A sandbox, and a directory of the host that is its guest's too.
async fn sandbox(api: &Api) -> (String, PathBuf) {
    let id = api.create().await;
    let dir = PathBuf::from(api.client.get(&id).await.unwrap().dir).join("files");
    fs::create_dir(&dir).unwrap();
    (id, dir)
}

async fn collect(mut download: Download) -> Result<Vec<u8>, ClientError> {
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn plain() -> FileOptions {
    FileOptions::default()
}

/// Sends a request with headers of its own.
async fn request(api: &Api, line: &str, headers: &[&str], body: &[u8]) -> raw::Answer {
    let mut head = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for header in headers {
        write!(head, "{header}\r\n").unwrap();
    }
    if !headers.iter().any(|header| header.starts_with("Content-Length")) {
        write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
    }
    raw::send(&api.authority, [head.as_bytes(), b"\r\n", body].concat()).await
}

fn gzip(content: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn content_goes_in_and_comes_out() {
    let api = Api::start().await;
    let (id, dir) = sandbox(&api).await;
    let path = dir.join("a/b c+%&ü");
    let content: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let pieces = content.chunks(77_777).map(|piece| Ok(piece.to_vec().into()));
    let upload = Upload::new(stream::iter(pieces.collect::<Vec<_>>()));
    let options = FileOptions { mode: Some(0o640), ..plain() };
    let written = api.client.file_write(&id, &path, upload, &options).await.unwrap();
    assert_eq!((written.size, written.mode), (5_000_000, 0o640));
    assert_eq!(written.path, GuestPath(path.clone()));
    let read = api.client.file_read(&id, &path, FileSpan::default(), &plain()).await.unwrap();
    assert_eq!(read.length(), Some(5_000_000));
    assert!(collect(read).await.unwrap() == content);
    let span = FileSpan { offset: 4_999_999, length: Some(7) };
    let read = api.client.file_read(&id, &path, span, &plain()).await.unwrap();
    assert_eq!(collect(read).await.unwrap(), content[4_999_999..]);
    let empty = api.client.file_write(&id, &path, Upload::bytes(""), &plain()).await.unwrap();
    assert_eq!((empty.size, empty.mode), (0, 0o640));
    let read = api.client.file_read(&id, &path, FileSpan::default(), &plain()).await.unwrap();
    assert_eq!(collect(read).await.unwrap(), b"");
    api.stop().await;
}

#[tokio::test]
async fn names_that_are_not_utf8() {
    let api = Api::start().await;
    let (id, dir) = sandbox(&api).await;
    let path = dir.join(OsStr::from_bytes(b"\xff\n\x01"));
    let written = api.client.file_write(&id, &path, Upload::bytes("x"), &plain()).await.unwrap();
    assert_eq!(written.path, GuestPath(path.clone()));
    assert_eq!(fs::read(&path).unwrap(), b"x");
    let listed = api.client.file_list(&id, &dir, 1, &plain()).await.unwrap();
    assert_eq!(listed.entries[0].path, GuestPath(path.clone()));
    api.client.file_remove(&id, &path, &plain()).await.unwrap();
    assert!(!path.exists());
    api.stop().await;
}

#[tokio::test]
async fn part_of_a_file() {
    let api = Api::start().await;
    let (id, dir) = sandbox(&api).await;
    fs::write(dir.join("digits"), "0123456789").unwrap();
    let line = format!("GET /sandboxes/{id}/files?path={}/digits", dir.display());
    for (range, status, body, told) in [
        ("bytes=0-2", 206, "012", "bytes 0-2/10"),
        ("bytes=8-99", 206, "89", "bytes 8-9/10"),
        ("bytes=-3", 206, "789", "bytes 7-9/10"),
        ("bytes=-99", 206, "0123456789", "bytes 0-9/10"),
        ("bytes=3-", 206, "3456789", "bytes 3-9/10"),
        ("bytes=0-1,4-5", 200, "0123456789", ""),
        ("pages=1-2", 200, "0123456789", ""),
    ] {
        let answer = request(&api, &line, &[&format!("Range: {range}")], b"").await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{range}");
        assert!(answer.head.contains(&format!("content-length: {}", body.len())), "{answer:?}");
        assert_eq!(answer.head.contains("content-range"), !told.is_empty(), "{answer:?}");
        assert!(answer.head.contains(told), "{answer:?}");
    }
    for range in ["bytes=10-", "bytes=-0", "bytes=99999999999999999999-"] {
        let answer = request(&api, &line, &[&format!("Range: {range}")], b"").await;
        assert_eq!((answer.status, answer.error().code), (416, ErrorCode::RangeNotSatisfiable));
        assert!(answer.head.contains("content-range: bytes */10"), "{answer:?}");
    }
    let head = request(&api, &line.replace("GET", "HEAD"), &["Accept-Encoding: gzip"], b"").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.head.contains("content-length: 10"), "{head:?}");
    api.stop().await;
}

#[tokio::test]
async fn gzip_both_ways() {
    let api = Api::start().await;
    let (id, dir) = sandbox(&api).await;
    let content = vec![0; 30 << 20];
    let line = format!("PUT /sandboxes/{id}/files?path={}/zeros", dir.display());
    let encoding = ["Content-Encoding: gzip"];
    let answer = request(&api, &line, &encoding, &gzip(&content)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(fs::read(dir.join("zeros")).unwrap() == content);
    let whole = gzip(b"something short");
    for broken in [&whole[..whole.len() - 1], b"plain", b""] {
        let answer = request(&api, &line, &encoding, broken).await;
        assert_eq!((answer.status, answer.error().code), (400, ErrorCode::InvalidRequest));
    }
    let answer = request(&api, &line, &["Content-Encoding: br"], b"x").await;
    assert_eq!((answer.status, answer.error().code), (400, ErrorCode::InvalidRequest));
    // What was refused has changed nothing.
    assert_eq!(fs::metadata(dir.join("zeros")).unwrap().size(), 30 << 20);
    // What was written beside it goes when the agent hears that no more comes.
    let listed = async || api.client.file_list(&id, &dir, 1, &plain()).await.unwrap();
    wait::until(async || listed().await.entries.len() == 1).await;
    let line = line.replace("PUT", "GET");
    let mut small = Vec::new();
    let stream = tokio::net::TcpStream::connect(&api.authority).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let head = format!("{line} HTTP/1.0\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut writer, head.as_bytes()).await.unwrap();
    tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut small).await.unwrap();
    let body = small.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(small.len() < 1 << 20, "{}", small.len());
    let mut back = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(&small[body..]);
    std::io::Read::read_to_end(&mut decoder, &mut back).unwrap();
    assert!(back == content);
    api.stop().await;
}

#[tokio::test]
async fn trees() {
    let api = Api::start().await;
    let (id, dir) = sandbox(&api).await;
    let at = |name: &str| dir.join(name);
    let client = &api.client;
    let made = client.file_make_dir(&id, &at("a/b"), &plain()).await.unwrap();
    assert_eq!((made.file_type, made.mode), (FileType::Directory, 0o755));
    let again = client.file_make_dir(&id, &at("a/b"), &plain()).await;
    assert_eq!((refusal(again).0), 409);
    client.file_write(&id, &at("a/file"), Upload::bytes("x"), &plain()).await.unwrap();
    symlink("file", at("a/link")).unwrap();
    let link = client.file_stat(&id, &at("a/link"), &plain()).await.unwrap();
    assert_eq!((link.file_type, link.target_type), (FileType::Symlink, Some(FileType::File)));
    let moved = client.file_move(&id, &at("a"), &at("c/d"), &plain()).await.unwrap();
    assert_eq!(moved.path, GuestPath(at("c/d")));
    let listed = client.file_list(&id, &dir, 9, &plain()).await.unwrap();
    let names: Vec<_> = listed.entries.into_iter().map(|entry| entry.path.0).collect();
    let expect = ["c", "c/d", "c/d/b", "c/d/file", "c/d/link"].map(at);
    assert_eq!((names.as_slice(), listed.cut), (expect.as_slice(), false));
    let packed = client.file_pack(&id, &at("c"), &plain()).await.unwrap();
    let packed = collect(packed).await.unwrap();
    client.file_unpack(&id, &at("e"), Upload::bytes(packed), &plain()).await.unwrap();
    assert_eq!(fs::read(at("e/d/link")).unwrap(), b"x");
    client.file_remove(&id, &at("e"), &plain()).await.unwrap();
    client.file_remove(&id, &at("e"), &plain()).await.unwrap();
    let gone = client.file_stat(&id, &at("e"), &plain()).await;
    let (status, body) = refusal(gone);
    assert_eq!((status, body.code), (404, ErrorCode::NotFound));
    assert!(body.error.contains("files/e: No such file"), "{body:?}");
    api.stop().await;
}

#[tokio::test]
async fn long_and_empty_listings_are_json() {
    let api = Api::start().await;
    let (id, dir) = sandbox(&api).await;
    let listed = api.client.file_list(&id, &dir, 1, &plain()).await.unwrap();
    assert_eq!(listed, FileList { entries: Vec::new(), cut: false });
    for number in 0..1000 {
        fs::write(dir.join(number.to_string()), "").unwrap();
    }
    let listed = api.client.file_list(&id, &dir, 1, &plain()).await.unwrap();
    assert_eq!(listed.entries.len(), 1000);
    api.stop().await;
}

#[tokio::test]
async fn refusals() {
    use ErrorCode::{InvalidRequest, NotFound, UnknownSandbox};
    let api = Api::start().await;
    let (id, dir) = sandbox(&api).await;
    fs::write(dir.join("file"), "x").unwrap();
    let (files, at) = (format!("/sandboxes/{id}/files"), dir.display());
    let cases = [
        ("GET", format!("{files}?path={at}/no"), 404, NotFound),
        ("GET", format!("{files}?path={at}"), 400, InvalidRequest),
        ("GET", files.clone(), 400, InvalidRequest),
        ("GET", format!("{files}?path="), 400, InvalidRequest),
        ("GET", format!("{files}?path=%"), 400, InvalidRequest),
        ("GET", format!("{files}?path=%00"), 400, InvalidRequest),
        ("GET", format!("{files}?path={}", "x".repeat(4096)), 400, InvalidRequest),
        ("GET", format!("{files}?path=/dev/zero"), 400, InvalidRequest),
        ("GET", format!("{files}?path=x&user=nobody+at+all"), 404, NotFound),
        ("PUT", format!("{files}?path={at}"), 400, InvalidRequest),
        ("PUT", format!("{files}?path={at}/x&mode=9"), 400, InvalidRequest),
        ("PUT", format!("{files}?path={at}/x&user=%ff"), 400, InvalidRequest),
        ("PUT", format!("{files}?path={at}/x&user=nobody+at+all"), 404, NotFound),
        ("DELETE", format!("{files}?path=/"), 400, InvalidRequest),
        ("GET", format!("{files}/stat?path={at}/no"), 404, NotFound),
        ("GET", format!("{files}/list?path={at}/file"), 400, InvalidRequest),
        ("GET", format!("{files}/list?path={at}&depth=0"), 400, InvalidRequest),
        ("GET", format!("{files}/list?path={at}&depth=x"), 400, InvalidRequest),
        ("POST", format!("{files}/dir?path={at}/file/x"), 400, InvalidRequest),
        ("POST", format!("{files}/move?from={at}/no&to={at}/x"), 404, NotFound),
        ("POST", format!("{files}/move?path={at}/file"), 400, InvalidRequest),
        ("GET", format!("{files}/watch?path={at}/no"), 404, NotFound),
        ("GET", format!("{files}/watch?path={at}&recursive=7"), 400, InvalidRequest),
        ("GET", format!("{files}/archive?path={at}/no"), 404, NotFound),
        ("PUT", format!("{files}/archive?path={at}/x"), 400, InvalidRequest),
        ("PUT", format!("{files}/archive?path={at}/file"), 400, InvalidRequest),
        ("GET", "/sandboxes/sb_000000000000/files?path=x".into(), 404, UnknownSandbox),
        ("PUT", "/sandboxes/sb_000000000000/files?path=x".into(), 404, UnknownSandbox),
        ("GET", "/sandboxes/x/files/list?path=x".into(), 404, UnknownSandbox),
    ];
    for (method, path, status, code) in cases {
        let answer = api.raw(method, &path, &"not a tar archive".repeat(99)).await;
        assert_eq!((answer.status, answer.error().code), (status, code), "{method} {path:.90}");
    }
    // The directory an archive goes into is made before the archive is read.
    fs::remove_dir(dir.join("x")).unwrap();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    api.stop().await;
}

#[tokio::test]
async fn upload_that_breaks_off_leaves_the_old_file() {
    let api = Api::start().await;
    let (id, dir) = sandbox(&api).await;
    fs::write(dir.join("file"), "old").unwrap();
    let pieces = [Ok("half of the n".into()), Err(std::io::Error::other("unplugged"))];
    let upload = Upload::new(stream::iter(pieces));
    let outcome = api.client.file_write(&id, &dir.join("file"), upload, &plain()).await;
    assert!(matches!(outcome, Err(ClientError::Broken { .. })), "{outcome:?}");
    // Fewer bytes than were announced.
    let line = format!("PUT /sandboxes/{id}/files?path={}/file", dir.display());
    let head = format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nhalf");
    let mut stream = tokio::net::TcpStream::connect(&api.authority).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
    wait::until(async || fs::read_dir(&dir).unwrap().count() == 2).await;
    drop(stream);
    wait::until(async || fs::read_dir(&dir).unwrap().count() == 1).await;
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"old");
    api.stop().await;
}

#[tokio::test]
async fn upload_that_is_refused_early_is_told_why() {
    let api = Api::start().await;
    let (id, dir) = sandbox(&api).await;
    let pieces = (0..320).map(|_| Ok(vec![b'x'; 100_000].into()));
    let upload = Upload::new(stream::iter(pieces.collect::<Vec<_>>()));
    let outcome = api.client.file_write(&id, &dir, upload, &plain()).await;
    let (status, body) = refusal(outcome);
    assert_eq!((status, body.code), (400, ErrorCode::InvalidRequest));
    let pieces = (0..320).map(|_| Ok(vec![b'x'; 100_000].into()));
    let upload = Upload::new(stream::iter(pieces.collect::<Vec<_>>()));
    let nobody = "sb_000000000000";
    let outcome = api.client.file_write(nobody, &dir.join("x"), upload, &plain()).await;
    assert_eq!(refusal(outcome).1.code, ErrorCode::UnknownSandbox);
    // Who asks first whether to send is told without sending.
    let line = format!("PUT /sandboxes/{nobody}/files?path=x");
    let held_back = ["Expect: 100-continue", "Content-Length: 99"];
    let answer = request(&api, &line, &held_back, b"").await;
    assert_eq!((answer.status, answer.error().code), (404, ErrorCode::UnknownSandbox));
    let line = format!("PUT /sandboxes/{id}/files?path={}/x", dir.display());
    let answer = request(&api, &line, &["Content-Length: 17179869185"], b"").await;
    assert_eq!((answer.status, answer.error().code), (413, ErrorCode::BodyTooLarge));
    api.stop().await;
}

#[tokio::test]
async fn changes_are_told_until_the_end() {
    let api = Api::start().await;
    let (id, dir) = sandbox(&api).await;
    let mut watch = api.client.file_watch(&id, &dir, true, &plain()).await.unwrap();
    fs::create_dir(dir.join("new")).unwrap();
    let change = watch.next().await.unwrap().unwrap();
    assert_eq!((change.change, change.path), (ChangeKind::Created, GuestPath(dir.join("new"))));
    let file = dir.join("new/file");
    api.client.file_write(&id, &file, Upload::bytes("x"), &plain()).await.unwrap();
    let change = watch.next().await.unwrap().unwrap();
    assert_eq!((change.change, change.path), (ChangeKind::Created, GuestPath(file)));
    api.client.delete(&id).await.unwrap();
    let ended = loop {
        match watch.next().await {
            // What a deleted sandbox's directory tells of its own end.
            Ok(Some(_)) => {}
            ended => break ended,
        }
    };
    let Err(WatchError::Ended(body)) = ended else { panic!("{ended:?}") };
    assert_eq!(body.code, ErrorCode::SandboxGone);
    let (other, _) = sandbox(&api).await;
    let mut watch = api.client.file_watch(&other, Path::new("/"), false, &plain()).await.unwrap();
    api.sandboxes.close();
    assert_eq!(watch.next().await.unwrap(), None);
    api.stop().await;
}

#[tokio::test]
async fn full_disk() {
    let api = Api::start().await;
    let (id, dir) = sandbox(&api).await;
    let script = format!("mount -t tmpfs -o size=1m none {}", dir.display());
    let mounted = std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
    if mounted.success() {
        let pieces = (0..80).map(|_| Ok(vec![b'x'; 100_000].into()));
        let upload = Upload::new(stream::iter(pieces.collect::<Vec<_>>()));
        let outcome = api.client.file_write(&id, &dir.join("file"), upload, &plain()).await;
        let left = fs::read_dir(&dir).unwrap().count();
        let unmounted = std::process::Command::new("umount").arg(&dir).status().unwrap();
        assert!(unmounted.success());
        let (status, body) = refusal(outcome);
        assert_eq!((status, body.code, left), (507, ErrorCode::NoSpace, 0));
        assert!(body.hint.unwrap().contains("--guest-ram-mib"));
    } else {
        emberd_testing::skip("cannot mount a small file system");
    }
    api.stop().await;
}
