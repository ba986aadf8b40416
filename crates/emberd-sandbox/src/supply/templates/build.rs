//! One template, from a cold boot to its publication.
//!
//! ```text
//! boot ─▶ guest answers ─▶ settle ─▶ renew ─▶ warm up … ─▶ rehearse egress ─▶ settle
//!     ─▶ snapshot ─▶ published
//!            └▶ the microVM is killed
//! ```

use std::path::Path;
use std::time::Duration;

use emberd_guest::renewal::renew;
use emberd_guest::{ChannelError, Link};
use emberd_image::PackImage;
use emberd_proto::{HostMessage, Refusal, RefusalCode, Settled};
use emberd_vmm::{AnyMicroVm, MicroVm as _, SnapshotError, Stream, Template};
use tokio::time::Instant;

use crate::error::CreateError;
use crate::lifecycle::sandbox::Sandbox;
use crate::supply::answer::{AnswerError, answer, connect};
use crate::supply::base::{Base, Boot};
use crate::supply::boot::{self, Answered};
use crate::supply::restore::run_warm_up;

/// Number of warm-up runs before the snapshot: the first run fills the page cache, the second
/// takes the paths that the first could not, the third finds everything warm.
const WARM_UPS: usize = 3;

/// Time that a guest may take to settle: starting a warm interpreter takes seconds on an
/// emulated processor.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(90);

/// Why a template was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MakeError {
    /// The template's microVM did not start.
    #[error("the template's microVM did not start")]
    Boot(#[from] CreateError),
    /// The guest did not complete a step.
    #[error("the template's guest failed")]
    Guest(#[from] AnswerError),
    /// The pack's zygote did not become ready: every clone would spawn each of its programs.
    #[error("the zygote of the template's guest did not become ready")]
    NoZygote,
    /// The snapshot was not written or not published.
    #[error("cannot take the snapshot")]
    Snapshot(#[from] SnapshotError),
}

/// Makes the template `into` for the pack with `image`, of a microVM in the place of `sandbox`.
///
/// Dropping the future leaves no microVM and no partial template.
pub(crate) async fn make(
    base: &Base,
    sandbox: &Sandbox,
    image: &PackImage,
    into: &Path,
) -> Result<Template, MakeError> {
    let kind = Boot { for_template: true, ..Boot::default() };
    let Answered { vm, mut link, .. } = boot::boot(base, sandbox, image, kind).await?;
    let made = async {
        prepare(&vm, &mut link, sandbox, image).await?;
        // No stream survives a snapshot, and the guest must not wait for one that did not.
        drop(link);
        Ok(vm.snapshot(into, base.hashes(image)).await?)
    };
    let made = made.await;
    boot::end(sandbox.id, vm).await;
    made
}

/// Brings the guest to the state in which every clone starts.
async fn prepare(
    vm: &AnyMicroVm,
    link: &mut Link<Stream>,
    sandbox: &Sandbox,
    image: &PackImage,
) -> Result<(), MakeError> {
    settle(vm, link).await?;
    // Every clone renews again. The second renewal is cheaper: its files are then in the upper
    // layer of the overlay, and the cover of the boot id is in place.
    answer(vm, Instant::now(), SETTLE_WAIT_MAX, renew(link, &sandbox.id.to_string())).await?;
    if let Some(code) = &image.warm_up {
        for _ in 0..WARM_UPS {
            run_warm_up(vm, link, code).await?;
        }
    }
    if sandbox.egress.is_some() {
        rehearse_egress(vm).await?;
    }
    // At rest, the guest holds open what the renewal of each clone writes.
    settle(vm, link).await
}

/// Opens an egress session and ends it: what the agent writes and reads for it the first time is
/// then part of every clone.
async fn rehearse_egress(vm: &AnyMicroVm) -> Result<(), MakeError> {
    let rehearsing = async {
        let (mut link, _) = connect(vm).await?;
        match link.ask(&HostMessage::Egress).await {
            // The agent of an older initramfs.
            Err(ChannelError::Refused(_)) => Ok(()),
            answered => answered.map(drop),
        }
    };
    Ok(answer(vm, Instant::now(), SETTLE_WAIT_MAX, rehearsing).await?)
}

async fn settle(vm: &AnyMicroVm, link: &mut Link<Stream>) -> Result<(), MakeError> {
    let settling = async {
        match link.settle().await {
            // The agent of an older initramfs, which has no zygote either.
            Err(ChannelError::Refused(Refusal { code: RefusalCode::UnknownOperation, .. })) => {
                Ok(Settled { zygote_ready: None })
            }
            settled => settled,
        }
    };
    let settled = answer(vm, Instant::now(), SETTLE_WAIT_MAX, settling).await?;
    if settled.zygote_ready == Some(false) { Err(MakeError::NoZygote) } else { Ok(()) }
}
