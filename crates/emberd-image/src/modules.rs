//! The kernel modules that a guest needs before it has a root file system, in load order.
//!
//! Dependencies are read from the modules themselves (`depends=` in `.modinfo`). modules.dep is
//! generated from the same data, and distribution packages do not include it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::decompress::{plain, read_at_most};
use crate::elf::Elf;

/// Maximum size of a module, decompressed, in bytes (64 MiB).
const MODULE_BYTES_MAX: u64 = 64 << 20;
/// Maximum size of `modules.builtin`, in bytes (1 MiB; those of distributions have 10 KiB).
const BUILTIN_BYTES_MAX: u64 = 1 << 20;
/// Maximum number of modules in a module directory (distributions have 7,000).
const MODULES_MAX: usize = 50_000;
/// Maximum depth below a module directory.
const DEPTH_MAX: usize = 32;

/// A module that guests use.
pub(crate) struct Wanted {
    pub module: &'static str,
    /// The option that builds it in, without `CONFIG_`.
    pub option: &'static str,
    /// Whether a guest cannot work without it.
    pub essential: bool,
}

const fn wanted(module: &'static str, option: &'static str, essential: bool) -> Wanted {
    Wanted { module, option, essential }
}

/// The modules that a guest uses, the most basic first.
pub(crate) const WANTED: [Wanted; 10] = [
    wanted("virtio_ring", "VIRTIO", true),
    wanted("virtio", "VIRTIO", true),
    wanted("virtio_mmio", "VIRTIO_MMIO", true),
    wanted("virtio_blk", "VIRTIO_BLK", true),
    wanted("squashfs", "SQUASHFS", true),
    wanted("overlay", "OVERLAY_FS", true),
    wanted("ext4", "EXT4_FS", false),
    wanted("virtio_console", "VIRTIO_CONSOLE", true),
    wanted("vmw_vsock_virtio_transport", "VIRTIO_VSOCKETS", false),
    wanted("virtio_rng", "HW_RANDOM_VIRTIO", false),
];

/// A decompressed module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// Name, with underscores.
    pub name: String,
    pub content: Vec<u8>,
}

/// Why the modules of a kernel cannot be collected.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// A file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A required module is neither built in nor available.
    #[error("the kernel has no `{name}`, neither built in nor as a module{}", dir.as_ref()
        .map(|dir| format!(" in {}", dir.display())).unwrap_or_default())]
    Missing {
        /// The module.
        name: String,
        /// The searched directory.
        dir: Option<PathBuf>,
    },
    /// Modules depend on each other in a circle.
    #[error("module `{0}` depends on itself")]
    Cycle(String),
    /// A file is not a module, or is over its limit.
    #[error("{} is not a kernel module of at most {MODULE_BYTES_MAX} bytes", .0.display())]
    Invalid(PathBuf),
    /// The directory is over a limit.
    #[error("{} has more than {MODULES_MAX} modules or is nested too deeply", .0.display())]
    TooMany(PathBuf),
}

