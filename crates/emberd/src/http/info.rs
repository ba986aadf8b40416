//! `/info`, `/healthz` and `/openapi.json`.

use axum::Json;
use axum::extract::State;
use emberd_api::{Health, Info, VmmInfo, paths};
use emberd_sandbox::{BOOT_PATH, Sandboxes};
use emberd_vmm::Vmm;

/// What the daemon is and what it was given.
#[utoipa::path(
    get,
    path = paths::INFO,
    responses((status = 200, description = "The daemon", body = Info))
)]
pub async fn info<V: Vmm>(State(sandboxes): State<Sandboxes<V>>) -> Json<Info> {
    let (config, vmm) = (sandboxes.config(), sandboxes.vmm().description());
    let packs = sandboxes.images().packs.iter();
    Json(Info {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        guest_ram_mib: config.mem_size_mib,
        guest_vcpus: config.vcpu_count,
        boot_path: BOOT_PATH.to_owned(),
        packs: packs.map(|(name, pack)| (name.to_string(), pack.description.clone())).collect(),
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
