//! A directory of this host as a tar stream, and back. What comes out of a sandbox is hostile:
//! it cannot reach outside of the directory it is unpacked into, and brings no devices, no FIFOs,
//! no owners and no set-user-id bits.

use std::io::{self, Read, Write};
use std::path::Path;

use emberd_tar::{PackOptions, TarError, UnpackOptions};

/// Writes what is in `directory`, and its own mode and time. Sockets and devices are left out.
pub fn pack(directory: &Path, to: &mut impl Write) -> io::Result<()> {
    let options = PackOptions { depth_max: None, fifos: true, itself: true, left_out: |_| false };
    emberd_tar::pack_directory(directory, options, to).map_err(as_io)?;
    Ok(())
}

/// Unpacks into `directory`.
pub fn unpack(from: &mut impl Read, directory: &Path) -> io::Result<()> {
    emberd_tar::unpack(from, directory, UnpackOptions::default()).map_err(as_io)
}

fn as_io(error: TarError) -> io::Error {
    match error {
        // The reader of the stream reports why it ended.
        TarError::Stream(error) => error,
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::time::{Duration, SystemTime};

    use emberd_tar::{Entry, Kind, Time, Writer};

    use super::*;

    #[test]
    fn directory_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("from/a/b")).unwrap();
        fs::write(at("from/a/b/file"), "content").unwrap();
        fs::set_permissions(at("from/a/b/file"), fs::Permissions::from_mode(0o4750)).unwrap();
        symlink("/nowhere", at("from/link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("from/socket")).unwrap();
        let mut packed = Vec::new();
        pack(&at("from"), &mut packed).unwrap();
        fs::create_dir(at("to")).unwrap();
        unpack(&mut packed.as_slice(), &at("to")).unwrap();
        assert_eq!(fs::read(at("to/a/b/file")).unwrap(), b"content");
        let mode = fs::metadata(at("to/a/b/file")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o750);
        assert_eq!(fs::read_link(at("to/link")).unwrap(), Path::new("/nowhere"));
        assert!(!at("to/socket").exists());
    }

    #[test]
    fn read_only_directories_and_times_come_along() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("from/a/b")).unwrap();
        fs::write(at("from/a/b/file"), "content").unwrap();
        fs::hard_link(at("from/a/b/file"), at("from/a/b/second")).unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::new(981_173_106, 5_000_000);
        for name in ["from/a/b", "from/a"] {
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o555)).unwrap();
            fs::File::open(at(name)).unwrap().set_modified(then).unwrap();
        }
        let mut packed = Vec::new();
        pack(&at("from"), &mut packed).unwrap();
        fs::create_dir(at("to")).unwrap();
        for _ in 0..2 {
            unpack(&mut packed.as_slice(), &at("to")).unwrap();
            for name in ["to/a/b", "to/a"] {
                let made = fs::metadata(at(name)).unwrap();
                assert_eq!(made.permissions().mode() & 0o7777, 0o555, "{name}");
                assert_eq!(made.modified().unwrap(), then, "{name}");
            }
            assert_eq!(fs::metadata(at("to/a/b/second")).unwrap().nlink(), 2);
        }
        for name in ["from/a", "from/a/b", "to/a", "to/a/b"] {
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn sandbox_cannot_write_outside() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        let mut archive = Writer::new(Vec::new());
        let entry = |name: &str, kind, size| Entry {
            name: name.into(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: Time::default(),
            size,
            segments: None,
        };
        archive.append(&entry("out", Kind::Symlink(b"..".to_vec()), 0), io::empty()).unwrap();
        archive.append(&entry("out/file", Kind::File, 3), &b"bad"[..]).unwrap();
        let archive = archive.finish().unwrap();
        unpack(&mut archive.as_slice(), &to).unwrap_err();
        assert!(!dir.path().join("file").exists());
    }
}
