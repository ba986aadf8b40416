//! What code that has broken out of a guest finds in its QEMU: rights, files, descriptors.
//!
//! The tests act with a VMM's own descriptors, as such code could. A jail needs root;
//! elsewhere its tests say so.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;

use emberd_vmm::{
    IdRange, JailChoice, MicroVm as _, OrphanVmm, Template, Vmm as _, remove_orphans,
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::guests::{Lab, answers};
use crate::agent::Agent;

/// First user of the jails made here.
const FIRST_UID: u32 = 1_900_005_000;

/// A lab whose VMMs are jailed.
fn jailed() -> Option<Lab> {
    if !emberd_testing::needs(rustix::process::geteuid().is_root(), "jails need root") {
        return None;
    }
    let lab = Lab::new()?;
    Some(lab.with(|config| {
        config.jail.choice = JailChoice::On;
        config.jail.ids = IdRange { first: FIRST_UID, count: 2 };
    }))
}

/// The descriptors of a process beyond its standard streams, with what they lead to.
fn descriptors(process_id: u32) -> Vec<(i32, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{process_id}/fd")).unwrap().map(Result::unwrap);
    let numbers = entries.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap());
    let above = numbers.filter(|number: &i32| *number > 2);
    // A link of a closed descriptor leads nowhere.
    above
        .filter_map(|number| {
            Some((number, fs::read_link(format!("/proc/{process_id}/fd/{number}")).ok()?))
        })
        .collect()
}

/// Takes a descriptor as the process itself has it.
fn taken(process_id: u32, number: i32) -> OwnedFd {
    let pid = Pid::from_raw(process_id.cast_signed()).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).unwrap()
}

/// Writes to every file a clone has open, and opens again for writing what leads to memory.
fn write_wherever_it_can(process_id: u32) {
    let mut files = 0;
    for (number, leads_to) in descriptors(process_id) {
        let path = leads_to.to_string_lossy();
        if path.starts_with("socket:") || path.starts_with("anon_inode:") {
            continue;
        }
        files += 1;
        let file = File::from(taken(process_id, number));
        assert!(file.write_all_at(&[0x5a; 4096], 0).is_err(), "wrote to {path}");
        file.set_len(0).unwrap_err();
        if path.starts_with("/memfd:") {
            let again = format!("/proc/{process_id}/fd/{number}");
            let again = File::options().write(true).open(again).unwrap();
            again.write_all_at(&[0x5a; 4096], 0).unwrap_err();
        }
    }
    assert!(files >= 2, "a clone has memory and a disk");
}

fn sum(path: PathBuf) -> Vec<u8> {
    use sha2::Digest as _;
    sha2::Sha256::digest(fs::read(path).unwrap()).to_vec()
}

