//! Operations on files.

use std::fs;
use std::path::Path;

use emberd_proto::frame::BULK_BYTES_MAX;
use emberd_proto::{
    FileEntry, FileOp, FileRequest, GuestMessage, GuestPath, HostMessage, Kind, RefusalCode,
};
use nix::unistd::geteuid;

use crate::guest::{Guest, Host};

mod archives;
mod content;
mod faults;
mod trees;
mod watches;

/// Asks for `op`, for whom the agent runs as.
pub fn ask(host: &mut Host, op: FileOp) {
    host.send(&HostMessage::File(FileRequest { user: None, op }));
}

/// Asks for `op` and returns the entry it is answered with.
pub fn entry(host: &mut Host, op: FileOp) -> FileEntry {
    ask(host, op);
    expect_entry(host)
}

pub fn expect_entry(host: &mut Host) -> FileEntry {
    match host.answer() {
        GuestMessage::File(entry) => entry,
        other => panic!("expected an entry, got {other:?}"),
    }
}

/// Asks for `op` and returns the kind of refusal, after which the connection must be idle.
pub fn refused(host: &mut Host, op: FileOp) -> RefusalCode {
    ask(host, op);
    let code = host.refusal().code;
    host.ping();
    code
}

/// What comes until the end of the data.
pub fn data(host: &mut Host) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let frame = host.frame().expect("connection is open");
        match frame.kind {
            Kind::Data => bytes.extend_from_slice(&frame.payload),
            Kind::DataEnd => return bytes,
            kind => panic!("expected data, got {kind:?}: {:?}", frame.message::<GuestMessage>()),
        }
    }
}

/// Sends `bytes` as data, with its end.
pub fn send_data(host: &mut Host, bytes: &[u8]) {
    for piece in bytes.chunks(BULK_BYTES_MAX) {
        host.send_frame(Kind::Data, piece);
    }
    host.send_frame(Kind::DataEnd, b"");
}

/// Reads all of a file.
pub fn read(host: &mut Host, path: &Path) -> (FileEntry, Vec<u8>) {
    let entry = entry(host, FileOp::Read { path: path.into(), offset: 0, length: None });
    (entry, data(host))
}

/// Writes a file.
pub fn write(host: &mut Host, path: &Path, bytes: &[u8]) -> FileEntry {
    ask(host, FileOp::Write { path: path.into(), mode: None });
    send_data(host, bytes);
    expect_entry(host)
}

/// Whether the tests may change owners and mount file systems; a skip if not.
pub fn is_root() -> bool {
    emberd_testing::needs(geteuid().is_root(), "only root may do what it does")
}

/// The names in a directory of the host, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries.map(|entry| name(entry).into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn operations_follow_each_other_on_one_connection() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let path = guest.dir().join("a");
    assert_eq!(write(&mut host, &path, b"one").size, 3);
    assert_eq!(read(&mut host, &path).1, b"one");
    assert_eq!(refused(&mut host, FileOp::Stat { path: "nowhere".into() }), RefusalCode::NotFound);
    let outcome = host.exec(&emberd_proto::ExecSpec::new("cat a"), b"");
    assert_eq!(outcome.text(), "one");
    ask(&mut host, FileOp::Remove { path: GuestPath::from("a") });
    assert_eq!(host.answer(), GuestMessage::Done);
    assert!(!path.exists());
}
