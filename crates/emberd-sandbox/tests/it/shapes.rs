//! Sizes of sandboxes: templates and pools of each, which come and go with their use.

use emberd_sandbox::{
    BootPath, BuildTemplateError, CreateError, Created, Resources, SandboxSpec, TemplateState,
    TemplateView,
};
use futures::FutureExt as _;

use crate::fixture::{Fixture, SAME, pool, shell, until, with_templates};

fn memory(mib: u64) -> Resources {
    Resources { memory_mib: Some(mib), ..Resources::default() }
}

impl Fixture {
    async fn create_of(&self, resources: Resources) -> Result<Created, CreateError> {
        let spec = SandboxSpec { resources, ..SandboxSpec::default() };
        self.create_as(spec).await
    }

    async fn path_of(&self, resources: Resources) -> BootPath {
        self.create_of(resources).await.unwrap().boot_path
    }

    /// The template of guests with so much memory, if there is one.
    fn template_of(&self, memory_mib: u32) -> Option<TemplateView> {
        let mut templates = self.sandboxes.templates().into_iter();
        templates.find(|template| template.shape.size.memory_mib == memory_mib)
    }

    async fn is_ready(&self, memory_mib: u32) -> TemplateView {
        let ready = || {
            let template = self.template_of(memory_mib);
            template.filter(|template| template.state == TemplateState::Ready)
        };
        until(|| ready().is_some()).await;
        ready().unwrap()
    }

    fn sizes(&self) -> Vec<u32> {
        let templates = self.sandboxes.templates().into_iter();
        templates.map(|template| template.shape.size.memory_mib).collect()
    }
}

#[tokio::test]
async fn a_size_that_is_asked_for_twice_gets_a_template() {
    let fixture = Fixture::restored();
    fixture.build().await;
    let created = fixture.create_of(memory(96)).await.unwrap();
    assert_eq!(created.boot_path, BootPath::ColdBoot);
    let size = fixture.sandboxes.get(created.id).unwrap().view().shape.size;
    assert_eq!((size.vcpus, size.memory_mib), (1, 96));
    assert_eq!(fixture.sizes(), [64], "once is not often enough");
    assert_eq!(fixture.path_of(memory(96)).await, BootPath::ColdBoot);
    let template = fixture.is_ready(96).await;
    assert!(!template.is_pinned && fixture.template().is_pinned);
    assert_ne!(template.dir, fixture.template().dir);
    assert_eq!(fixture.path_of(memory(96)).await, BootPath::SnapshotRestore);
    assert_eq!(fixture.path_of(SAME).await, BootPath::SnapshotRestore);
    assert_eq!(fixture.sandboxes.pools().len(), 1, "a size that nobody pinned has no pool");
    fixture.close().await;
}

#[tokio::test]
async fn templates_of_other_sizes_outlive_the_daemon() {
    let fixture = Fixture::restored();
    fixture.sandboxes.build_template(&shell(), &memory(96), None).await.unwrap();
    let made_at = fixture.is_ready(96).await.made_at;
    let fixture = fixture.restart(|| {}).await;
    assert_eq!(fixture.is_ready(96).await.made_at, made_at);
    assert_eq!(fixture.path_of(memory(96)).await, BootPath::SnapshotRestore);
    fixture.close().await;
}

#[tokio::test]
async fn a_pinned_size_has_a_pool_until_it_is_removed() {
    let fixture = Fixture::pooled(0);
    let built = fixture.sandboxes.build_template(&shell(), &memory(96), Some(2)).await.unwrap();
    assert!(built.is_pinned);
    let pool = || {
        let mut pools = fixture.sandboxes.pools().into_iter();
        pools.find(|pool| pool.shape.size.memory_mib == 96)
    };
    until(|| pool().is_some_and(|pool| pool.ready == 2 && pool.standing_by == 1)).await;
    // Ready the first time it is polled: nothing is waited for.
    let created = fixture.create_of(memory(96)).now_or_never().unwrap().unwrap();
    assert_eq!(created.boot_path, BootPath::WarmPool);
    let view = fixture.sandboxes.get(created.id).unwrap().view();
    assert_eq!(view.shape.size.memory_mib, 96);
    // Without a size, the pool stays as it is.
    fixture.sandboxes.build_template(&shell(), &memory(96), None).await.unwrap();
    assert_eq!(pool().unwrap().target, 2);
    fixture.sandboxes.remove_template(&shell(), &memory(96)).await.unwrap();
    assert_eq!((pool(), fixture.template_of(96)), (None, None));
    assert!(!built.dir.unwrap().exists());
    assert_eq!(fixture.path_of(memory(96)).await, BootPath::ColdBoot);
    fixture.close().await;
}

