//! Language packs for fake microVMs: the host's own interpreters.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use emberd_image::{Digest, Images, KernelImage, PackImage};

/// Writes one pack file per language into `dir`. Without Python on the host the pack of
/// that name is a shell: what is tested is how packs are chosen, not Python.
pub fn write(dir: &Path) {
    let python = ["/usr/bin/python3", "/usr/local/bin/python3"];
    let python = python.into_iter().find(|path| Path::new(path).exists()).unwrap_or("/bin/sh");
    for (name, interpreter) in [("python", python), ("shell", "/bin/sh")] {
        let pack =
            format!(r#"{{"name":"{name}","run":["{interpreter}","{{file}}"],"file_name":"main"}}"#);
        fs::write(dir.join(format!("{name}.json")), pack).unwrap();
    }
}

/// The packs in `dir` as images.
pub fn images(dir: &Path) -> Images {
    let packs = ["python", "shell"].map(|name| {
        let rootfs = dir.join(format!("{name}.json"));
        let description = format!("the host's {name}");
        let image = PackImage { rootfs, sha256: Digest::of(b""), description };
        (name.parse().unwrap(), image)
    });
    let kernel = KernelImage { path: PathBuf::new(), release: "none".to_owned(), hz: None };
    Images { kernel, initramfs: PathBuf::new(), packs: BTreeMap::from(packs) }
}
