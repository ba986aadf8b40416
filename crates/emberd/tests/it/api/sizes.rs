//! Sizes of sandboxes over HTTP.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use emberd_api::{
    BuildTemplate, ErrorCode, Resources, SandboxState, TemplateState, UpdateResources,
    UpdateSandbox,
};
use emberd_sandbox::{DiskConfig, SandboxesConfig};
use fake_firecracker::Double;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::{Api, refusal};
use crate::wait;

fn memory(mib: u64) -> BuildTemplate {
    BuildTemplate { memory_mib: Some(mib), ..BuildTemplate::default() }
}

#[tokio::test]
async fn a_sandbox_has_the_size_asked_for() {
    let api = Api::start().await;
    let id = api.create_as(json!({"resources": {"memory_mib": 96}})).await.unwrap();
    let shown = api.client.get(&id).await.unwrap().resources;
    assert_eq!(shown, Resources { vcpus: Some(1), memory_mib: Some(96), ..Resources::default() });
    let id = api.create().await;
    let shown = api.client.get(&id).await.unwrap().resources;
    assert_eq!(shown, Resources { vcpus: Some(1), memory_mib: Some(64), ..Resources::default() });
    api.stop().await;
}

#[tokio::test]
async fn limits_in_the_guest_are_shown_and_checked() {
    let api = Api::start().await;
    for pids in [16, 4_096, 65_536] {
        let id = api.create_as(json!({"resources": {"pids": pids}})).await.unwrap();
        assert_eq!(api.client.get(&id).await.unwrap().resources.pids, Some(pids));
    }
    let id = api.create().await;
    assert_eq!(api.client.get(&id).await.unwrap().resources.pids, None);
    for pids in [0, 15, 65_537] {
        let (status, body) = refusal(api.create_as(json!({"resources": {"pids": pids}})).await);
        assert_eq!((status, body.code), (400, ErrorCode::InvalidRequest));
        assert!(body.error.contains(&format!("pids: {pids} is not from 16 to 65536")));
    }
    assert_eq!(api.sandboxes.count(), 4);
    api.stop().await;
}

impl Api {
    /// With disks of 128 MiB, or up to 256.
    async fn with_disk(misbehave: impl FnOnce(&Double)) -> Self {
        let disks = |config: &mut SandboxesConfig| {
            let dir = config.run_dir.with_file_name("disks");
            config.disk = Some(DiskConfig { dir, size_mib: 128, size_mib_max: 256 });
        };
        Self::start_over(misbehave, disks, None).await
    }
}

/// Length of the disk of a VMM, which has it open without a name.
fn disk_bytes(vmm: u32) -> u64 {
    let descriptors = fs::read_dir(format!("/proc/{vmm}/fd")).unwrap();
    let files = descriptors.filter_map(|entry| fs::metadata(entry.ok()?.path()).ok());
    let mut files =
        files.filter(|file| file.is_file() && file.nlink() == 0 && file.len() > 1 << 20);
    files.next().expect("the VMM has its disk open").len()
}

#[tokio::test]
async fn a_sandbox_has_the_disk_asked_for() {
    let api = Api::with_disk(|_| {}).await;
    for (asked, expect) in [(Some(65), 65), (Some(256), 256), (Some(128), 128), (None, 128)] {
        let id = api.create_as(json!({"resources": {"disk_mib": asked}})).await.unwrap();
        let sandbox = api.client.get(&id).await.unwrap();
        assert_eq!(sandbox.resources.disk_mib, Some(expect));
        assert_eq!(disk_bytes(sandbox.vmm_pid.unwrap()), expect << 20);
    }
    for asked in [0, 63, 257] {
        let (status, body) =
            refusal(api.create_as(json!({"resources": {"disk_mib": asked}})).await);
        assert_eq!((status, body.code), (400, ErrorCode::InvalidRequest));
        assert!(body.error.contains(&format!("disk_mib: {asked} is not from 64 to 256")));
    }
    api.stop().await;
    let api = Api::start().await;
    let (status, body) = refusal(api.create_as(json!({"resources": {"disk_mib": 64}})).await);
    assert_eq!((status, body.code), (400, ErrorCode::InvalidRequest));
    assert!(body.error.contains("no disk of their own"), "{}", body.error);
    api.stop().await;
}

