//! What the inside of a real guest has in common with any machine people know.

use emberd_api::ExecBody;
use emberd_proto::ExecSpec;

use super::{Daemon, code, spec};

/// Fills every place with content, and the disk with empty files of long names, first; says how
/// often there was no space.
const FILL: &str = "exec 2>&1
mkdir /root/small && cd /root/small
name=$(printf 'x%.0s' $(seq 200))
directory=0
while mkdir $directory; do
    for number in $(seq 500); do : > $directory/$number$name || break 2; done
    directory=$((directory + 1))
done
rm 0/1$name 0/2$name 0/3$name 0/4$name
for place in /dev/shm /root /run /tmp /dev; do
    head -c 2G /dev/zero > $place/fill
done
cd /";

/// Renames a directory of the image, compares devices, and changes a file that has two names.
const ONE_DISK: &str = "
import os
os.rename('/usr/share/zoneinfo/Arctic', '/usr/share/zoneinfo/moved')
print(os.listdir('/usr/share/zoneinfo/moved'))
devices = {os.lstat(path).st_dev for path in ('/', '/usr', '/usr/bin/env', '/etc/passwd', '/tmp')}
print(len(devices), os.path.ismount('/etc/passwd'))
names = {}
for name in os.listdir('/usr/bin'):
    status = os.lstat(f'/usr/bin/{name}')
    if status.st_nlink > 1:
        names.setdefault(status.st_ino, []).append(f'/usr/bin/{name}')
first, second = next(found for found in names.values() if len(found) > 1)[:2]
open(first, 'ab').write(b'appended')
print(open(second, 'rb').read().endswith(b'appended'), os.path.samefile(first, second))";

#[tokio::test(flavor = "multi_thread")]
async fn a_full_machine_lives_and_can_be_emptied() {
    // Its disk of 64 MiB has 8,192 inodes, which are soon used up.
    for disk in ["off", "64"] {
        let Some(daemon) = Daemon::start(&["--disk-mib", disk]) else { return };
        machine_is_filled_and_emptied(&daemon).await;
        daemon.stop();
    }
}

async fn machine_is_filled_and_emptied(daemon: &Daemon) {
    let id = daemon.create("shell").await;
    let told = daemon.output(&id, FILL).await;
    assert_eq!(told.matches("No space left on device").count(), 6, "{told}");
    assert_eq!(daemon.output(&id, "echo alive").await, "alive\n");
    let metrics = daemon.client.metrics(&id).await.unwrap();
    assert!(metrics.disk_used_bytes > metrics.disk_total_bytes / 10 * 9, "{metrics:?}");
    let emptied = "rm -r /root/small /root/fill /dev/shm/fill /run/fill /tmp/fill /dev/fill\n\
        head -c 10M /dev/zero > /tmp/new && head -c 10M /dev/zero > /dev/shm/new && echo written";
    assert_eq!(daemon.output(&id, emptied).await, "written\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn cgroups_are_bounded_and_execs_go_on() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("shell").await;
    let fill = "cd /sys/fs/cgroup; mkdir $(seq -f full%g 3000) 2>&1 | grep -c unavailable\n\
        ls -d full* | wc -l";
    let counts = daemon.output(&id, fill).await;
    let counts: Vec<u32> = counts.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(counts[0] + counts[1], 3000);
    assert!((900..=1024).contains(&counts[1]), "{counts:?}");
    for _ in 0..3 {
        assert_eq!(daemon.output(&id, "echo alive").await, "alive\n");
    }
    assert_eq!(daemon.output(&id, "rmdir /sys/fs/cgroup/full*; echo $?").await, "0\n");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_is_one_disk_and_code_lies_beside_its_modules() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("python").await;
    let expect = "['Longyearbyen']\n1 False\nTrue True\n";
    assert_eq!(daemon.output(&id, ONE_DISK).await, expect);
    let place = "import os; os.mkdir('/srv/project')\n\
        open('/srv/project/neighbour.py', 'w').write('value = 7')\n\
        open('/srv/project/sitecustomize.py', 'w').write('raise SystemError')";
    daemon.output(&id, place).await;
    let import = "import neighbour, os, sys; print(neighbour.value, sys.path[0], os.getuid())";
    let check = async |expect: &str, edit: fn(&mut ExecSpec)| {
        let mut spec = ExecSpec { cwd: Some("/srv/project".into()), ..spec(import) };
        edit(&mut spec);
        let outcome = daemon.exec(&id, &ExecBody { spec, stdin: None, stdin_base64: None }).await;
        assert_eq!(outcome.stdout, expect, "{outcome:?}");
    };
    check("7 /srv/project 0\n", |_| {}).await;
    check("7 /srv/project 0\n", |spec| spec.fresh = true).await;
    check("7 /srv/project 1000\n", |spec| spec.user = Some("user".into())).await;
    check("", |spec| drop(spec.env.insert("PYTHONSAFEPATH".into(), "1".into()))).await;

    let id = daemon.create("node").await;
    let place = "require('fs').writeFileSync('neighbour.js', 'module.exports = 7')";
    daemon.exec(&id, &code(place)).await;
    let import = "console.log(require('./neighbour'), require.main === module)";
    let with_options = ExecSpec {
        env: [("NODE_OPTIONS".to_owned(), "--no-warnings".to_owned())].into(),
        ..spec(import)
    };
    for spec in [spec(import), with_options] {
        let outcome = daemon.exec(&id, &ExecBody { spec, stdin: None, stdin_base64: None }).await;
        assert_eq!(outcome.stdout, "7 true\n", "{outcome:?}");
    }
    daemon.stop();
}
