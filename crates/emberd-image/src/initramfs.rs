//! The initramfs: an uncompressed newc cpio whose bytes depend on its content alone.
//!
//! ```text
//! /init                  the agent
//! /modules/load          file names, one a line, in load order
//! /modules/NN-name.ko    the kernel's modules
//! /dev/console /dev/null what PID 1 has as stdio before it mounts anything
//! /proc /sys /dev /run /tmp /lower /disk /shared /newroot
//! ```

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use cpio::newc::{Builder, ModeFileType, trailer};

use crate::artifact::{BlobError, BlobKind, Digest, InitramfsManifest, KernelManifest};
use crate::build::{Build, BuildError, Installed, Outcome};
use crate::data_dir::DataDir;
use crate::elf::Elf;
use crate::known::Known;
use crate::load::{self, Artifact, LoadError};
use crate::modules::Module;
use crate::pack::Profiles;
use crate::progress::Progress;
use crate::store::{Store, StoreError, write_synced};

/// Devices, with permissions, major and minor number. A kernel without a console gives PID 1 no
/// stdio, so Rust's start-up opens `/dev/null`. PID 1 ends if that is missing.
const DEVICES: [(&str, u32, u32, u32); 2] =
    [("dev/console", 0o600, 5, 1), ("dev/null", 0o666, 1, 3)];

const DIRECTORIES: [&str; 10] =
    ["dev", "disk", "lower", "modules", "newroot", "proc", "run", "shared", "sys", "tmp"];

/// Packs the agent and the kernel's modules into the initramfs of `data_dir`.
///
/// # Errors
/// [`BuildError`], for example if no kernel was built yet, because the initramfs contains its
/// modules.
pub fn build_initramfs(
    data_dir: &DataDir,
    agent: &Path,
    force: bool,
    progress: &mut dyn Progress,
) -> Result<Build, BuildError> {
    let store = Store::lock(data_dir, progress)?;
    let agent = read_agent(agent)?;
    let kernel: KernelManifest =
        load::verified(data_dir, Artifact::Kernel, &mut Known::read(data_dir.known()))?;
    let modules = kernel.modules_digest();
    let key = Digest::of_parts(&[b"initramfs", &agent, modules.as_bytes()]);
    let path = Artifact::Initramfs.manifest(data_dir);
    if let Some(manifest) = store.current::<InitramfsManifest>(&path, key).filter(|_| !force) {
        let installed = manifest.installed(data_dir);
        return Ok(Build { installed, outcome: Outcome::UpToDate });
    }
    progress.stage("packing the initramfs");
    let image = cpio(&agent, &read_modules(data_dir, &kernel)?);
    let image = store.publish_bytes(&image, BlobKind::Cpio)?;
    let manifest = InitramfsManifest { key, modules, image };
    store.write_manifest(&path, &manifest)?;
    Ok(Build { installed: manifest.installed(data_dir), outcome: Outcome::Built })
}

/// Packs the agent, and the modules of the kernel in `data_dir` if there is one, into a separate
/// file outside any data directory.
///
/// # Errors
/// [`BuildError`].
pub fn write_initramfs(
    data_dir: &DataDir,
    agent: &Path,
    out: &Path,
) -> Result<Installed, BuildError> {
    let agent = read_agent(agent)?;
    let kernel = load::manifest::<KernelManifest>(data_dir, &Artifact::Kernel)?;
    let modules = match &kernel {
        Some(kernel) => read_modules(data_dir, kernel)?,
        None => Vec::new(),
    };
    let image = cpio(&agent, &modules);
    write_synced(out, &image).map_err(StoreError::at(out))?;
    Ok(Installed {
        artifact: Artifact::Initramfs,
        summary: format!("the agent and {} kernel modules", modules.len()),
        path: out.to_owned(),
        sha256: Digest::of(&image),
        size_bytes: image.len() as u64,
        profiles: Profiles::new(),
    })
}

fn read_agent(path: &Path) -> Result<Vec<u8>, BuildError> {
    let failed = |source| BuildError::Read { path: path.to_owned(), source };
    let agent = fs::read(path).map_err(failed)?;
    let runs_alone = Elf::parse(&agent).is_some_and(Elf::is_static);
    if runs_alone { Ok(agent) } else { Err(BuildError::Agent(path.to_owned())) }
}

fn read_modules(data_dir: &DataDir, kernel: &KernelManifest) -> Result<Vec<Module>, LoadError> {
    let read = kernel.modules.iter().map(|module| {
        let path = module.blob.path(data_dir);
        let content = fs::read(&path).map_err(|source| LoadError::Damaged {
            artifact: Artifact::Kernel,
            path,
            source: BlobError::Read(source),
        })?;
        Ok(Module { name: module.name.clone(), content })
    });
    read.collect()
}