#[tokio::test]
async fn a_disk_that_does_not_grow_fails_the_creation() {
    let api = Api::with_disk(|double| double.misbehave("refuse-at=PATCH /drives/disk")).await;
    let (status, body) = refusal(api.create_as(json!({"resources": {"disk_mib": 129}})).await);
    assert_eq!((status, body.code), (503, ErrorCode::BootFailed));
    assert!(body.error.contains("PATCH /drives failed"), "{}", body.error);
    assert_eq!(api.sandboxes.count(), 0);
    api.create().await;
    api.stop().await;
}

#[tokio::test]
async fn sizes_out_of_bounds_are_refused_with_the_bounds() {
    let api = Api::with_templates(|_| {}).await;
    for (resources, expect) in [
        (json!({"memory_mib": 62}), "memory_mib: 62 is not from 64 to 1024"),
        (json!({"memory_mib": 1026}), "memory_mib: 1026 is not from 64 to 1024"),
        (json!({"memory_mib": 97}), "memory_mib: 97 is not a multiple of 2"),
        (json!({"vcpus": 0}), "vcpus: 0 is not from 1 to "),
        (json!({"vcpus": 300}), "vcpus: 300 is not from 1 to "),
    ] {
        let (status, body) = refusal(api.create_as(json!({"resources": resources})).await);
        assert_eq!((status, body.code), (400, ErrorCode::InvalidRequest));
        assert!(body.error.contains(expect), "{}", body.error);
        let wanted: BuildTemplate = serde_json::from_value(resources).unwrap();
        let (_, body) = refusal(api.client.build_template_of("shell", &wanted).await);
        assert_eq!(body.code, ErrorCode::InvalidRequest);
        let size = Resources {
            vcpus: wanted.vcpus,
            memory_mib: wanted.memory_mib,
            ..Resources::default()
        };
        let (_, body) = refusal(api.client.delete_template_of("shell", &size).await);
        assert_eq!(body.code, ErrorCode::InvalidRequest);
    }
    let wanted = BuildTemplate { pool_size: Some(257), ..BuildTemplate::default() };
    let (_, body) = refusal(api.client.build_template_of("shell", &wanted).await);
    assert!(body.error.contains("pool_size: 257 is not from 0 to 256"), "{}", body.error);
    assert_eq!(api.sandboxes.count(), 0);
    api.stop().await;
}

#[tokio::test]
async fn a_limit_that_the_host_does_not_hold_is_refused() {
    // VMMs of tests are not jailed, so they have no cgroups.
    let api = Api::start().await;
    assert!(api.client.info().await.unwrap().limits.is_empty());
    let refused = refusal(api.create_as(json!({"resources": {"cpu_percent": 50}})).await);
    assert_eq!((refused.0, refused.1.code), (409, ErrorCode::LimitUnavailable));
    assert!(refused.1.error.contains("not jailed"), "{}", refused.1.error);
    assert_eq!(api.sandboxes.count(), 0);
    for (resources, expect) in [
        (json!({"cpu_percent": 101}), "cpu_percent: 101 is not from 1 to 100"),
        (json!({"cpu_weight": 0}), "cpu_weight: 0 is not from 1 to 10000"),
    ] {
        let (status, body) = refusal(api.create_as(json!({"resources": resources})).await);
        assert_eq!((status, body.code), (400, ErrorCode::InvalidRequest));
        assert!(body.error.contains(expect), "{}", body.error);
    }

    let id = api.create().await;
    let change = |resources| UpdateSandbox {
        resources: Some(resources),
        metadata: [("a".to_owned(), Some("b".to_owned()))].into(),
        ..UpdateSandbox::default()
    };
    let weight = |weight| UpdateResources { cpu_weight: Some(weight), ..Default::default() };
    let refused = refusal(api.client.update(&id, &change(weight(Some(7)))).await);
    assert_eq!((refused.0, refused.1.code), (409, ErrorCode::LimitUnavailable));
    let sandbox = api.client.get(&id).await.unwrap();
    assert!(sandbox.metadata.is_empty(), "all of a change is made, or nothing");
    assert_eq!(sandbox.resources.cpu_weight, None);
    let same = api.client.update(&id, &change(weight(None))).await.unwrap();
    assert_eq!(same.metadata["a"], "b");
    api.stop().await;
}

