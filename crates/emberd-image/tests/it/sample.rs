//! Small inputs: a kernel, an agent, root file systems, tar archives.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use emberd_image::{
    Build, BuildError, DataDir, KernelSource, PackOptions, RootPack, Silent, build_initramfs,
    build_kernel, build_pack_from_rootfs, pack,
};
use tempfile::TempDir;

/// A place with a data directory and room for inputs.
pub struct Place {
    pub dir: TempDir,
    pub data_dir: DataDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::new(dir.path().join("data"));
        Self { dir, data_dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Builds a kernel of `release` that has everything built in.
    pub fn kernel(&self, release: &str) -> Result<Build, BuildError> {
        let banner = format!("Linux version {release} (builder)");
        let kernel = self.write("vmlinux", &elf(banner.as_bytes()));
        let source = KernelSource::File { kernel, modules: None, config: None };
        build_kernel(&self.data_dir, &source, false, &mut Silent)
    }

    pub fn initramfs(&self) -> Result<Build, BuildError> {
        let agent = self.write("agent", &elf(b"the agent"));
        build_initramfs(&self.data_dir, &agent, false, &mut Silent)
    }

    /// Builds a pack called `name` from the root file system at `root`.
    pub fn pack(&self, name: &str, root: &Path) -> Result<Build, BuildError> {
        self.pack_with(name, root, &PackOptions::default())
    }

    pub fn pack_with(
        &self,
        name: &str,
        root: &Path,
        options: &PackOptions,
    ) -> Result<Build, BuildError> {
        let env = [("LANG".to_owned(), "C.UTF-8".to_owned())].into();
        self.pack_in(name, root, options, env)
    }

    /// As [`Self::pack_with`], with the environment `env`.
    pub fn pack_in(
        &self,
        name: &str,
        root: &Path,
        options: &PackOptions,
        env: BTreeMap<String, String>,
    ) -> Result<Build, BuildError> {
        let pack = RootPack {
            name: name.parse().unwrap(),
            description: "a sample".to_owned(),
            root: root.to_owned(),
            run: pack::run_words("/bin/lua"),
            file_name: "main.lua".to_owned(),
            env,
        };
        build_pack_from_rootfs(&self.data_dir, &pack, options, &mut Silent)
    }

    /// A small root file system as a directory.
    pub fn root(&self) -> PathBuf {
        let root = self.path("root");
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("usr/bin/lua"), "not really Lua\n".repeat(100)).unwrap();
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        fs::hard_link(root.join("usr/bin/lua"), root.join("usr/bin/lua5")).unwrap();
        root
    }
}

/// The least that passes for a 64-bit x86 ELF file, static and without sections.
pub fn elf(content: &[u8]) -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 62;
    [&elf, content].concat()
}

/// One tar entry; `kind` and `link` as in tar(5).
pub fn entry(path: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, path);
    put(100, "0000755\x000000000\x000000000\x00");
    put(124, &format!("{:011o}\x00{:011o}\x00        ", content.len(), 1_600_000_000));
    put(156, str::from_utf8(&[kind]).unwrap());
    put(157, link);
    put(257, "ustar\x0000");
    put(329, "0000010\x000000000\x00");
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\x00 ").as_bytes());
    let mut bytes = [&header[..], content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// An archive of these entries.
pub fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [&entries.concat()[..], &[0; 1024]].concat()
}

/// Standard output of `unsquashfs` with these arguments.
pub fn unsquashfs(arguments: &[&str], image: &Path, files: &[&str]) -> String {
    let output =
        Command::new("unsquashfs").args(arguments).arg(image).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The line of a listing that ends with this path.
pub fn listed<'a>(listing: &'a str, path: &str) -> Option<&'a str> {
    let end = format!(" squashfs-root{path}");
    listing.lines().find(|line| line.ends_with(&end) || line.contains(&format!("{end} -> ")))
}
