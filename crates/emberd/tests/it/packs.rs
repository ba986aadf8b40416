//! Images for the double's guests, whose language packs are the host's own interpreters.

use std::fs;
use std::path::Path;

use emberd_image::{
    DataDir, Digest, KernelSource, PackDefinition, SHELL_CONTEXT, Silent, build_initramfs,
    build_kernel,
};
use serde_json::json;

/// Fills the data directory `dir`. Without Python on the host the pack of that name is a
/// shell: what is tested is how packs are chosen, not Python.
pub fn write(dir: &Path) -> DataDir {
    let data_dir = DataDir::new(dir);
    let program = dir.join("program");
    fs::create_dir_all(dir.join("packs")).unwrap();
    fs::write(&program, program_of("Linux version 6.1.0-none (tests)")).unwrap();
    let source = KernelSource::File { kernel: program.clone(), modules: None, config: None };
    build_kernel(&data_dir, &source, false, &mut Silent).unwrap();
    build_initramfs(&data_dir, &program, false, &mut Silent).unwrap();
    let python = ["/usr/bin/python3", "/usr/local/bin/python3"];
    let python = python.into_iter().find(|path| Path::new(path).exists()).unwrap_or("/bin/sh");
    for (name, interpreter) in [("python", python), ("shell", "/bin/sh")] {
        write_pack(dir, name, interpreter);
    }
    data_dir
}

/// The root image of such a pack is the one file of a real one that the agent reads.
fn write_pack(dir: &Path, name: &str, interpreter: &str) {
    let library = dir.join("context.so");
    fs::write(&library, SHELL_CONTEXT).unwrap();
    let library = library.to_str().unwrap();
    let shell = PackDefinition::built_in(&"shell".parse().unwrap()).unwrap();
    let shell = shell.contexts[0].run.iter();
    let shell: Vec<&str> =
        shell.map(|word| if word == "{program}" { library } else { word }).collect();
    let spec = json!({
        "name": name,
        "run": [interpreter, "{file}"],
        "file_name": "main",
        "contexts": [{"languages": ["shell"], "run": shell}],
    });
    let rootfs = spec.to_string();
    let sha256 = Digest::of(rootfs.as_bytes()).to_string();
    let manifest = json!({
        "key": sha256,
        "name": name,
        "description": format!("the host's {name}"),
        "source": "tests",
        "compression": "none",
        "spec": spec,
        "rootfs": { "kind": "squashfs", "sha256": sha256, "size_bytes": rootfs.len() },
    });
    fs::write(dir.join(format!("blobs/sha256-{sha256}.squashfs")), rootfs).unwrap();
    fs::write(dir.join(format!("packs/{name}.json")), manifest.to_string()).unwrap();
}

/// The least that passes for a 64-bit x86 ELF file, static and without sections.
fn program_of(content: &str) -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 62;
    [&elf, content.as_bytes()].concat()
}
