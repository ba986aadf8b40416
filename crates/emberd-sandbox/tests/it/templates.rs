//! Templates: made, shared, damaged, removed; and sandboxes restored from them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use emberd_proto::ExecSpec;
use emberd_sandbox::{
    BootPath, BuildTemplateError, RemoveTemplateError, SandboxState, TemplateState,
};
use fake_firecracker::write_program;
use futures::future::join_all;

use crate::fixture::{ById as _, Fixture, SAME, driver_of, shell, until, with_templates};

const REFUSE_LOAD: &str = "refuse-at=PUT /snapshot/load";
const REFUSE_SNAPSHOT: &str = "refuse-at=PUT /snapshot/create";
const HANG_SNAPSHOT: &str = "hang-at=PUT /snapshot/create";

/// Distinguishes one build of a template from the next. The number of a file alone does not: a
/// file system may give it to the next file.
fn identity(dir: &Path) -> (u64, i64, i64) {
    let state = fs::metadata(dir.join("state")).unwrap();
    (state.ino(), state.ctime(), state.ctime_nsec())
}

fn damage(file: &Path) {
    // Not in place: the file may be mapped.
    fs::remove_file(file).unwrap();
    fs::write(file, "damaged").unwrap();
}

#[tokio::test]
async fn sandboxes_are_restored_once_there_is_a_template() {
    let fixture = Fixture::restored();
    assert_eq!(fixture.sandboxes.boot_path(), BootPath::SnapshotRestore);
    let template = fixture.build().await;
    assert_eq!(template.state, TemplateState::Ready);
    assert!(template.disk_bytes.unwrap() > 0);
    assert!(template.made_at.is_some());
    let dir = template.dir.unwrap();
    let name = dir.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("shell-") && name.len() == "shell-".len() + 16, "{name}");

    let created = fixture.sandboxes.create(&shell()).await.unwrap();
    assert_eq!(created.boot_path, BootPath::SnapshotRestore);
    let (boot, view) = (created.boot, fixture.sandboxes.get(created.id).unwrap().view());
    assert!(boot.load.is_some() && boot.renew.is_some() && boot.warm_up.is_none());
    assert_eq!((view.boot, view.boot_path), (Some(boot), Some(BootPath::SnapshotRestore)));
    assert!(view.dir.join("sandbox.jsonl").exists());
    assert_eq!(fixture.exec(created.id, "echo awake").await.unwrap().stdout, "awake\n");
    fixture.close().await;
}

#[tokio::test]
async fn sandboxes_boot_cold_while_the_template_is_built_and_removal_cuts_that_off() {
    let fixture = Fixture::restored_by(|double| double.misbehave(HANG_SNAPSHOT));
    assert_eq!(fixture.template().state, TemplateState::Building);
    let id = fixture.create().await;
    assert_eq!(fixture.boot_path(id), BootPath::ColdBoot);
    let pack = shell();
    let (built, removed) = tokio::join!(
        fixture.sandboxes.build_template(&pack, &SAME, None),
        fixture.sandboxes.remove_template(&pack, &SAME),
    );
    assert!(matches!(built, Err(BuildTemplateError::Removed(_))), "{built:?}");
    removed.unwrap();
    assert_eq!(fixture.template().state, TemplateState::Absent);
    until(|| fixture.left().len() == 1).await;
    fixture.close().await;
}

