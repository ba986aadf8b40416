//! Guests of the test double: images whose language packs are this host's own interpreters.
//!
//! With the double, only emberd itself is measured.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use emberd_image::{DataDir, Digest, KernelSource, Silent, build_initramfs, build_kernel};
use emberd_keys::{KeysFile, NewKey, Role, Secret, create};
use serde_json::json;
use tempfile::TempDir;

use super::daemon::{StartError, beside};

/// Path of Python; without it, there is no such pack.
const PYTHONS: [&str; 3] = ["/usr/bin/python3", "/usr/local/bin/python3", "/bin/python3"];

/// The interpreter of a context, which counts its runs and ignores their code. Its descriptor 0
/// is the channel.
const COUNTING: &str = r#"
printf '{"event":"ready"}\n' >&0
count=0
while read -r line; do
    printf '{"event":"started","execution_count":%d}\n' $((count + 1)) >&0
    printf '{"event":"result","data":{"text/plain":"%d"}}\n' $count >&0
    count=$((count + 1))
    printf '{"event":"done","execution_count":%d}\n' $count >&0
done"#;

/// The double and its data directory.
#[derive(Debug)]
pub struct DoubleRoom {
    temp: TempDir,
}

impl DoubleRoom {
    /// Creates both.
    ///
    /// # Errors
    /// [`StartError`], for example if the double or its agent is not built.
    pub fn new() -> Result<Self, StartError> {
        let double = beside("fake-firecracker")?;
        beside("emberd-init")?;
        let temp = tempfile::Builder::new().prefix("bench").tempdir()?;
        write_images(&temp.path().join("data"))?;
        let room = Self { temp };
        // The daemon starts it with no environment, and its guests are programs of this host.
        let double = double.display();
        let script = format!("#!/bin/sh\nexport PATH=/usr/bin:/bin\nexec '{double}' \"$@\"\n");
        fs::write(room.binary(), script)?;
        fs::set_permissions(room.binary(), fs::Permissions::from_mode(0o700))?;
        Ok(room)
    }

    /// Creates an access key in its data directory.
    ///
    /// # Errors
    /// [`StartError::Key`].
    pub fn key(&self) -> Result<Secret, StartError> {
        let name = "bench".parse().expect("letters are the name of a key");
        let file = KeysFile::new(&self.temp.path().join("data"));
        let (_, secret) = create(&file, NewKey::of_role(name, Role::Admin))?;
        Ok(secret)
    }

    fn binary(&self) -> PathBuf {
        self.temp.path().join("firecracker")
    }

    /// Returns the flags that make a daemon use the double.
    pub fn flags(&self) -> Vec<OsString> {
        let words = ["--vmm", "firecracker", "--accel", "kvm", "--jail", "off", "--firecracker"];
        let mut flags: Vec<OsString> = words.map(OsString::from).into();
        flags.push(self.binary().into());
        flags.push("--data-dir".into());
        flags.push(self.temp.path().join("data").into());
        flags
    }
}

fn write_images(dir: &Path) -> Result<(), StartError> {
    let data_dir = DataDir::new(dir);
    let program = dir.join("program");
    fs::create_dir_all(dir.join("packs"))?;
    fs::write(&program, program_of("Linux version 6.1.0-none (bench)"))?;
    let source = KernelSource::File { kernel: program.clone(), modules: None, config: None };
    build_kernel(&data_dir, &source, false, &mut Silent)?;
    build_initramfs(&data_dir, &program, false, &mut Silent)?;
    let python = PYTHONS.into_iter().find(|path| PathBuf::from(path).exists());
    let packs = [("python", python, "main.py"), ("shell", Some("/bin/sh"), "main.sh")];
    for (name, interpreter, file_name) in packs {
        if let Some(interpreter) = interpreter {
            write_pack(dir, name, interpreter, file_name)?;
        }
    }
    Ok(())
}

/// Writes the root image of such a pack: only the file that the agent reads.
fn write_pack(
    dir: &Path,
    name: &str,
    interpreter: &str,
    file_name: &str,
) -> Result<(), StartError> {
    let spec = json!({
        "name": name,
        "run": [interpreter, "{file}"],
        "file_name": file_name,
        "contexts": [{ "languages": [name], "run": ["/bin/sh", "-c", COUNTING] }],
    });
    let rootfs = spec.to_string();
    let sha256 = Digest::of(rootfs.as_bytes()).to_string();
    let manifest = json!({
        "key": sha256,
        "name": name,
        "description": format!("the host's {name}"),
        "source": "bench",
        "compression": "none",
        "spec": spec,
        "rootfs": { "kind": "squashfs", "sha256": sha256, "size_bytes": rootfs.len() },
    });
    fs::write(dir.join(format!("blobs/sha256-{sha256}.squashfs")), rootfs)?;
    fs::write(dir.join(format!("packs/{name}.json")), manifest.to_string())?;
    Ok(())
}

/// Returns a minimal valid 64-bit x86 ELF file, static and without sections.
fn program_of(content: &str) -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 62;
    [&elf, content.as_bytes()].concat()
}
