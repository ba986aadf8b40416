//! A directory for microVMs, and what the host shows of their processes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use emberd_vmm::firecracker::{Firecracker, FirecrackerConfig};
use emberd_vmm::{BootSpec, CgroupChoice, JailChoice};
use fake_firecracker::Double;

/// A temporary run directory with a pack and a double of Firecracker in it.
pub struct World {
    pub double: Double,
    dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pack = r#"{"name":"shell","run":["/bin/sh","{file}"],"file_name":"main.sh"}"#;
        std::fs::write(dir.path().join("pack.json"), pack).unwrap();
        Self { double: Double::new(dir.path()), dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn spec(&self, name: &str) -> BootSpec {
        BootSpec {
            dir: self.path().join(name),
            kernel: self.double.kernel(),
            kernel_hz: Some(250),
            initramfs: self.double.initramfs(),
            rootfs: self.path().join("pack.json"),
            disk: None,
            kernel_args: Vec::new(),
            vcpu_count: 1,
            mem_size_mib: 128,
            for_template: false,
        }
    }

    /// The driver over the double, whose VMMs run `script` before they are any.
    pub fn firecracker(&self, script: &str) -> Firecracker {
        self.double.first(script);
        let binary = Some(self.double.binary());
        let mut config = FirecrackerConfig { binary, ..FirecrackerConfig::default() };
        config.jail.choice = JailChoice::Off;
        config.cgroups.choice = CgroupChoice::Off;
        Firecracker::find(config).unwrap()
    }

    /// A program that does what `script` says, whatever its arguments.
    pub fn program(&self, script: &str) -> PathBuf {
        let path = self.path().join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// The microVM directories there are.
    pub fn vm_dirs(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).unwrap().map(Result::unwrap);
        entries
            .filter(|entry| entry.file_type().unwrap().is_dir())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }
}

/// Whether a process of this id exists, even as a zombie.
pub fn process_exists(process_id: u32) -> bool {
    Path::new(&format!("/proc/{process_id}")).exists()
}
