//! `/info`, `/drain`, `/healthz` and `/openapi.json`.

use std::sync::LazyLock;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use emberd_api::{AccessInfo, AccessOverTcp, Health, Info, VmmInfo, paths};
use emberd_sandbox::Sandboxes;

use super::egress;
use super::failures::{Failures, PublicFailures};
use super::views::IntoBody;
use crate::access::{Access, Grant, OverTcp};
use crate::egress_file::EgressFile;

/// Shows version, VMM, guests and language packs of the daemon, and how much is in use.
#[utoipa::path(
    get,
    path = paths::INFO,
    operation_id = "get_info",
    tag = "daemon",
    responses((status = 200, description = "The daemon.", body = Info), Failures<()>)
)]
pub async fn info(
    State(sandboxes): State<Sandboxes>,
    Extension(file): Extension<EgressFile>,
    Extension(access): Extension<Access>,
    grant: Option<Extension<Grant>>,
) -> Json<Info> {
    let (config, vmm) = (sandboxes.config(), sandboxes.vmm());
    let packs = sandboxes.images().packs.iter();
    let unclaimed = if grant.is_none_or(|grant| grant.sees_all()) {
        sandboxes.unclaimed().into_iter().map(IntoBody::into_body).collect()
    } else {
        Vec::new()
    };
    Json(Info {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        guest_ram_mib: config.size.memory_mib,
        guest_vcpus: config.size.vcpus,
        boot_path: sandboxes.boot_path().to_string(),
        pools: sandboxes.pools().into_iter().map(IntoBody::into_body).collect(),
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
        sandboxes_memory_mib: sandboxes.memory_mib(),
        sandboxes_memory_mib_max: config.memory_mib_total,
        limits: vmm.limits.iter().copied().map(str::to_owned).collect(),
        draining: sandboxes.is_draining(),
        access: access_info(&access),
        unclaimed,
        egress: egress::info(&sandboxes, &file.operator()),
    })
}

fn access_info(access: &Access) -> AccessInfo {
    let tcp = match access.over_tcp() {
        OverTcp::Open => AccessOverTcp::Open,
        OverTcp::NeedsKey => AccessOverTcp::Key,
        OverTcp::Insecure => AccessOverTcp::Insecure,
    };
    let (keys, problem) = access.keys();
    AccessInfo { tcp, keys, problem }
}

/// Refuses to create sandboxes from now on, until the daemon is restarted.
///
/// Everything else goes on: once the sandboxes have ended, a stop ends nobody's work.
#[utoipa::path(
    post,
    path = paths::DRAIN,
    operation_id = "drain_daemon",
    tag = "daemon",
    responses((status = 204, description = "No sandbox is created any more."), Failures<()>)
)]
pub async fn drain(State(sandboxes): State<Sandboxes>) -> StatusCode {
    sandboxes.drain();
    tracing::info!("draining: no sandbox is created any more");
    StatusCode::NO_CONTENT
}

/// Answers when the daemon is up.
#[utoipa::path(
    get,
    path = paths::HEALTHZ,
    operation_id = "check_health",
    tag = "daemon",
    responses((status = 200, description = "The daemon runs.", body = Health), PublicFailures<()>)
)]
pub async fn healthz() -> Json<Health> {
    Json(Health { status: "ok".to_owned() })
}

/// Reads the OpenAPI document of the API.
#[utoipa::path(
    get,
    path = paths::OPENAPI,
    operation_id = "get_openapi",
    tag = "daemon",
    responses((status = 200, description = "The OpenAPI document.", body = Object), PublicFailures<()>)
)]
pub async fn openapi() -> Json<&'static utoipa::openapi::OpenApi> {
    static DOCUMENT: LazyLock<utoipa::openapi::OpenApi> = LazyLock::new(super::document);
    Json(&DOCUMENT)
}