async fn no_clone_can_change_its_template(lab: Lab) {
    let template = lab.template(&lab.boot().await).await.unwrap();
    let rootfs = sum(lab.spec().rootfs);
    let clone = lab.clone_of(&template, "sb_1").await;
    assert!(answers(&clone).await);
    write_wherever_it_can(clone.process_id());
    assert!(answers(&clone).await, "what it maps is as it was");
    assert!(answers(&lab.clone_of(&template, "sb_2").await).await);
    template.verify().unwrap();
    assert_eq!(Template::open(template.dir()).unwrap(), template);
    assert_eq!(sum(lab.spec().rootfs), rootfs);
    drop(clone);
    lab.assert_left(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_clone_can_change_its_template_without_a_jail() {
    let Some(lab) = Lab::new() else { return };
    let lab = lab.with(|config| config.jail.choice = JailChoice::Off);
    no_clone_can_change_its_template(lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_clone_can_change_its_template_in_a_jail() {
    let Some(lab) = jailed() else { return };
    no_clone_can_change_its_template(lab).await;
}

/// A field of `/proc/PID/status`.
fn status(process_id: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process_id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jailed_vmm_has_a_user_a_root_and_namespaces_of_its_own_and_no_rights() {
    let Some(lab) = jailed() else { return };
    let reason = &lab.qemu.description().reason;
    assert!(reason.contains("jailed: own user, root and network; "), "{reason}");
    let vm = lab.qemu.boot(lab.spec()).await.unwrap();
    assert!(answers(&vm).await);
    let process_id = vm.process_id();

    let ids = [FIRST_UID; 4].map(|id| id.to_string()).join(" ");
    // The trial had the first of the two.
    let next = [FIRST_UID + 1; 4].map(|id| id.to_string()).join(" ");
    let uid = status(process_id, "Uid");
    assert!(uid == ids || uid == next, "{uid}");
    assert_eq!(status(process_id, "Gid"), uid);
    assert_eq!(status(process_id, "Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(process_id, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(process_id, "NoNewPrivs"), "1");
    assert_eq!(status(process_id, "Seccomp"), "2");

    for name in ["mnt", "net", "ipc", "uts"] {
        let ours = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let theirs = fs::read_link(format!("/proc/{process_id}/ns/{name}")).unwrap();
        assert_ne!(ours, theirs, "{name}");
    }
    let mounts = fs::read_to_string(format!("/proc/{process_id}/mountinfo")).unwrap();
    for mount in mounts.lines() {
        let fields: Vec<_> = mount.split(' ').collect();
        let (at, options) = (fields[4], fields[5]);
        assert!(options.contains("nosuid"), "{mount}");
        assert_eq!(options.starts_with("rw"), at == "/vm", "{mount}");
    }
    let root = PathBuf::from(format!("/proc/{process_id}/root"));
    for hidden in ["home", "root", "tmp", "var", "run", "etc/passwd", "sys", "dev", "proc/1"] {
        assert!(!root.join(hidden).exists(), "{hidden}");
    }
    for (_, leads_to) in descriptors(process_id) {
        let inside = leads_to.starts_with("/images") || leads_to.starts_with("/vm");
        let nameless = leads_to.is_relative();
        assert!(inside || nameless, "{}", leads_to.display());
    }

    // What the daemon reads, and believes, the VMM cannot write.
    let dir = vm.console_log().parent().unwrap();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let theirs = entry.metadata().unwrap().uid() != 0;
        assert_eq!(theirs, entry.file_name() == "vm", "{}", entry.path().display());
    }
    assert_eq!(fs::metadata(dir).unwrap().mode() & 0o777, 0o700);
    vm.kill().await.unwrap();
    lab.assert_left(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn jailed_vms_have_different_users_and_what_a_killed_daemon_left_is_removed() {
    let Some(lab) = jailed() else { return };
    let vm = lab.boot().await;
    let template = lab.template(&vm).await.unwrap();
    vm.resume().await.unwrap();
    let clone = lab.clone_of(&template, "sb_1").await;
    assert_ne!(status(vm.process_id(), "Uid"), status(clone.process_id(), "Uid"));
    // All users of the range have a VM.
    let refused = lab.qemu.boot(emberd_vmm::BootSpec { dir: lab.vm("sb_2"), ..lab.spec() }).await;
    assert!(refused.is_err());
    assert_eq!(Agent::connect(&vm).await.run("echo on").await, "on\n");
    drop(vm);

    let process_id = clone.process_id();
    std::mem::forget(clone);
    let removed = remove_orphans(&lab.vm(""), |name| name.starts_with("sb_")).unwrap();
    assert_eq!((removed.len(), removed[0].vmm), (1, OrphanVmm::Killed { process_id }));
    lab.assert_left(1);
}

/// `/proc/PID/pagemap` distinguishes a clone's changes from its template's memory: its
/// own pages are anonymous, the template's are a file's.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_clones_own_are_told_from_its_templates() {
    const PRESENT: u64 = 1 << 63;
    const FILE: u64 = 1 << 61;
    let Some(lab) = Lab::new() else { return };
    let template = lab.template(&lab.boot().await).await.unwrap();
    let clone = lab.clone_of(&template, "sb_1").await;
    assert!(answers(&clone).await);
    let process_id = clone.process_id();
    let maps = fs::read_to_string(format!("/proc/{process_id}/maps")).unwrap();
    let line = maps.lines().find(|line| line.contains("/memfd:emberd-template")).unwrap();
    assert!(line.contains(" rw-p "), "{line}");
    let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
    let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).unwrap());
    let pagemap = File::open(format!("/proc/{process_id}/pagemap")).unwrap();
    let mut entries = vec![0; usize::try_from((end - start) / 4096 * 8).unwrap()];
    pagemap.read_exact_at(&mut entries, start / 4096 * 8).unwrap();
    let entries = entries.as_chunks::<8>().0.iter().map(|entry| u64::from_ne_bytes(*entry));
    let present: Vec<_> = entries.filter(|entry| entry & PRESENT != 0).collect();
    let own = present.iter().filter(|entry| **entry & FILE == 0).count();
    assert!(own > 0 && own < present.len());
    let pages = usize::try_from((end - start) / 4096).unwrap();
    assert!(own < pages / 2, "{own} of {pages} pages are the clone's own");
}
