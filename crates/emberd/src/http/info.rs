//! `/info`, `/healthz` and `/openapi.json`.

use axum::Json;
use axum::extract::State;
use emberd_api::{Health, Info, Pool, VmmInfo, paths};
use emberd_sandbox::{PoolView, Sandboxes};

/// What the daemon is and what it was given.
#[utoipa::path(
    get,
    path = paths::INFO,
    responses((status = 200, description = "The daemon", body = Info))
)]
pub async fn info(State(sandboxes): State<Sandboxes>) -> Json<Info> {
    let (config, vmm) = (sandboxes.config(), sandboxes.vmm());
    let packs = sandboxes.images().packs.iter();
    Json(Info {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        guest_ram_mib: config.mem_size_mib,
        guest_vcpus: config.vcpu_count,
        boot_path: sandboxes.boot_path().to_string(),
        pools: sandboxes.pools().iter().map(shown).collect(),
        reaping: sandboxes.reaping(),
        packs: packs.clone().map(|(name, _)| name.to_string()).collect(),
        pack_descriptions: packs
            .map(|(name, pack)| (name.to_string(), pack.description.clone()))
            .collect(),
        work_dir: config.run_dir.display().to_string(),
        vmm: VmmInfo {
            driver: vmm.driver.to_owned(),
            version: vmm.version.clone(),
            accelerator: vmm.accelerator.to_owned(),
            reason: vmm.reason.clone(),
        },
        sandboxes: sandboxes.count(),
        sandboxes_max: config.sandboxes_max,
    })
}

fn shown(view: &PoolView) -> Pool {
    Pool {
        language_pack: view.pack.to_string(),
        ready: view.ready,
        filling: view.filling,
        standing_by: view.standing_by,
        target: view.target,
        ceiling: view.ceiling,
        handed_out: view.handed_out,
        missed: view.missed,
        discarded: view.discarded,
    }
}

/// Whether the daemon is up.
#[utoipa::path(
    get,
    path = paths::HEALTHZ,
    responses((status = 200, description = "It is", body = Health))
)]
pub async fn healthz() -> Json<Health> {
    Json(Health { status: "ok".to_owned() })
}

/// This document.
#[utoipa::path(
    get,
    path = paths::OPENAPI,
    responses((status = 200, description = "The OpenAPI document", body = Object))
)]
pub async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(super::document())
}
