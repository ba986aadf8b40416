//! The disk of a sandbox: larger than its memory, as any ext4, and its own.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::Daemon;
use crate::wait;

/// Writes and reads back twice as much as the guest's memory, by direct I/O too; sets an attribute.
const AS_ANY_DISK: &str = r#"
import mmap, os
piece = os.urandom(1 << 20)
with open("/var/large", "wb") as file:
    for _ in range(512):
        file.write(piece)
with open("/var/large", "rb") as file:
    print(all(file.read(1 << 20) == piece for _ in range(512)), file.read())
direct = os.open("/var/direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
page = mmap.mmap(-1, 4096)
page[:] = b"d" * 4096
print(os.write(direct, page), os.stat("/var/direct").st_size)
os.setxattr("/var/direct", "user.colour", b"red")
print(os.getxattr("/var/direct", "user.colour"))
os.setxattr("/etc/hostname", "user.colour", b"blue")
print(os.getxattr("/etc/hostname", "user.colour"))
"#;

/// Bytes that files without a name take, as `process` has them open.
fn unnamed_bytes(process: u32) -> u64 {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let files = descriptors.filter_map(|entry| fs::metadata(entry.ok()?.path()).ok());
    let files = files.filter(|file| file.is_file() && file.nlink() == 0 && file.len() == 2 << 30);
    // One file may be open under several numbers.
    files.map(|file| file.blocks() * 512).max().expect("the VMM has its disk open")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_larger_than_memory_and_each_sandbox_has_its_own() {
    let disks = tempfile::Builder::new().prefix("e2e-disks").tempdir_in("/tmp").unwrap();
    let dir = disks.path().to_str().unwrap();
    let Some(daemon) = Daemon::instant(&["--pool-size", "off", "--disk-dir", dir]) else { return };
    daemon.client.build_template("python").await.unwrap();
    let ids = [daemon.create("python").await, daemon.create("python").await];
    let pid = daemon.client.get(&ids[0]).await.unwrap().vmm_pid.unwrap();
    assert!(unnamed_bytes(pid) < 64 << 20, "a new disk takes little");
    let expect = "True b''\n4096 4096\nb'red'\nb'blue'\n";
    assert_eq!(daemon.output(&ids[0], AS_ANY_DISK).await, expect);
    assert!(unnamed_bytes(pid) > 512 << 20);
    let absent = "import os; print(os.path.exists('/var/large'), os.listxattr('/etc/hostname'))";
    assert_eq!(daemon.output(&ids[1], absent).await, "False []\n");
    // What is deleted is the host's again.
    daemon.output(&ids[0], "import os; os.remove('/var/large'); os.sync()").await;
    wait::until(async || unnamed_bytes(pid) < 128 << 20).await;
    let later = daemon.create("python").await;
    assert_eq!(daemon.output(&later, absent).await, "False []\n");
    daemon.stop();
    let left: Vec<_> =
        fs::read_dir(Path::new(dir)).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(left, ["empty-2048.ext4"]);
}
