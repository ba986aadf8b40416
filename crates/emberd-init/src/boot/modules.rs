//! Loads the kernel modules of the initramfs, in the order of its list.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::console;

/// Directory of the modules, plain decompressed `.ko` files.
pub const MODULES_DIR: &str = "/modules";

/// File in [`MODULES_DIR`] with one module name a line, each after the modules it depends on.
const LOAD_LIST: &str = "load";

/// A module that was not loaded.
#[derive(Debug, thiserror::Error)]
#[error("cannot load module {name}")]
struct ModuleError {
    name: String,
    source: io::Error,
}

/// Loads every module in the list. Without a list, there is nothing to load.
///
/// A module that fails is reported and skipped. If the root device or the channel needed it, the
/// later step fails with a more useful error.
pub fn load_modules() {
    let dir = Path::new(MODULES_DIR);
    let Ok(list) = fs::read_to_string(dir.join(LOAD_LIST)) else { return };
    for name in names(&list) {
        if let Err(source) = load(&dir.join(name)) {
            console::report(&ModuleError { name: name.to_owned(), source });
        }
    }
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines().map(str::trim).filter(|name| !name.is_empty() && !name.contains('/'))
}

fn load(path: &Path) -> io::Result<()> {
    const NO_PARAMETERS: &CStr = c"";
    match finit_module(File::open(path)?, NO_PARAMETERS, ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_order_is_kept_and_paths_are_not_followed() {
        let list = "01-virtio.ko\n\n  02-virtio_ring.ko \n../init\n03-squashfs.ko";
        let expect = ["01-virtio.ko", "02-virtio_ring.ko", "03-squashfs.ko"];
        assert_eq!(names(list).collect::<Vec<_>>(), expect);
    }
}
