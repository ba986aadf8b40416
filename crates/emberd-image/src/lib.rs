//! Builds what a guest boots from, and loads it verified: kernel, initramfs, language packs.
//!
//! ```text
//! distribution package | vmlinux | bzImage ──▶ kernel + modules ─┐
//! emberd-init ───────────────────────────────▶ initramfs ────────┼─▶ data directory ─▶ Images
//! pack.toml | root directory | root tar ─────▶ packs ────────────┘
//! ```
//!
//! Every build is resumable: with unchanged inputs it only verifies what is there.

mod artifact;
mod data_dir;
mod load;
mod name;
pub mod pack;
mod progress;

pub use artifact::{BlobError, Digest, DigestError};
pub use data_dir::DataDir;
pub use load::{Artifact, Images, KernelImage, LoadError, PackImage};
pub use name::{PACK_NAME_BYTES_MAX, PackName, PackNameError};
pub use progress::{Progress, Silent};
