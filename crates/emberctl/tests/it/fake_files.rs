//! The files of the fake daemon's sandboxes, which are the host's own.

use std::io::{BufRead, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{ffi::OsString, fs, io::Write as _};

use emberd_api::{FileEntry, FileType, GuestPath};
use serde_json::{Value, json};

/// Reads headers and the body that follows, whether its length is known or not.
pub fn body(reader: &mut impl BufRead) -> Vec<u8> {
    let (mut length, mut chunked) = (0, false);
    loop {
        let line = line(reader);
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        chunked |= line.starts_with("transfer-encoding:");
    }
    let mut body = Vec::new();
    loop {
        if chunked {
            length = usize::from_str_radix(&line(reader), 16).unwrap();
        }
        reader.take(length as u64).read_to_end(&mut body).unwrap();
        if chunked {
            line(reader);
        }
        if !chunked || length == 0 {
            return body;
        }
    }
}

fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line.trim().to_lowercase()
}

/// The whole answer to a request.
pub fn answer(method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    let (route, query) = target.split_once('?').unwrap();
    let value = |name: &str| {
        let parts = query.split('&').filter_map(|part| part.split_once('='));
        let found = parts.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| PathBuf::from(OsString::from_vec(decoded(value))))
    };
    let path = value("path").or_else(|| value("from")).unwrap();
    let route = route.split("/files").nth(1).unwrap();
    let done = match (method, route) {
        ("GET", "/stat") => Ok(stat(&path)),
        ("GET", "/list") => {
            let entries = fs::read_dir(&path).unwrap();
            let entries: Vec<_> = entries.map(|entry| stat(&entry.unwrap().path())).collect();
            Ok(json!({"entries": entries, "cut": false}))
        }
        ("POST", "/dir") => fs::create_dir_all(&path).map(|()| stat(&path)),
        ("POST", "/move") => {
            let to = value("to").unwrap();
            fs::rename(&path, &to).map(|()| stat(&to))
        }
        ("PUT", "") => fs::write(&path, body).map(|()| stat(&path)),
        ("DELETE", "") => {
            fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).map(|()| Value::Null)
        }
        ("PUT", "/archive") => {
            fs::create_dir_all(&path).unwrap();
            tar(&["-x", "-C", path.to_str().unwrap()], body);
            Ok(Value::Null)
        }
        ("GET", "/archive") => {
            return whole(200, &tar(&["-c", "-C", path.to_str().unwrap(), "."], b""));
        }
        ("GET", "") => return whole(200, &fs::read(&path).unwrap()),
        ("GET", "/watch") => {
            let change = json!({"change": "created", "path": path});
            let events =
                format!("event: watching\ndata: {{}}\n\n:\n\nevent: change\ndata: {change}\n\n");
            return whole(200, events.as_bytes());
        }
        _ => panic!("no such route: {method} {route}"),
    };
    match done {
        Ok(Value::Null) if !path.exists() && method == "GET" => {
            let error = json!({"error": "no such file", "code": "not_found"});
            whole(404, error.to_string().as_bytes())
        }
        Ok(Value::Null) => whole(200, b""),
        Ok(answer) => whole(200, answer.to_string().as_bytes()),
        Err(error) => whole(
            404,
            json!({"error": error.to_string(), "code": "not_found"}).to_string().as_bytes(),
        ),
    }
}

fn whole(status: u16, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} -\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// What is at a path; null where nothing is.
fn stat(path: &Path) -> Value {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Value::Null };
    let file_type = if metadata.is_dir() { FileType::Directory } else { FileType::File };
    // A sandbox may say that a file is called anything.
    let lies = path.file_name().is_some_and(|name| name == "liar");
    let called = if lies { path.with_file_name(".bashrc") } else { path.to_owned() };
    let entry = FileEntry {
        path: GuestPath(called),
        file_type,
        size: metadata.size(),
        mode: metadata.mode() & 0o7777,
        uid: 0,
        gid: 0,
        owner: None,
        group: None,
        modified_ms: 0,
        target: None,
        target_type: None,
    };
    serde_json::to_value(entry).unwrap()
}

fn decoded(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    bytes
}

fn tar(args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut tar = Command::new("tar");
    let mut tar = tar.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    tar.stdin.take().unwrap().write_all(input).unwrap();
    tar.wait_with_output().unwrap().stdout
}
