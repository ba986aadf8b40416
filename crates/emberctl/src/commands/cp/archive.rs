//! A directory of this host as a tar stream, and back. What comes out of a sandbox is hostile:
//! it cannot reach outside of the directory it is unpacked into, and brings no devices, no
//! owners and no set-user-id bits.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use tar::{Archive, Builder, EntryType, Header};

/// Writes what is in `directory`. Sockets, FIFOs and devices are left out.
pub fn pack(directory: &Path, to: &mut impl Write) -> io::Result<()> {
    let mut archive = Builder::new(to);
    archive.follow_symlinks(false);
    let mut left = vec![directory.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path.strip_prefix(directory).map_err(io::Error::other)?;
            let metadata = fs::symlink_metadata(&path)?;
            if metadata.is_dir() {
                archive.append_dir(name, &path)?;
                left.push(path);
            } else if metadata.is_symlink() {
                let mut header = Header::new_gnu();
                header.set_metadata(&metadata);
                header.set_size(0);
                archive.append_link(&mut header, name, fs::read_link(&path)?)?;
            } else if metadata.is_file() {
                archive.append_path_with_name(&path, name)?;
            }
        }
    }
    archive.into_inner()?.flush()
}

/// Unpacks into `directory`.
pub fn unpack(from: &mut impl Read, directory: &Path) -> io::Result<()> {
    let mut archive = Archive::new(&mut *from);
    for entry in archive.entries()? {
        use EntryType::{Continuous, Directory, GNUSparse, Link, Regular, Symlink};
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if matches!(kind, Regular | Continuous | GNUSparse | Directory | Symlink | Link)
            && !entry.unpack_in(directory)?
        {
            return Err(io::Error::other("the archive has a path with `..`"));
        }
    }
    io::copy(from, &mut io::sink())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

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
    fn sandbox_cannot_write_outside() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        let mut archive = Builder::new(Vec::new());
        let mut link = Header::new_gnu();
        link.set_entry_type(EntryType::Symlink);
        link.set_size(0);
        archive.append_link(&mut link, "out", "..").unwrap();
        let mut file = Header::new_gnu();
        file.set_size(3);
        archive.append_data(&mut file, "out/file", &b"bad"[..]).unwrap();
        let archive = archive.into_inner().unwrap();
        unpack(&mut archive.as_slice(), &to).unwrap_err();
        assert!(!dir.path().join("file").exists());
    }
}
