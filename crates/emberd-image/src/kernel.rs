//! The guest kernel: an uncompressed ELF file, and the modules that a guest needs.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::artifact::{BlobKind, Digest, KernelManifest, ModuleBlob};
use crate::build::{Build, BuildError, Outcome};
use crate::data_dir::DataDir;
use crate::decompress::read_at_most;
use crate::load::Artifact;
use crate::modules::{Module, ModuleTree, ModulesError, WANTED};
use crate::progress::Progress;
use crate::store::{Store, StoreError};

mod apt;
mod bzimage;
mod config;
mod package;

pub use bzimage::{KERNEL_BYTES_MAX, KernelError};

pub(crate) use bzimage::vmlinux;
pub(crate) use config::{KernelConfig, release};

/// Source of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// The cloud or virtual kernel package of the host's distribution, which is downloaded and
    /// unpacked, but not installed.
    Distribution,
    /// Files.
    File {
        /// A vmlinux or a bzImage.
        kernel: PathBuf,
        /// The module directory, such as `/lib/modules/6.1.0`; absent if everything is built in.
        modules: Option<PathBuf>,
        /// The config file; by default the config that the kernel contains, if any.
        config: Option<PathBuf>,
    },
}

/// The content of a kernel's files.
struct Parts {
    source: String,
    /// The original vmlinux or bzImage.
    image: Vec<u8>,
    path: PathBuf,
    config: Option<String>,
    /// Modules in load order; absent if no module directory is known.
    modules: Option<Vec<Module>>,
}

/// Adds a kernel and its modules to `data_dir`. The distribution's kernel is downloaded only if
/// there is none or `force` is set, however old the existing one is.
///
/// # Errors
/// [`BuildError`], for example if the kernel lacks a module that guests require.
pub fn build_kernel(
    data_dir: &DataDir,
    source: &KernelSource,
    force: bool,
    progress: &mut dyn Progress,
) -> Result<Build, BuildError> {
    let store = Store::lock(data_dir, progress)?;
    let path = Artifact::Kernel.manifest(data_dir);
    let current = |key| store.current::<KernelManifest>(&path, key).filter(|_| !force);
    let up_to_date = |manifest: KernelManifest| Build {
        installed: manifest.installed(data_dir),
        outcome: Outcome::UpToDate,
    };
    let (key, parts) = match source {
        KernelSource::Distribution => {
            let packages = package::candidates();
            let key = Digest::of_parts(&[b"distribution", packages.join(" ").as_bytes()]);
            if let Some(manifest) = current(key) {
                return Ok(up_to_date(manifest));
            }
            (key, package::fetch(&store, &packages, progress)?)
        }
        KernelSource::File { kernel, modules, config } => {
            progress.stage("reading the kernel");
            let parts = read_parts(kernel, modules.as_deref(), config.as_deref())?;
            let key = parts.key();
            if let Some(manifest) = current(key) {
                return Ok(up_to_date(manifest));
            }
            (key, parts)
        }
    };
    progress.stage("unpacking the kernel");
    let manifest = publish(&store, key, &parts)?;
    store.write_manifest(&path, &manifest)?;
    Ok(Build { installed: manifest.installed(data_dir), outcome: Outcome::Built })
}

fn read_parts(
    kernel: &Path,
    modules: Option<&Path>,
    config: Option<&Path>,
) -> Result<Parts, BuildError> {
    let unusable = |path: &Path| {
        let path = path.to_owned();
        |source| BuildError::Kernel { path, source }
    };
    let modules = match modules {
        Some(dir) => Some(ModuleTree::read(dir)?.closure(&WANTED)?),
        None => None,
    };
    Ok(Parts {
        source: kernel.display().to_string(),
        image: read_image(kernel).map_err(unusable(kernel))?,
        path: kernel.to_owned(),
        config: config.map(|path| read_config(path).map_err(unusable(path))).transpose()?,
        modules,
    })
}

fn publish(store: &Store<'_>, key: Digest, parts: &Parts) -> Result<KernelManifest, BuildError> {
    let unusable = |source| BuildError::Kernel { path: parts.path.clone(), source };
    let vmlinux = vmlinux(&parts.image).map_err(unusable)?;
    let release = release(&vmlinux).ok_or(KernelError::NoRelease).map_err(unusable)?;
    let config_text = parts.config.clone().or_else(|| KernelConfig::text_in(&vmlinux));
    let config = config_text.as_deref().map(KernelConfig::parse);
    if let (None, Some(config)) = (&parts.modules, &config) {
        all_built_in(config)?;
    }
    let publish_module = |module: &Module| {
        let blob = store.publish_bytes(&module.content, BlobKind::Ko)?;
        Ok(ModuleBlob { name: module.name.clone(), blob })
    };
    let modules = parts.modules.iter().flatten().map(publish_module);
    let publish_config = |text: &String| store.publish_bytes(text.as_bytes(), BlobKind::Config);
    Ok(KernelManifest {
        key,
        source: parts.source.clone(),
        release,
        hz: config.as_ref().and_then(KernelConfig::hz),
        modules: modules.collect::<Result<_, StoreError>>()?,
        config: config_text.as_ref().map(publish_config).transpose()?,
        vmlinux: store.publish_bytes(&vmlinux, BlobKind::Vmlinux)?,
    })
}

/// Without modules, everything required must be built in.
fn all_built_in(config: &KernelConfig) -> Result<(), ModulesError> {
    let mut essential = WANTED.iter().filter(|wanted| wanted.essential);
    match essential.find(|wanted| config.get(wanted.option) != Some("y")) {
        Some(wanted) => Err(ModulesError::Missing { name: wanted.module.to_owned(), dir: None }),
        None => Ok(()),
    }
}

impl Parts {
    fn key(&self) -> Digest {
        let config = self.config.as_deref().unwrap_or_default();
        let mut parts = vec![&b"file"[..], &self.image, config.as_bytes()];
        parts.push(if self.modules.is_some() { b"modules" } else { b"built in" });
        for module in self.modules.iter().flatten() {
            parts.extend([module.name.as_bytes(), &module.content]);
        }
        Digest::of_parts(&parts)
    }
}

/// Reads a kernel's file.
pub(crate) fn read_image(path: &Path) -> Result<Vec<u8>, KernelError> {
    read_bounded(path, KERNEL_BYTES_MAX)
}

/// Reads a config file.
pub(crate) fn read_config(path: &Path) -> Result<String, KernelError> {
    let text = read_bounded(path, config::CONFIG_BYTES_MAX)?;
    String::from_utf8(text).map_err(|error| KernelError::Read(io::Error::other(error)))
}

fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, KernelError> {
    let content = File::open(path).and_then(|file| read_at_most(file, bytes_max));
    content.map_err(KernelError::Read)?.ok_or(KernelError::TooLarge)
}
