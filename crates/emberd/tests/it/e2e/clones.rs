//! Clones of one template: each a machine of its own, on the host's time.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emberd_api::SandboxPhase;
use emberd_proto::StartedBy;
use futures::StreamExt as _;
use serde::Deserialize;

use super::{Daemon, code, of_pack};
use crate::wait;

/// Clones that live at once.
const CLONES: usize = 50;

/// Clones made at once, and programs run at once: more only wait for the same processors.
const AT_ONCE: usize = 4;

/// How far a clone's clock may be from the host's.
const CLOCK_OFF_MAX: Duration = Duration::from_millis(50);

/// The same of clones that start at once: their guests wait for processors while they are told the
/// time.
const CLOCK_OFF_AT_ONCE_MAX: Duration = Duration::from_millis(500);

/// Prints everything two machines must not share.
const WHO_AM_I: &str = "import json, os, random, socket, time, uuid\n\
    now = time.time_ns()\n\
    print(json.dumps({\n\
        'now_ns': now,\n\
        'own': {\n\
            'urandom': os.urandom(16).hex(),\n\
            'random': repr(random.random()),\n\
            'uuid4': str(uuid.uuid4()),\n\
            'boot id': open('/proc/sys/kernel/random/boot_id').read(),\n\
            'machine id': open('/etc/machine-id').read(),\n\
            'host name': socket.gethostname(),\n\
        }}))";

/// What a clone says of itself.
#[derive(Deserialize)]
struct Clone {
    now_ns: u64,
    own: std::collections::BTreeMap<String, String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clones_share_nothing_that_must_be_their_own() {
    let flags = ["--pool-size", "off", "--max-sandboxes", "64"];
    let Some(daemon) = Daemon::instant(&flags) else { return };
    daemon.client.build_template("python").await.unwrap();
    let wanted = of_pack("python");
    let clones = in_turn((0..CLONES).map(|_| daemon.restored(&wanted))).await;
    let ids: Vec<_> = clones.into_iter().map(|clone| clone.id).collect();
    let met = ids.iter().map(|id| meet_within(CLOCK_OFF_AT_ONCE_MAX, &daemon, id));
    let clones = in_turn(met).await;
    let first = clones[0].own.keys().cloned().collect::<Vec<_>>();
    for name in first {
        let values: HashSet<_> = clones.iter().map(|clone| &clone.own[&name]).collect();
        assert_eq!(values.len(), CLONES, "{name}");
    }
    // A second program in one clone draws other numbers than the first.
    let again = meet_within(CLOCK_OFF_AT_ONCE_MAX, &daemon, &ids[0]).await;
    for name in ["urandom", "random", "uuid4"] {
        assert_ne!(again.own[name], clones[0].own[name], "{name}");
    }
    nothing_crosses_over(&daemon, &ids[..AT_ONCE]).await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_made_last_year_gives_clones_of_today() {
    let last_year = "import time\n\
        time.clock_settime(time.CLOCK_REALTIME, time.time() - 365 * 86400)";
    let Some(images) = images_warmed_up_by("python", last_year) else { return };
    let data_dir = images.path().to_str().unwrap();
    let flags = ["--pool-size", "off", "--data-dir", data_dir];
    let Some(daemon) = Daemon::instant(&flags) else { return };
    daemon.client.build_template("python").await.unwrap();
    for _ in 0..2 {
        let id = daemon.restored(&of_pack("python")).await.id;
        meet(&daemon, &id).await;
    }
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thawed_guest_knows_the_time() {
    let Some(daemon) = Daemon::instant(&["--pool-size", "off", "--idle-freeze", "1s"]) else {
        return;
    };
    daemon.client.build_template("python").await.unwrap();
    let id = daemon.create("python").await;
    for _ in 0..2 {
        meet(&daemon, &id).await;
        let phase = async || daemon.client.get(&id).await.unwrap().phase;
        wait::until(async || phase().await == SandboxPhase::Frozen).await;
        // Its clock stands still meanwhile.
        tokio::time::sleep(20 * CLOCK_OFF_MAX).await;
        assert_eq!(phase().await, SandboxPhase::Frozen);
    }
    meet(&daemon, &id).await;
    daemon.stop();
}

async fn meet(daemon: &Daemon, id: &str) -> Clone {
    meet_within(CLOCK_OFF_MAX, daemon, id).await
}

/// Asks a clone who it is, and holds its clock against the host's.
async fn meet_within(off_max: Duration, daemon: &Daemon, id: &str) -> Clone {
    let before = since_epoch();
    let outcome = daemon.exec(id, &code(WHO_AM_I)).await;
    let after = since_epoch();
    assert_eq!(outcome.exit.started_by, Some(StartedBy::Zygote));
    let clone: Clone = serde_json::from_str(&outcome.stdout).expect(&outcome.stderr);
    let now = Duration::from_nanos(clone.now_ns);
    let on_time = before.saturating_sub(off_max)..=after + off_max;
    assert!(on_time.contains(&now), "{now:?} is not in {on_time:?}");
    clone
}

/// What one clone writes or runs, no other sees.
async fn nothing_crosses_over(daemon: &Daemon, ids: &[String]) {
    for id in ids {
        let mark = format!(
            "import subprocess\n\
             open('/root/mark', 'x').write('{id}')\n\
             subprocess.Popen(['sleep', '1000'], stdout=subprocess.DEVNULL)"
        );
        daemon.output(id, &mark).await;
    }
    for id in ids {
        let look = "import glob\n\
            names = [open(path).read() for path in glob.glob('/proc/[0-9]*/comm')]\n\
            print(open('/root/mark').read(), names.count('sleep\\n'))";
        assert_eq!(daemon.output(id, look).await, format!("{id} 1\n"));
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// The outcomes of `futures` in their order, a few of them under way at once.
async fn in_turn<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    futures::stream::iter(futures).buffered(AT_ONCE).collect().await
}

/// The suite's images, of which `pack` is warmed up by `code`; none where there are none.
fn images_warmed_up_by(pack: &str, code: &str) -> Option<tempfile::TempDir> {
    let images = Daemon::images()?;
    let temp = tempfile::Builder::new().prefix("e2e-data").tempdir_in("/tmp").unwrap();
    for name in ["blobs", "kernel.json", "initramfs.json"] {
        symlink(images.join(name), temp.path().join(name)).unwrap();
    }
    fs::create_dir(temp.path().join("packs")).unwrap();
    let manifest = Path::new("packs").join(pack).with_extension("json");
    let text = fs::read_to_string(images.join(&manifest)).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["warm_up"] = code.into();
    fs::write(temp.path().join(manifest), json.to_string()).unwrap();
    Some(temp)
}
