//! Sandboxes of sizes that their callers ask for.

use emberd_api::{CreateSandbox, Resources, TemplateState};

use super::{Daemon, of_pack};

const TWO: Resources = Resources {
    vcpus: Some(2),
    memory_mib: Some(512),
    cpu_percent: None,
    cpu_weight: None,
    disk_mib: None,
    pids: None,
};

/// A guest's own account of itself: processors, MiB of memory, and MiB of disk.
const SEEN: &str = "nproc; free -m | awk '/Mem:/ {print $2}'; df -m / | awk 'END {print $2}'";

async fn create(daemon: &Daemon, resources: Resources) -> (String, String) {
    let id = daemon.create_as(&CreateSandbox { resources, ..of_pack("shell") }).await;
    let boot_path = daemon.client.get(&id).await.unwrap().boot_path.unwrap();
    (id, boot_path)
}

async fn check_size(daemon: &Daemon, id: &str, vcpus: u64, memory_mib: u64) {
    let seen = daemon.output(id, SEEN).await;
    let seen: Vec<u64> = seen.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(seen[0], vcpus);
    // The kernel keeps some for itself.
    assert!((memory_mib * 3 / 4..memory_mib).contains(&seen[1]), "{seen:?} of {memory_mib}");
    assert!((1900..=2048).contains(&seen[2]), "{seen:?}: the disk is the same for all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_has_the_processors_and_the_memory_asked_for() {
    let templates = tempfile::Builder::new().prefix("e2e-templates").tempdir_in("/tmp").unwrap();
    let dir = templates.path().to_str().unwrap();
    let Some(daemon) = Daemon::instant(&["--pool-size", "off", "--template-dir", dir]) else {
        return;
    };
    daemon.client.build_template("shell").await.unwrap();
    for _ in 0..2 {
        let (id, boot_path) = create(&daemon, TWO).await;
        assert_eq!(boot_path, "cold-boot");
        check_size(&daemon, &id, 2, 512).await;
        daemon.client.delete(&id).await.unwrap();
    }
    // Asked for twice, it is being built.
    let list = daemon.client.templates().await.unwrap().templates;
    assert!(list.iter().any(|template| template.memory_mib == 512 && !template.pinned), "{list:?}");
    let wanted =
        emberd_api::BuildTemplate { vcpus: Some(2), memory_mib: Some(512), pool_size: None };
    let built = daemon.client.build_template_of("shell", &wanted).await.unwrap();
    assert_eq!(built.state, TemplateState::Ready);
    let id = daemon.restored(&CreateSandbox { resources: TWO, ..of_pack("shell") }).await.id;
    check_size(&daemon, &id, 2, 512).await;
    // Both processors run programs.
    let both =
        "for n in 1 2; do (i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo $n) & done; wait";
    assert_eq!(daemon.output(&id, both).await.lines().count(), 2);
    let id = daemon.restored(&of_pack("shell")).await.id;
    check_size(&daemon, &id, 1, 256).await;
    daemon.stop();
}
