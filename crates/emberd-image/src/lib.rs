//! Builds and verifies what a guest boots from: kernel, initramfs and language packs.
//!
//! ```text
//! distribution package | vmlinux | bzImage ──▶ kernel + modules ─┐
//! emberd-init ───────────────────────────────▶ initramfs ────────┼─▶ data directory ─▶ Images
//! pack.toml | root directory | root tar ─────▶ packs ────────────┘
//! ```
//!
//! Every build can be resumed: with unchanged inputs, it only verifies the existing artifact.

mod artifact;
mod build;
pub mod check;
mod command;
mod data_dir;
mod decompress;
mod disk;
mod elf;
mod initramfs;
mod kernel;
mod known;
mod load;
mod modules;
mod name;
mod os_release;
pub mod pack;
mod progress;
mod store;

pub use artifact::{BlobError, Digest, DigestError};
pub use build::{Build, BuildError, Installed, Outcome, Pruned, installed, prune, remove_pack};
pub use command::ToolError;
pub use data_dir::DataDir;
pub use disk::{DiskError, empty_disk};
pub use initramfs::{build_initramfs, write_initramfs};
pub use kernel::{KERNEL_BYTES_MAX, KernelError, KernelSource, build_kernel};
pub use load::{Artifact, Images, InitramfsImage, KernelImage, LoadError, PackImage};
pub use modules::ModulesError;
pub use name::{PACK_NAME_BYTES_MAX, PackName, PackNameError};
pub use pack::{
    Compression, ContextDefinition, PackDefinition, PackOptions, Profiles, RootPack, SHELL_CONTEXT,
    ZygoteDefinition,
};
pub use pack::{build_pack, build_pack_from_rootfs};
pub use progress::{Progress, Silent};
pub use store::StoreError;