#[tokio::test]
async fn all_sandboxes_together_have_a_limit_of_memory() {
    let api = Api::with(|config| config.memory_mib_total = 256).await;
    let of = |mib: u64| json!({"resources": {"memory_mib": mib}});
    let small = api.create().await;
    let (status, body) = refusal(api.create_as(of(194)).await);
    assert_eq!((status, body.code), (429, ErrorCode::NoCapacity));
    let expect = "194 MiB are asked for, and 192 of the 256 MiB of all sandboxes are free";
    assert_eq!(body.error, expect);
    assert!(body.hint.unwrap().contains("--memory-mib"));
    let large = api.create_as(of(192)).await.unwrap();
    let info = api.client.info().await.unwrap();
    assert_eq!((info.sandboxes_memory_mib, info.sandboxes_memory_mib_max), (256, 256));
    assert_eq!(refusal(api.client.create(None).await).1.code, ErrorCode::NoCapacity);

    // A sandbox whose VMM has ended has given its memory back, though it is listed.
    let pid = api.client.get(&large).await.unwrap().vmm_pid.unwrap();
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    wait::until(async || api.client.get(&large).await.unwrap().state == SandboxState::Gone).await;
    assert_eq!(api.client.info().await.unwrap().sandboxes_memory_mib, 64);
    api.create_as(of(192)).await.unwrap();
    api.client.delete(&small).await.unwrap();
    api.create().await;
    api.stop().await;
}

#[tokio::test]
async fn a_size_is_pinned_and_removed() {
    let api = Api::with_templates(|_| {}).await;
    let wanted = BuildTemplate { pool_size: Some(1), ..memory(96) };
    let built = api.client.build_template_of("shell", &wanted).await.unwrap();
    assert_eq!((built.state, built.memory_mib, built.pinned), (TemplateState::Ready, 96, true));
    let list = api.client.templates().await.unwrap().templates;
    assert!(list.contains(&built) && list.iter().all(|template| template.pinned), "{list:?}");
    let pool = async || {
        let pools = api.client.info().await.unwrap().pools;
        pools.into_iter().find(|pool| pool.language_pack == "shell" && pool.memory_mib == 96)
    };
    assert_eq!(pool().await.unwrap().target, 1);
    let size = Resources { memory_mib: Some(96), ..Resources::default() };
    api.client.delete_template_of("shell", &size).await.unwrap();
    assert_eq!(pool().await, None);
    wait::until(async || api.sandboxes.reaping() == 0).await;
    let list = api.client.templates().await.unwrap().templates;
    assert!(list.iter().all(|template| template.memory_mib == 64), "{list:?}");
    api.stop().await;
}

#[tokio::test]
async fn pinned_sizes_have_a_limit() {
    let api =
        Api::with_templates(|double| double.misbehave("refuse-at=PUT /snapshot/create")).await;
    for n in 0..64 {
        let built = api.client.build_template_of("shell", &memory(66 + 2 * n)).await;
        assert_eq!(refusal(built).1.code, ErrorCode::TemplateFailed);
    }
    let (status, body) = refusal(api.client.build_template_of("shell", &memory(600)).await);
    assert_eq!((status, body.code), (429, ErrorCode::TooMany));
    api.stop().await;
}