#[tokio::test]
async fn failed_build_is_told_and_tried_again() {
    let fixture = Fixture::restored_by(|double| double.misbehave(REFUSE_SNAPSHOT));
    let error = fixture.sandboxes.build_template(&shell(), &SAME, None).await.unwrap_err();
    assert!(matches!(error, BuildTemplateError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("did not write the snapshot"), "{error}");
    let template = fixture.template();
    assert_eq!(template.state, TemplateState::Failed);
    assert!(template.error.unwrap().contains("did not write the snapshot"));
    assert_eq!(fixture.sandboxes.boot_path(), BootPath::ColdBoot);
    let id = fixture.create().await;
    assert_eq!(fixture.boot_path(id), BootPath::ColdBoot);
    fixture.double.behave();
    until(|| fixture.template().state == TemplateState::Ready).await;
    fixture.close().await;
}

#[tokio::test]
async fn template_without_its_zygote_is_not_kept() {
    let fixture = Fixture::restored();
    // Nothing has booted yet: no task runs before this one waits.
    fixture.have_broken_zygote(true);
    let error = fixture.sandboxes.build_template(&shell(), &SAME, None).await.unwrap_err();
    assert!(error.to_string().contains("zygote"), "{error}");
    let template = fixture.template();
    assert!(template.dir.is_none() && template.error.unwrap().contains("zygote"));
    let templates = fixture.run_dir.with_file_name("templates");
    let kept = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("shell-");
    assert!(!templates.read_dir().unwrap().any(|entry| kept(entry.unwrap())));
    let id = fixture.create().await;
    assert_eq!(fixture.boot_path(id), BootPath::ColdBoot);
    assert_eq!(fixture.exec(id, "echo spawned").await.unwrap().stdout, "spawned\n");
    fixture.have_broken_zygote(false);
    until(|| fixture.template().state == TemplateState::Ready).await;
    let id = fixture.create().await;
    assert_eq!(fixture.boot_path(id), BootPath::SnapshotRestore);
    fixture.close().await;
}

#[tokio::test]
async fn everybody_who_asks_for_a_template_waits_for_one_build() {
    let fixture = Fixture::restored();
    let builds = join_all((0..8).map(|_| fixture.build())).await;
    assert!(builds.iter().all(|built| *built == builds[0]));
    fixture.close().await;
}

#[tokio::test]
async fn damaged_template_fails_nobody_and_is_built_once_more() {
    let fixture = Fixture::restored();
    let dir = fixture.build().await.dir.unwrap();
    let damaged = identity(&dir);
    damage(&dir.join("state"));
    let created = join_all((0..50).map(|_| fixture.create())).await;
    assert!(created.iter().all(|id| fixture.boot_path(*id) == BootPath::ColdBoot));
    until(|| fixture.template().state == TemplateState::Ready).await;
    let rebuilt = identity(&dir);
    assert_ne!(rebuilt, damaged);
    for _ in 0..3 {
        let id = fixture.create().await;
        assert_eq!(fixture.boot_path(id), BootPath::SnapshotRestore);
    }
    assert_eq!(identity(&dir), rebuilt);
    fixture.close().await;
}

#[tokio::test]
async fn one_failed_restore_does_not_condemn_a_template_but_two_in_a_row_do() {
    let fixture = Fixture::restored_by(|double| double.misbehave(REFUSE_LOAD));
    let dir = fixture.build().await.dir.unwrap();
    let first = identity(&dir);
    let id = fixture.create().await;
    assert_eq!(fixture.boot_path(id), BootPath::ColdBoot);
    assert_eq!(fixture.template().state, TemplateState::Ready);
    // Soon after, it is built again.
    let fails = until(|| {
        let template = fixture.template();
        let why = template.error.unwrap_or_default();
        template.state == TemplateState::Failed
            && why.contains("restoring from the template failed")
    });
    let (id, ()) = tokio::join!(fixture.create(), fails);
    assert_eq!(fixture.boot_path(id), BootPath::ColdBoot);
    fixture.double.behave();
    until(|| fixture.template().state == TemplateState::Ready).await;
    assert_ne!(identity(&dir), first);
    let id = fixture.create().await;
    assert_eq!(fixture.boot_path(id), BootPath::SnapshotRestore);
    fixture.close().await;
}

#[tokio::test]
async fn damage_that_one_failed_restore_hints_at_is_found() {
    let fixture = Fixture::restored();
    let dir = fixture.build().await.dir.unwrap();
    let damaged = identity(&dir);
    damage(&dir.join("state"));
    fixture.create().await;
    // Verifying finds it without another restore.
    until(|| dir.join("state").exists() && identity(&dir) != damaged).await;
    until(|| fixture.template().state == TemplateState::Ready).await;
    fixture.close().await;
}

/// Restores a sandbox from a VMM that stood by and has these faults; it boots cold then, and
/// the template stays.
async fn check_booted_instead(faults: &str) {
    let fixture = Fixture::with(with_templates);
    fixture.build().await;
    fixture.filled().await;
    // What stands by behaves; what takes its place does not; what comes then does again.
    fixture.double.misbehave(faults);
    let first = fixture.create().await;
    assert_eq!(fixture.boot_path(first), BootPath::SnapshotRestore);
    fixture.filled().await;
    fixture.double.behave();
    let second = fixture.create().await;
    assert_eq!(fixture.boot_path(second), BootPath::ColdBoot, "{faults}");
    assert_eq!(fixture.exec(second, "echo awake").await.unwrap().stdout, "awake\n");
    assert_eq!(fixture.template().state, TemplateState::Ready);
    let third = fixture.create().await;
    assert_eq!(fixture.boot_path(third), BootPath::SnapshotRestore);
    fixture.close().await;
}

#[tokio::test]
async fn vmm_that_dies_while_it_loads_is_replaced_by_one_that_boots() {
    check_booted_instead("die-at=PUT /snapshot/load=149").await;
}

#[tokio::test]
async fn guest_that_does_not_wake_up_is_replaced_by_one_that_boots() {
    check_booted_instead("never-ready").await;
}

#[tokio::test]
async fn guest_whose_stream_breaks_off_is_replaced_by_one_that_boots() {
    check_booted_instead("cut-vsock=3").await;
}

#[tokio::test]
async fn removed_template_can_be_built_again() {
    let fixture = Fixture::pooled(2);
    let dir = fixture.build().await.dir.unwrap();
    fixture.filled().await;
    fixture.sandboxes.remove_template(&shell(), &SAME).await.unwrap();
    assert!(!dir.exists());
    let pool = fixture.pool();
    assert_eq!((pool.ready, pool.standing_by), (0, 0));
    let id = fixture.create().await;
    assert_eq!(fixture.boot_path(id), BootPath::ColdBoot);
    fixture.sandboxes.remove_template(&shell(), &SAME).await.unwrap();
    fixture.build().await;
    fixture.filled().await;
    let id = fixture.create().await;
    assert_eq!(fixture.boot_path(id), BootPath::WarmPool);
    fixture.close().await;
}

#[tokio::test]
async fn daemons_share_templates() {
    let one = Fixture::restored();
    let templates = one.run_dir.with_file_name("templates");
    let share = |config: &mut emberd_sandbox::SandboxesConfig| {
        config.template_dir = Some(templates.clone());
    };
    let other = Fixture::with(share);
    // Both may build it; one of them publishes it, and both use that, if at a second attempt.
    let is_ready = |fixture: &Fixture| fixture.template().state == TemplateState::Ready;
    until(|| is_ready(&one) && is_ready(&other)).await;
    assert_eq!(one.template().dir, other.template().dir);
    let dir = one.template().dir.unwrap();
    let made = identity(&dir);
    let late = Fixture::with(share);
    late.build().await;
    assert_eq!(identity(&dir), made);
    for fixture in [&one, &other, &late] {
        let id = fixture.create().await;
        assert_eq!(fixture.boot_path(id), BootPath::SnapshotRestore);
    }
    other.close().await;
    late.close().await;
    one.close().await;
}

#[tokio::test]
async fn what_is_stale_torn_or_damaged_is_gone_after_a_start() {
    let one = Fixture::restored();
    let templates = one.run_dir.with_file_name("templates");
    let dir = one.build().await.dir.unwrap();
    let stale = templates.join("shell-0123456789abcdef");
    let torn = templates.join("shell-0123456789abcdef.1.unfinished");
    let foreign = templates.join("notes");
    for made in [&stale, &torn, &foreign] {
        fs::create_dir(made).unwrap();
    }
    let share = |config: &mut emberd_sandbox::SandboxesConfig| {
        config.template_dir = Some(templates.clone());
    };
    let beside = Fixture::with(share);
    assert!(stale.exists() && torn.exists());
    beside.close().await;
    let one = one.restart(|| {}).await;
    assert!(!stale.exists() && !torn.exists() && foreign.exists());
    one.build().await;
    let good = identity(&dir);
    let one = one.restart(|| damage(&dir.join("memory"))).await;
    one.build().await;
    assert_ne!(identity(&dir), good);
    let id = one.create().await;
    assert_eq!(one.boot_path(id), BootPath::SnapshotRestore);
    one.close().await;
}

#[tokio::test]
async fn without_templates_everything_boots_cold() {
    let fixture = Fixture::new();
    assert_eq!(fixture.sandboxes.boot_path(), BootPath::ColdBoot);
    assert!(fixture.sandboxes.templates().is_empty() && fixture.sandboxes.pools().is_empty());
    let built = fixture.sandboxes.build_template(&shell(), &SAME, None).await;
    assert!(matches!(built, Err(BuildTemplateError::NoTemplates(_))));
    let removed = fixture.sandboxes.remove_template(&shell(), &SAME).await;
    assert!(matches!(removed, Err(RemoveTemplateError::NoTemplates(_))));
    let id = fixture.create().await;
    assert_eq!(fixture.boot_path(id), BootPath::ColdBoot);
    fixture.close().await;
}

#[tokio::test]
async fn vmm_whose_snapshots_are_broken_boots_cold() {
    let fixture = Fixture::prepared(
        |_| {},
        with_templates,
        |double| {
            let old = double.binary().with_file_name("firecracker-1.16.0");
            let binary = double.binary();
            let script = format!("exec '{}' \"$@\" --fake-version 1.16.0", binary.display());
            write_program(&old, &script);
            driver_of(old)
        },
    );
    assert_eq!(fixture.sandboxes.boot_path(), BootPath::ColdBoot);
    let built = fixture.sandboxes.build_template(&shell(), &SAME, None).await.unwrap_err();
    assert!(built.to_string().contains("Firecracker 1.16.0"), "{built}");
    let id = fixture.create().await;
    assert!(matches!(fixture.sandboxes.get(id).unwrap().view().state, SandboxState::Ready { .. }));
    assert_eq!(fixture.boot_path(id), BootPath::ColdBoot);
    fixture.close().await;
}

#[tokio::test]
async fn unknown_packs_have_no_template() {
    let fixture = Fixture::restored();
    let cobol = "cobol".parse().unwrap();
    let built = fixture.sandboxes.build_template(&cobol, &SAME, None).await;
    assert!(matches!(built, Err(BuildTemplateError::UnknownPack(_))));
    let removed = fixture.sandboxes.remove_template(&cobol, &SAME).await;
    assert!(matches!(removed, Err(RemoveTemplateError::UnknownPack(_))));
    fixture.close().await;
}

#[tokio::test]
async fn clones_do_not_see_each_other() {
    let fixture = Fixture::restored();
    fixture.build().await;
    let clones = join_all((0..8).map(|_| fixture.create())).await;
    let inputs: Vec<_> = clones.iter().map(ToString::to_string).collect();
    let echoes = clones
        .iter()
        .zip(&inputs)
        .map(|(id, input)| fixture.sandboxes.exec(*id, ExecSpec::new("cat"), input.as_bytes()));
    for (input, echo) in inputs.iter().zip(join_all(echoes).await) {
        assert_eq!(&echo.unwrap().outcome.stdout, input);
    }
    // Each runs in its own directory.
    let dirs =
        join_all(clones.iter().map(|id| fixture.exec(*id, "readlink /proc/$PPID/cwd"))).await;
    for (id, dir) in clones.iter().zip(dirs) {
        assert!(dir.unwrap().stdout.contains(&id.to_string()));
    }
    fixture.close().await;
}
