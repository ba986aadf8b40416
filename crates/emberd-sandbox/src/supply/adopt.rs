//! Takes over what an earlier daemon left, when this one starts.
//!
//! ```text
//! VMM runs? ── no ─▶ gone, if a caller has it and the host has not restarted; else removed
//!    │ yes
//! journal ──▶ running, frozen ─▶ adopted into the table; its guest is met behind, or when thawed
//!        ├──▶ pooled ──────────▶ met, and adopted into its pool if it fits there, else ended
//!        ├──▶ making, deleted, none: nobody was ever promised it ─▶ removed
//!        └──▶ unreadable ──────▶ unclaimed: listed, and left alone
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use emberd_egress::{Ceiling, Policy};
use emberd_proto::chain;
use emberd_vmm::{Left, NotAdopted, Orphan, OrphanError, Vmm as _};
use tokio::time::{sleep, timeout};

use super::base::Base;
use crate::error::OpenError;
use crate::id::SandboxId;
use crate::lifecycle::journal::{self, Entry, Found, Origin, Stage};
use crate::lifecycle::machine::{Machine, Running};
use crate::lifecycle::phase::Request;
use crate::lifecycle::sandbox::Sandbox;
use crate::shape::{Shape, Size};

/// Longest wait for one answer of a guest.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// First and longest pause after a guest did not answer.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// A microVM that runs, and of which this daemon does not know whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnclaimedView {
    /// Its directory.
    pub dir: PathBuf,
    /// Process id of its VMM.
    pub vmm_pid: u32,
    /// Why it is left alone.
    pub why: String,
}

/// A microVM that is left alone. Holds the user of its jail.
pub(crate) struct Unclaimed {
    orphan: Orphan,
    why: String,
}

impl Unclaimed {
    /// Returns how it is listed.
    pub fn view(&self) -> UnclaimedView {
        let (dir, vmm_pid) = (self.orphan.dir().to_owned(), self.orphan.process_id());
        UnclaimedView { dir, vmm_pid, why: self.why.clone() }
    }
}

/// The part of what an earlier daemon left that was not removed.
#[derive(Default)]
pub(crate) struct Estate {
    /// Sandboxes that callers have, the oldest first.
    pub sandboxes: Vec<Arc<Sandbox>>,
    /// Sandboxes that waited in pools, with the digest of their template's key.
    pub pooled: Vec<(Arc<Sandbox>, Option<String>)>,
    pub unclaimed: Vec<Unclaimed>,
}

/// Finds and removes what an earlier daemon left; what can be is taken over. Blocks.
///
/// # Errors
/// [`OpenError::Orphans`].
pub(crate) fn take_over(base: &Base) -> Result<Estate, OpenError> {
    let is_sandbox = |name: &str| name.parse::<SandboxId>().is_ok();
    let left = emberd_vmm::left_in(base.run_dir.path(), is_sandbox).map_err(OpenError::Orphans)?;
    let (mut heirs, mut unclaimed, mut useless) = (Vec::new(), Vec::new(), Vec::new());
    let mut lost = Vec::new();
    for left in left {
        match left {
            Left::Running(mut orphan) if base.config.adopt => {
                base.vmm.reserve(&mut orphan);
                match journal::find(orphan.dir()) {
                    Found::Entry(entry) if entry.stage != Stage::Making => {
                        heirs.push((orphan, entry));
                    }
                    Found::Entry(_) | Found::Nothing => useless.push(Left::Running(orphan)),
                    Found::Unreadable(why) => unclaimed.push(Unclaimed { orphan, why }),
                }
            }
            Left::Ended { dir, is_of_this_boot: true } if base.config.adopt => {
                match lost_in(base, &dir) {
                    Some(sandbox) => lost.push(sandbox),
                    None => useless.push(Left::Ended { dir, is_of_this_boot: true }),
                }
            }
            left => useless.push(left),
        }
    }
    // Before anything is taken over: an error would end that. All of them are tried, because a
    // directory that cannot be removed must not spare the others.
    let removed: Vec<_> = useless.into_iter().map(remove).collect();
    removed.into_iter().collect::<Result<(), _>>().map_err(OpenError::Orphans)?;
    let mut estate = Estate { unclaimed, sandboxes: lost, ..Estate::default() };
    for (orphan, entry) in heirs {
        estate.adopt(base, orphan, *entry);
    }
    estate.sandboxes.sort_by_key(|sandbox| sandbox.created_at.get().copied());
    for Unclaimed { orphan, why } in &estate.unclaimed {
        let (dir, vmm_pid) = (orphan.dir().display(), orphan.process_id());
        tracing::error!(%dir, vmm_pid, why, "a microVM of an earlier daemon is left alone");
    }
    Ok(estate)
}

fn remove(left: Left) -> Result<(), OrphanError> {
    let removed = left.remove()?;
    tracing::warn!(dir = %removed.dir.display(), vmm = ?removed.vmm, "removed an orphan");
    Ok(())
}