/// Returns the archive, with entries sorted by name.
fn cpio(agent: &[u8], modules: &[Module]) -> Vec<u8> {
    let mut archive = Archive::default();
    let names: Vec<_> = modules.iter().enumerate().map(|(at, m)| file_name(at, &m.name)).collect();
    for directory in DIRECTORIES {
        archive.add(directory, ModeFileType::Directory, 0o755, &[]);
        if directory == "dev" {
            for (name, permissions, major, minor) in DEVICES {
                archive.add_device(name, permissions, major, minor);
            }
        }
        if directory == "modules" {
            let load = names.iter().flat_map(|name| [name.as_str(), "\n"]).collect::<String>();
            for (name, module) in names.iter().zip(modules) {
                let path = format!("modules/{name}");
                archive.add(&path, ModeFileType::Regular, 0o644, &module.content);
            }
            archive.add("modules/load", ModeFileType::Regular, 0o644, load.as_bytes());
        }
    }
    archive.add("init", ModeFileType::Regular, 0o755, agent);
    archive.finish()
}

fn file_name(at: usize, module: &str) -> String {
    format!("{at:02}-{module}.ko")
}

/// An archive in memory. Writing to memory cannot fail.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, kind: ModeFileType, permissions: u32, content: &[u8]) {
        let links = if matches!(kind, ModeFileType::Directory) { 2 } else { 1 };
        let header = self.header(name, permissions).nlink(links).set_mode_file_type(kind);
        self.write(header, content);
    }

    fn add_device(&mut self, name: &str, permissions: u32, major: u32, minor: u32) {
        let header = self.header(name, permissions).rdev_major(major).rdev_minor(minor);
        self.write(header.set_mode_file_type(ModeFileType::Char), &[]);
    }

    fn header(&mut self, name: &str, permissions: u32) -> Builder {
        self.entries += 1;
        Builder::new(name).ino(self.entries).mode(permissions)
    }

    fn write(&mut self, header: Builder, content: &[u8]) {
        let size = u32::try_from(content.len()).expect("agent and modules are below 4 GiB");
        let mut entry = header.write(&mut self.bytes, size);
        entry.write_all(content).and_then(|()| entry.finish().map(drop)).expect("memory");
    }

    fn finish(self) -> Vec<u8> {
        let bytes: io::Result<Vec<u8>> = trailer(self.bytes);
        bytes.expect("memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str) -> Module {
        Module { name: name.to_owned(), content: format!("content of {name}").into() }
    }

    /// Returns names, modes and contents of an archive's entries.
    fn entries(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut rest = archive;
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return entries;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            assert_eq!(reader.entry().mtime(), 0, "{name}");
            let mut content = Vec::new();
            io::Read::read_to_end(&mut reader, &mut content).unwrap();
            entries.push((name, mode, content));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn init_finds_the_modules_in_load_order() {
        let archive = cpio(b"agent", &[module("virtio_ring"), module("virtio")]);
        let entries = entries(&archive);
        let find = |name: &str| entries.iter().find(|entry| entry.0 == name).unwrap();
        assert_eq!((find("init").1, find("init").2.as_slice()), (0o100_755, &b"agent"[..]));
        assert_eq!(find("modules/load").2, b"00-virtio_ring.ko\n01-virtio.ko\n");
        assert_eq!(find("modules/01-virtio.ko").2, b"content of virtio");
        assert_eq!(find("dev/console").1, 0o020_600);
        assert_eq!(find("dev/null").1, 0o020_666);
        for directory in ["proc", "sys", "dev", "lower", "disk", "shared", "newroot"] {
            assert_eq!(find(directory).1, 0o040_755, "{directory}");
        }
    }

    #[test]
    fn golden_bytes() {
        let archive = cpio(b"hi", &[]);
        let dev = b"07070100000001000041ED000000000000000000000002000000000000000000000000\
            0000000000000000000000000000000400000000dev\0\0\0";
        assert_eq!(archive[..dev.len()].to_ascii_uppercase(), dev.to_ascii_uppercase());
        assert_eq!(cpio(b"hi", &[]), archive);
        assert_ne!(cpio(b"ho", &[]), archive);
    }

    #[test]
    fn a_directory_precedes_what_is_in_it() {
        let archive = cpio(b"agent", &[module("virtio")]);
        let entries = entries(&archive);
        for (at, (name, ..)) in entries.iter().enumerate() {
            if let Some((parent, _)) = name.rsplit_once('/') {
                assert!(entries[..at].iter().any(|(above, ..)| above == parent), "{name}");
            }
        }
    }

    #[test]
    fn an_agent_that_needs_libraries_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        assert!(matches!(read_agent(&path), Err(BuildError::Agent(_))));
        assert!(matches!(read_agent(dir.path()), Err(BuildError::Read { .. })));
    }
}
