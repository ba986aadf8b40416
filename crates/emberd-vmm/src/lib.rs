//! Boots microVMs: three traits, and one driver per VMM.
//!
//! ```text
//! Vmm::boot(BootSpec) ─────────────────────▶ MicroVm ── connect(port) ─▶ Stream
//! Vmm::stand_by(Template) ─▶ Standby::load ─▶  ├─ snapshot(into) ─▶ Template
//! Vmm::adopt(Orphan) ──────────────────────▶   ├─ exited() ─▶ ExitWatch ─▶ ExitReason
//!                                              ├─ kill() or drop: all of it gone
//!                                              └─ detach(): lives on, an orphan for the next
//! ```
//!
//! [`AnyVmm`] is either driver: no type parameter leaves this crate. It knows no other emberd
//! crate and nothing of what is said on a stream.

mod any;
mod boot;
mod cgroup;
mod dial;
mod disk;
mod exit;
pub mod firecracker;
mod holdings;
mod host;
mod jail;
mod limits;
mod log;
mod orphans;
mod process;
mod qemu;
mod record;
mod root;
mod select;
mod snapshot;
mod sparse;
mod sys;
mod template;
mod traits;

pub use any::{AnyMicroVm, AnyStandby, AnyVmm, Stream};
pub use boot::{BootError, BootSpec, ConnectError, KillError, VmmDescription};
pub use cgroup::{CgroupChoice, CgroupConfig, hold_cgroup};
pub use disk::{DiskSpec, GrowError};
pub use exit::{ExitReason, ExitWatch};
pub use host::{KvmTrial, KvmVerdict};
pub use jail::{IdRange, JailChoice, JailConfig};
pub use limits::{CpuLimits, LimitError};
pub use log::{ConsoleReader, LOG_BYTES_MAX, tail as console_tail};
pub use orphans::{
    AdoptError, Left, NotAdopted, Orphan, OrphanError, OrphanVmm, Removed, left_in, remove_orphans,
};
pub use qemu::{
    AccelChoice, FindQemuError, QEMU_BINARY, Qemu, QemuConfig, QemuMicroVm, QemuStandby, QemuStream,
};
pub use select::{Driver, HostFacts, SelectError, Selection, VmmChoice, select};
pub use snapshot::{PauseError, RestoreError, RestoreSpec, SnapshotError};
pub use sys::close_on_exec;
pub use template::{
    ImageHashes, MachineShape, Template, TemplateError, TemplateKey, UNFINISHED_SUFFIX,
};
pub use traits::{MicroVm, Standby, Vmm};