impl Estate {
    fn adopt(&mut self, base: &Base, orphan: Orphan, entry: Entry) {
        let (stage, template) = (entry.stage, entry.template.clone());
        match resume(base, orphan, entry) {
            Ok(sandbox) if stage == Stage::Pooled => self.pooled.push((sandbox, template)),
            Ok(sandbox) => self.sandboxes.push(sandbox),
            Err(unclaimed) => self.unclaimed.push(*unclaimed),
        }
    }
}

/// Makes the sandbox of a microVM that has ended in `dir`, if a caller has it.
fn lost_in(base: &Base, dir: &Path) -> Option<Arc<Sandbox>> {
    let Found::Entry(entry) = journal::find(dir) else { return None };
    let id = named(dir, &entry)?;
    let (Stage::Running | Stage::Frozen, Ok(pack)) = (entry.stage, entry.pack.parse()) else {
        return None;
    };
    let shape = Shape { pack, size: Size { vcpus: entry.vcpus, memory_mib: entry.memory_mib } };
    let signals = Arc::clone(&base.signals);
    let sandbox = Arc::new(Sandbox::resumed(id, shape, dir.into(), None, signals, *entry));
    sandbox.lose();
    tracing::warn!(%id, "microVM gone: its VMM ended while no daemon ran");
    Some(sandbox)
}

/// The ceiling of a sandbox. One that cannot be read any more permits nothing.
fn ceiling(texts: &[String]) -> Ceiling {
    Ceiling::parse(texts).unwrap_or_else(|_| Ceiling::nothing())
}

/// Returns the id of the sandbox in `dir`, if `entry` is of that.
fn named(dir: &Path, entry: &Entry) -> Option<SandboxId> {
    let name = dir.file_name()?.to_str()?;
    (name == entry.id).then(|| name.parse().ok())?
}

/// Makes the sandbox that `entry` says of the microVM `orphan`.
fn resume(base: &Base, orphan: Orphan, entry: Entry) -> Result<Arc<Sandbox>, Box<Unclaimed>> {
    let dir = orphan.dir().to_owned();
    let id = named(&dir, &entry);
    let (Some(id), Ok(pack), Some(origin)) = (id, entry.pack.parse(), entry.origin) else {
        let why = "its journal is that of another sandbox".to_owned();
        return Err(Box::new(Unclaimed { orphan, why }));
    };
    let shape = Shape { pack, size: Size { vcpus: entry.vcpus, memory_mib: entry.memory_mib } };
    let egress = base.config.egress.as_ref().map(|egress| {
        let egress = egress.sandbox(&base.no_egress);
        // Allows nothing until it is compiled under the operator's file.
        if let Some(spec) = &entry.egress {
            let own = entry.egress_ceiling.as_deref().map(ceiling);
            egress.begin(Arc::new(Policy::uncompiled(spec.clone(), own)));
        }
        egress
    });
    let vm = match base.vmm.adopt(orphan) {
        Ok(vm) => vm,
        Err(refused) => {
            let NotAdopted { orphan, why } = *refused;
            return Err(Box::new(Unclaimed { orphan, why: chain(&why) }));
        }
    };
    let (stage, metrics) = (entry.stage, entry.metrics.clone().unwrap_or_default());
    let signals = Arc::clone(&base.signals);
    let sandbox = Arc::new(Sandbox::resumed(id, shape, dir, egress, signals, entry));
    let creating = sandbox.creating().expect("it is new");
    let machine = Arc::new(Machine::new(vm, creating.ending));
    let guest = base.host(&sandbox, &machine).adopted(id.to_string());
    let Origin { boot_path, boot } = origin;
    let running = Running { machine: Arc::clone(&machine), guest, boot_path, boot };
    assert!(sandbox.answer(running).is_ok(), "it is being created");
    if stage == Stage::Frozen {
        machine.clock().stop();
        sandbox.usage.found_frozen();
        sandbox.shift(Request::Freeze, || true, |phase| phase.frozen(metrics));
        sandbox.reach.sleep();
    } else {
        sandbox.reach.lose();
    }
    Ok(sandbox)
}

/// Meets the guest of a sandbox that was taken over, for as long as it takes; a frozen one once it
/// is thawed. It is never ended for its silence.
pub(crate) async fn meet(sandbox: Arc<Sandbox>) {
    tokio::select! {
        () = sandbox.ended() => return,
        () = sandbox.reach.awake() => {}
    }
    let mut pause = PAUSE.0;
    while let Err(why) = try_meet(&sandbox).await {
        tracing::warn!(id = %sandbox.id, why, "the guest of an adopted sandbox does not answer");
        tokio::select! {
            () = sandbox.ended() => return,
            () = sleep(pause) => {}
        }
        pause = (2 * pause).min(PAUSE.1);
    }
}

/// Meets the guest, once.
///
/// # Errors
/// Why it did not answer.
pub(crate) async fn try_meet(sandbox: &Sandbox) -> Result<(), String> {
    let guest = sandbox.guest().map_err(|_| "it is gone".to_owned())?;
    match timeout(ANSWER_MAX, guest.recover()).await {
        Ok(Ok(recovered)) => {
            sandbox.reach.meet();
            tracing::info!(id = %sandbox.id, ?recovered, "adopted");
            Ok(())
        }
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {ANSWER_MAX:?}")),
    }
}