/// A directory of modules, such as `/lib/modules/6.1.0`.
#[derive(Debug)]
pub(crate) struct ModuleTree {
    dir: PathBuf,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl ModuleTree {
    /// Lists the modules below `dir` and those in its `modules.builtin`.
    pub fn read(dir: &Path) -> Result<Self, ModulesError> {
        let mut files = BTreeMap::new();
        collect(dir, dir, 0, &mut files)?;
        let builtin = dir.join("modules.builtin");
        let text = match File::open(&builtin).and_then(|file| read_at_most(file, BUILTIN_BYTES_MAX))
        {
            Ok(text) => text.ok_or_else(|| ModulesError::TooMany(builtin.clone()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(ModulesError::Read { path: builtin, source }),
        };
        let text = String::from_utf8_lossy(&text);
        let builtin = text.lines().filter_map(|line| module_name(Path::new(line))).collect();
        Ok(Self { dir: dir.to_owned(), files, builtin })
    }

    /// Returns the wanted modules and their dependencies, each after what it needs. An optional
    /// module that is not available is left out, unless it is damaged.
    pub fn closure(&self, wanted: &[Wanted]) -> Result<Vec<Module>, ModulesError> {
        let mut ordered = Vec::new();
        for Wanted { module, essential, .. } in wanted {
            let reached = ordered.len();
            match self.visit(module, &mut Vec::new(), &mut ordered) {
                Err(ModulesError::Missing { .. }) if !essential => ordered.truncate(reached),
                visited => visited?,
            }
        }
        Ok(ordered)
    }

    /// Appends `name` to `ordered` after its dependencies; `above` is the path that led to it.
    fn visit(
        &self,
        name: &str,
        above: &mut Vec<String>,
        ordered: &mut Vec<Module>,
    ) -> Result<(), ModulesError> {
        let name = normalised(name);
        if self.builtin.contains(&name) || ordered.iter().any(|module| module.name == name) {
            return Ok(());
        }
        if above.contains(&name) {
            return Err(ModulesError::Cycle(name));
        }
        let Some(path) = self.files.get(&name) else {
            return Err(ModulesError::Missing { name, dir: Some(self.dir.clone()) });
        };
        let content = read_module(path)?;
        let needed = depends(&content).ok_or_else(|| ModulesError::Invalid(path.clone()))?;
        above.push(name.clone());
        for needed in needed {
            self.visit(&needed, above, ordered)?;
        }
        above.pop();
        ordered.push(Module { name, content });
        Ok(())
    }
}

/// Adds the modules below `dir` to `files`. Does not follow symbolic links, such as `build`.
fn collect(
    root: &Path,
    dir: &Path,
    depth: usize,
    files: &mut BTreeMap<String, PathBuf>,
) -> Result<(), ModulesError> {
    let failed = |source| ModulesError::Read { path: dir.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        if depth > DEPTH_MAX || files.len() > MODULES_MAX {
            return Err(ModulesError::TooMany(root.to_owned()));
        }
        if kind.is_dir() {
            collect(root, &entry.path(), depth + 1, files)?;
        } else if let Some(name) = module_name(&entry.path()).filter(|_| kind.is_file()) {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

/// Returns the name of the module in this file; `None` for other files.
fn module_name(path: &Path) -> Option<String> {
    let file_name = path.file_name()?.to_str()?;
    let plain = [".xz", ".zst", ".gz"].iter().find_map(|end| file_name.strip_suffix(end));
    plain.unwrap_or(file_name).strip_suffix(".ko").map(normalised)
}

/// Normalises a module name: the kernel treats `-` and `_` as the same.
fn normalised(name: &str) -> String {
    name.replace('-', "_")
}

fn read_module(path: &Path) -> Result<Vec<u8>, ModulesError> {
    let content = File::open(path)
        .and_then(plain)
        .and_then(|stream| read_at_most(stream, MODULE_BYTES_MAX))
        .map_err(|source| ModulesError::Read { path: path.to_owned(), source })?;
    content.ok_or_else(|| ModulesError::Invalid(path.to_owned()))
}

/// Returns the modules that a module needs; `None` if it is not a module.
fn depends(module: &[u8]) -> Option<Vec<String>> {
    let info = Elf::parse(module)?.section(".modinfo")?;
    let line = info.split(|byte| *byte == 0).find_map(|line| line.strip_prefix(b"depends="))?;
    let names = String::from_utf8_lossy(line);
    Some(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::decompress::synthetic::{gzip, xz, zstd};
    use crate::elf::synthetic::module;

    /// Creates a module directory of files, each `name:needed,needed`, and a `modules.builtin`.
    fn tree(files: &[&str], builtin: &str) -> (TempDir, ModuleTree) {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("kernel/drivers");
        fs::create_dir_all(&deep).unwrap();
        for file in files {
            let (name, needed) = file.split_once(':').unwrap();
            fs::write(deep.join(name), module(needed)).unwrap();
        }
        fs::write(dir.path().join("modules.builtin"), builtin).unwrap();
        let tree = ModuleTree::read(dir.path()).unwrap();
        (dir, tree)
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    fn essential<const N: usize>(modules: [&'static str; N]) -> [Wanted; N] {
        modules.map(|module| wanted(module, "X", true))
    }

    #[test]
    fn what_a_module_needs_comes_first_and_once() {
        let (_dir, tree) = tree(&["a.ko:b,c", "b.ko:c", "c.ko:", "d.ko:a,c"], "");
        let modules = tree.closure(&essential(["a", "d", "c"])).unwrap();
        assert_eq!(names(&modules), ["c", "b", "a", "d"]);
    }

    #[test]
    fn dash_and_underscore_are_the_same() {
        let (_dir, tree) = tree(&["virtio-rng.ko:rng_core", "rng-core.ko:"], "");
        let modules = tree.closure(&essential(["virtio_rng"])).unwrap();
        assert_eq!(names(&modules), ["rng_core", "virtio_rng"]);
    }

    #[test]
    fn what_is_built_in_is_not_packed() {
        let (_dir, tree) = tree(&["a.ko:b"], "kernel/drivers/b.ko\nkernel/net/v-sock.ko\n");
        let modules = tree.closure(&essential(["a", "v_sock"])).unwrap();
        assert_eq!(names(&modules), ["a"]);
    }

    #[test]
    fn only_what_is_essential_must_be_there() {
        let (_dir, tree) = tree(&["a.ko:gone", "b.ko:", "c.ko:b,gone"], "");
        let optional = ["a", "c", "also-gone"].map(|module| wanted(module, "X", false));
        assert_eq!(names(&tree.closure(&optional).unwrap()), [""; 0]);
        let missing = tree.closure(&essential(["b", "a"])).unwrap_err();
        assert!(matches!(missing, ModulesError::Missing { name, .. } if name == "gone"));
    }

    #[test]
    fn a_circle_is_an_error() {
        for files in [&["a.ko:b", "b.ko:c", "c.ko:a"][..], &["a.ko:a"]] {
            let (_dir, tree) = tree(files, "");
            let circle = tree.closure(&essential(["a"])).unwrap_err();
            assert!(matches!(circle, ModulesError::Cycle(name) if name == "a"));
        }
    }

    #[test]
    fn modules_are_decompressed() {
        let (dir, _) = tree(&[], "");
        let plain = module("");
        let compressed = [("x.ko.xz", xz(&plain)), ("z.ko.zst", zstd(&plain))];
        for (name, content) in compressed.into_iter().chain([("g.ko.gz", gzip(&plain))]) {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let tree = ModuleTree::read(dir.path()).unwrap();
        let modules = tree.closure(&essential(["x", "z", "g"])).unwrap();
        assert_eq!(names(&modules), ["x", "z", "g"]);
        assert!(modules.iter().all(|module| module.content == plain));
    }

    #[test]
    fn damaged_modules_are_errors_even_when_not_essential() {
        let (dir, tree) = tree(&["a.ko:"], "");
        fs::write(dir.path().join("kernel/drivers/a.ko"), b"text").unwrap();
        let closure = tree.closure(&[wanted("a", "X", false)]);
        assert!(matches!(closure, Err(ModulesError::Invalid(_))));
    }
}