#[tokio::test]
async fn memory_bounds_pools_of_different_sizes_together() {
    let fixture =
        Fixture::pooled_with(1, |config| pool(config).memory_mib_max = 64 + 2 * 128 + 127);
    fixture.sandboxes.build_template(&shell(), &memory(128), Some(8)).await.unwrap();
    let ready = || {
        let pools = fixture.sandboxes.pools();
        let held: Vec<_> = pools.iter().map(|pool| pool.ready + pool.filling).collect();
        assert!(held[0] * 64 + held[1] * 128 <= 64 + 2 * 128 + 127, "{held:?}");
        (pools[0].ready, pools[1].ready)
    };
    until(|| ready() == (1, 2)).await;
    fixture.close().await;
}

#[tokio::test]
async fn templates_used_longest_ago_make_room() {
    let fixture = Fixture::restored();
    let bytes = fixture.build().await.disk_bytes.unwrap();
    fixture.close().await;
    let with_room_for = |templates: u64| {
        let edit = move |config: &mut emberd_sandbox::SandboxesConfig| {
            with_templates(config);
            // Half of one more, since they are not all of one size.
            config.template_disk_bytes = templates * bytes + bytes / 2;
        };
        Fixture::with(edit)
    };
    let fixture = with_room_for(3);
    fixture.build().await;
    for mib in [96, 98] {
        fixture.path_of(memory(mib)).await;
        fixture.path_of(memory(mib)).await;
        fixture.is_ready(mib.try_into().unwrap()).await;
    }
    assert_eq!(fixture.path_of(memory(96)).await, BootPath::SnapshotRestore);
    let gone = fixture.template_of(98).unwrap().dir.unwrap();
    fixture.path_of(memory(100)).await;
    fixture.path_of(memory(100)).await;
    fixture.is_ready(100).await;
    until(|| !gone.exists()).await;
    assert_eq!(fixture.sizes(), [64, 96, 100]);
    fixture.close().await;

    let fixture = with_room_for(1);
    fixture.build().await;
    fixture.path_of(memory(96)).await;
    fixture.path_of(memory(96)).await;
    let failed = || fixture.template_of(96).is_some_and(|it| it.state == TemplateState::Failed);
    until(failed).await;
    let error = fixture.template_of(96).unwrap().error.unwrap();
    assert!(error.contains("there is no room for it"), "{error}");
    assert_eq!(fixture.path_of(memory(96)).await, BootPath::ColdBoot);
    assert_eq!(fixture.path_of(SAME).await, BootPath::SnapshotRestore);
    fixture.close().await;
}

#[tokio::test]
async fn many_sizes_at_once_are_built_one_after_the_other() {
    let fixture = Fixture::restored();
    let sizes: Vec<u64> = (0..6).map(|n| 66 + 2 * n).collect();
    for size in sizes.iter().chain(&sizes) {
        fixture.path_of(memory(*size)).await;
    }
    for size in &sizes {
        fixture.is_ready((*size).try_into().unwrap()).await;
    }
    assert_eq!(fixture.path_of(memory(sizes[5])).await, BootPath::SnapshotRestore);
    fixture.close().await;
}

#[tokio::test]
async fn a_size_whose_template_fails_boots_cold() {
    let fixture = Fixture::restored();
    fixture.build().await;
    fixture.double.misbehave("refuse-at=PUT /snapshot/create");
    let built = fixture.sandboxes.build_template(&shell(), &memory(96), Some(1)).await;
    let error = built.unwrap_err();
    assert!(error.to_string().contains("shell with 1 vCPU and 96 MiB"), "{error}");
    assert_eq!(fixture.path_of(memory(96)).await, BootPath::ColdBoot);
    assert_eq!(fixture.sandboxes.boot_path(), BootPath::SnapshotRestore);
    fixture.double.behave();
    fixture.is_ready(96).await;
    fixture.close().await;
}

#[tokio::test]
async fn sizes_have_bounds() {
    let fixture = Fixture::restored();
    let vcpus = |n| Resources { vcpus: Some(n), ..Resources::default() };
    for (resources, expect) in [
        (memory(63), "memory_mib: 63 is not from 64 to 1024"),
        (memory(1026), "memory_mib: 1026 is not from 64 to 1024"),
        (memory(u64::MAX), "memory_mib: 18446744073709551615 is not from"),
        (memory(65), "memory_mib: 65 is not a multiple of 2"),
        (vcpus(0), "vcpus: 0 is not from 1 to "),
        (vcpus(33), "vcpus: 33 is not from 1 to "),
    ] {
        let error = fixture.create_of(resources).await.unwrap_err();
        assert!(matches!(error, CreateError::Resources(_)) && error.to_string().contains(expect));
        let error = fixture.sandboxes.build_template(&shell(), &resources, None).await.unwrap_err();
        assert!(matches!(error, BuildTemplateError::Resources(_)), "{error}");
        fixture.sandboxes.remove_template(&shell(), &resources).await.unwrap_err();
    }
    let error = fixture.sandboxes.build_template(&shell(), &SAME, Some(257)).await.unwrap_err();
    assert_eq!(error.to_string(), "pool_size: 257 is not from 0 to 256");
    assert_eq!(fixture.sizes(), [64]);
    fixture.close().await;
}
