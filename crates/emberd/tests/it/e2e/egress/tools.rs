//! Package managers and other tools inside, against servers of the world: they work where the
//! policy allows those, without any setting, and are refused elsewhere.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::world::World;
use super::{allow, create, set};
use crate::e2e::{Daemon, code};

/// Runs a shell script on this machine.
fn here(directory: &Path, script: &str) {
    fs::create_dir_all(directory).unwrap();
    let output = Command::new("sh").args(["-euc", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs code in a sandbox that may reach `good.example`, as root and as `user`, and returns what
/// it prints, which must be the same.
async fn inside(daemon: &Daemon, pack: &str, program: &str, users: &[&str]) -> Vec<String> {
    let id = create(daemon, pack, allow(&["good.example:80"])).await;
    let mut told = Vec::new();
    for user in users {
        let mut spec = code(program);
        spec.spec.user = Some((*user).to_owned());
        spec.spec.timeout_ms = 300_000;
        let outcome = daemon.exec(&id, &spec).await;
        assert_eq!(
            outcome.exit.exit_code, 0,
            "{pack} {user}: {}{}",
            outcome.stdout, outcome.stderr
        );
        told.push(outcome.stdout);
    }
    let denied: Vec<_> = super::denials(daemon, &id).await.into_iter().collect();
    assert!(denied.iter().all(|line| line == "evil.example no_rule"), "{denied:?}");
    daemon.client.delete(&id).await.unwrap();
    told
}

#[test]
fn pip_and_git_work_where_they_may() {
    World::tell(async |world| {
        let Some(daemon) = Daemon::start(&[]) else { return };
        here(
            &world.site().join("simple/sample"),
            r#"python3 - <<'end'
import zipfile
with zipfile.ZipFile("sample-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("sample.py", "WORD = 'a wheel'\n")
    info = "sample-1.0.dist-info/"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "")
end
echo '<a href="sample-1.0-py3-none-any.whl">sample-1.0-py3-none-any.whl</a>' > index.html"#,
        );
        here(
            &world.site(),
            "git init --quiet work && cd work && echo 'a file' > file && git add file
            git -c user.name=n -c user.email=e@good.example commit --quiet --message first
            cd .. && git clone --quiet --bare work repo.git && cd repo.git && git update-server-info",
        );
        let program = r"
import subprocess, sys
def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr
pip = (sys.executable, '-m', 'pip', 'install', '--quiet', '--no-cache-dir', '--retries', '0')
good = ('--index-url', 'http://good.example/simple', '--trusted-host', 'good.example')
status, text = run(*pip, *good, '--force-reinstall', 'sample')
assert status == 0, text
print(run(sys.executable, '-c', 'import sample; print(sample.WORD)')[1].strip())
status, text = run(*pip, '--index-url', 'http://evil.example/simple', 'other')
print(status, 'No matching distribution' in text)
status, text = run('git', 'clone', '--quiet', 'http://good.example/repo.git', '/tmp/clone')
assert status == 0, text
print(open('/tmp/clone/file').read().strip())
status, text = run('git', 'clone', 'http://evil.example/repo.git', '/tmp/other')
print(status, 'Could not resolve host: evil.example' in text)
run('rm', '-rf', '/tmp/clone')
";
        let told = inside(&daemon, "python", program, &["root", "user"]).await;
        let expect = "a wheel\n1 True\na file\n128 True\n";
        assert_eq!(told, [expect; 2]);
        daemon.stop();
    });
}

#[test]
fn npm_and_fetch_work_where_they_may() {
    World::tell(async |world| {
        let Some(daemon) = Daemon::start(&[]) else { return };
        here(
            &world.site(),
            r#"mkdir package && cd package
echo '{"name": "sample", "version": "1.0.0", "main": "index.js"}' > package.json
echo 'module.exports = "a package";' > index.js
cd .. && tar -czf sample-1.0.0.tgz package
cat > sample <<'end'
{"name": "sample", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0":
 {"name": "sample", "version": "1.0.0",
  "dist": {"tarball": "http://good.example/sample-1.0.0.tgz"}}}}
end"#,
        );
        let program = r"
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const home = fs.mkdtempSync('/tmp/npm');
process.chdir(home);
const npm = (...words) => spawnSync('npm', [...words, '--no-audit', '--no-fund',
  '--fetch-retries=0', '--cache', `${home}/cache`], { encoding: 'utf8' });
const good = npm('install', 'sample', '--registry=http://good.example/');
if (good.status !== 0) throw new Error(good.stdout + good.stderr);
console.log(require(`${home}/node_modules/sample`));
const evil = npm('install', 'other', '--registry=http://evil.example/');
console.log(evil.status !== 0 && /ENOTFOUND/.test(evil.stderr));
(async () => {
  console.log(await (await fetch('http://good.example/')).text());
  console.log(await fetch('http://evil.example/').catch((e) => e.cause.code));
})();
";
        let told = inside(&daemon, "node", program, &["root", "user"]).await;
        assert_eq!(told, ["a package\ntrue\nhello from 45.45.0.1\nENOTFOUND\n"; 2]);
        daemon.stop();
    });
}

#[test]
fn apt_and_curl_work_where_they_may() {
    World::tell(async |world| {
        let Some(daemon) = Daemon::start(&[]) else { return };
        here(
            &world.site().join("apt"),
            r#"mkdir -p sample/DEBIAN sample/usr/share/sample
echo 'a package' > sample/usr/share/sample/word
cat > sample/DEBIAN/control <<'end'
Package: sample
Version: 1.0
Architecture: all
Maintainer: m <m@good.example>
Description: d
end
dpkg-deb --root-owner-group --build sample sample.deb >/dev/null
{ cat sample/DEBIAN/control
  echo "Filename: ./sample.deb"
  echo "Size: $(stat -c %s sample.deb)"
  echo "SHA256: $(sha256sum sample.deb | cut -d' ' -f1)"; } > Packages"#,
        );
        let program = r#"
set -eu
sources=/etc/apt/sources.list
sudo sh -c "echo 'deb [trusted=yes] http://good.example/apt ./' > $sources"
sudo apt-get update -qq
sudo apt-get install -qq -y --reinstall sample >/dev/null 2>&1
cat /usr/share/sample/word
curl -sS http://good.example/; echo
curl -sS http://evil.example/ 2>&1 || true
"#;
        let told = inside(&daemon, "shell", program, &["root", "user"]).await;
        let expect =
            "a package\nhello from 45.45.0.1\ncurl: (6) Could not resolve host: evil.example\n";
        assert_eq!(told, [expect; 2]);
        let reached: Vec<_> = world.reached();
        assert!(!reached.iter().any(|line| line.contains("45.45.0.2")), "{reached:?}");
        assert!(set(&["connect 45.45.0.1 80"]).iter().all(|line| reached.contains(line)));
        daemon.stop();
    });
}
