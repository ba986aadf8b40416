//! The disk of a sandbox: larger than its memory, as any ext4, its own, and of the size asked for.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use emberd_api::{CreateSandbox, ErrorCode, Resources};

use super::Daemon;
use super::daemon::refusal;
use super::pool::pool;
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
    let mut left: Vec<_> =
        fs::read_dir(Path::new(dir)).unwrap().map(|it| it.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["empty-2048.ext4", "empty-64.ext4"]);
}

/// Tells the size of the disk in MiB, fills it, and does to its files what any disk allows.
const FILLED: &str = r#"
import errno, os
all = os.statvfs("/")
print(all.f_blocks * all.f_frsize >> 20)
free = all.f_bavail * all.f_frsize
with open("/var/large", "wb") as file:
    os.posix_fallocate(file.fileno(), 0, free - (64 << 20))
    file.seek(free - (65 << 20))
    file.write(b"x" * (1 << 20))
    os.fsync(file.fileno())
with open("/var/larger", "wb") as file:
    try: os.posix_fallocate(file.fileno(), 0, 128 << 20)
    except OSError as error: print(errno.errorcode[error.errno])
os.remove("/var/larger")
os.link("/var/large", "/var/linked")
os.rename("/var/large", "/root/moved")
os.rename("/usr/share", "/usr/renamed")
print(os.stat("/var/linked").st_nlink, len(os.listdir("/usr/renamed")) > 0)
with open("/root/moved", "rb") as file:
    file.seek(free - (65 << 20))
    print(file.read(2))
os.remove("/root/moved"), os.remove("/var/linked")
"#;

/// Size of the disk in MiB, as `df` tells it.
const DF: &str = "import subprocess\n\
    print(subprocess.check_output(['df', '-m', '--output=size', '/']).split()[1].decode())";

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_has_the_size_asked_for() {
    let flags = ["--pool-size", "1", "--disk-max-mib", "8g"];
    let Some(daemon) = Daemon::instant(&flags) else { return };
    pool(&daemon, |pool| pool.ready == 1).await;
    let of = |disk_mib: u64| CreateSandbox {
        resources: Resources { disk_mib: Some(disk_mib), ..Resources::default() },
        ..CreateSandbox::default()
    };
    for mib in [63, 8193] {
        let (status, body) = refusal(daemon.client.create_with(&of(mib)).await);
        assert_eq!((status, body.code), (400, ErrorCode::InvalidRequest));
        assert!(body.error.contains("is not from 64 to 8192"), "{}", body.error);
    }
    // From the pool, and from a template.
    let create = async || daemon.client.create_with(&of(4096)).await.unwrap().answer.id;
    let ids = [create().await, create().await];
    let pooled = daemon.client.get(&ids[0]).await.unwrap().boot_path;
    assert_eq!(pooled.as_deref(), Some("warm-pool"));
    for id in &ids {
        assert_eq!(daemon.client.get(id).await.unwrap().resources.disk_mib, Some(4096));
        let filled = daemon.output(id, FILLED).await;
        let (size, rest) = filled.split_once('\n').unwrap();
        assert!((3_900..4_096).contains(&size.parse::<u32>().unwrap()), "{size}");
        assert_eq!(rest, "ENOSPC\n2 True\nb'xx'\n");
    }
    // A smaller one is nobody's but its own.
    let small = daemon.client.create_with(&of(256)).await.unwrap().answer.id;
    let cold = daemon.client.get(&small).await.unwrap().boot_path;
    assert_eq!(cold.as_deref(), Some("cold-boot"));
    let filled = daemon.output(&small, FILLED).await;
    let (size, rest) = filled.split_once('\n').unwrap();
    assert!((220..256).contains(&size.parse::<u32>().unwrap()), "{size}");
    assert_eq!(rest, "ENOSPC\n2 True\nb'xx'\n");
    let daemon = daemon.crash_and_restart();
    let size = async |id: &str| daemon.output(id, DF).await.trim().parse::<u32>().unwrap();
    for id in &ids {
        assert_eq!(daemon.client.get(id).await.unwrap().resources.disk_mib, Some(4096));
        assert!((3_900..4_096).contains(&size(id).await));
    }
    let id = daemon.create("python").await;
    assert_eq!(daemon.client.get(&id).await.unwrap().resources.disk_mib, Some(2048));
    assert!((1_900..2_048).contains(&size(&id).await));
    daemon.stop();
}
