//! Package managers and other tools inside, against servers of the world: they work where the
//! policy allows those, over TLS and without, and are refused elsewhere.
//!
//! The authority that signs the world's certificates is unknown to the guests. A test adds it to
//! the system's store, as people do.

use std::fs;
use std::path::Path;
use std::process::Command;

use emberd_api::ExecBody;
use emberd_client::{FileOptions, Upload};

use super::world::World;
use super::{create, denials, set};
use crate::e2e::{Daemon, code};

/// Runs a shell script on this machine.
fn here(directory: &Path, script: &str) {
    fs::create_dir_all(directory).unwrap();
    let output = Command::new("sh").args(["-euc", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A sandbox that may reach some hosts.
struct Inside<'a> {
    daemon: &'a Daemon,
    id: String,
}

impl<'a> Inside<'a> {
    async fn new(daemon: &'a Daemon, pack: &str, allow: &[&str]) -> Self {
        Self { daemon, id: create(daemon, pack, super::allow(allow)).await }
    }

    /// As [`Self::new`]; the system trusts the world's authority.
    async fn trusting(world: &World, daemon: &'a Daemon, pack: &str, allow: &[&str]) -> Self {
        let inside = Self::new(daemon, pack, allow).await;
        let ca = Upload::bytes(world.ca.clone());
        let options = FileOptions::default();
        daemon.client.file_write(&inside.id, Path::new(AUTHORITY), ca, &options).await.unwrap();
        let program = match pack {
            "shell" => "update-ca-certificates >/dev/null".to_owned(),
            // What that program does in the end. It starts many others, which takes long here.
            "node" => format!("{ADD_IN_NODE}('{BUNDLE}', fs.readFileSync('{AUTHORITY}'))"),
            _ => format!("open('{BUNDLE}', 'a').write(open('{AUTHORITY}').read())"),
        };
        inside.run(&code(program)).await;
        inside
    }

    async fn run(&self, body: &ExecBody) -> String {
        let outcome = self.daemon.exec(&self.id, body).await;
        assert_eq!(outcome.exit.exit_code, 0, "{}{}", outcome.stdout, outcome.stderr);
        outcome.stdout
    }

    /// Runs a program as root over HTTP and as `user` over TLS: its only argument is the scheme.
    /// Checks what it prints, in which `{}` stands for the scheme.
    async fn check(&self, program: &str, expected: &str) {
        for (user, scheme) in [("root", "http"), ("user", "https")] {
            let mut body = code(program);
            (body.spec.user, body.spec.args) = (Some(user.to_owned()), vec![scheme.to_owned()]);
            assert_eq!(self.run(&body).await, expected.replace("{}", scheme), "{user}");
        }
    }

    /// Checks what was denied, and deletes the sandbox.
    async fn end(self, denied: &[&str]) {
        assert_eq!(denials(self.daemon, &self.id).await, set(denied));
        self.daemon.client.delete(&self.id).await.unwrap();
    }
}

/// Where a system finds authorities that are added, and all that it trusts.
const AUTHORITY: &str = "/usr/local/share/ca-certificates/world.crt";
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

const ADD_IN_NODE: &str = "const fs = require('node:fs'); fs.appendFileSync";

/// Makes a package of Python's, which is `sample` in the index `simple`.
fn make_wheel(world: &World) {
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
}

/// Makes a repository, which git's own server has below `smart`, and any other as `repo.git`.
fn make_repository(world: &World) {
    here(
        &world.site(),
        "git init --quiet work && cd work && echo 'a file' > file && git add file
        git -c user.name=n -c user.email=e@good.example commit --quiet --message first
        cd .. && git clone --quiet --bare work repo.git && cd repo.git && git update-server-info
        mkdir ../smart && cp -r . ../smart/repo.git",
    );
}

#[test]
fn pip_git_and_requests_work_where_they_may() {
    World::tell(async |world| {
        let Some(daemon) = Daemon::start(&[]) else { return };
        make_wheel(&world);
        make_repository(&world);
        let inside = Inside::trusting(&world, &daemon, "python", &["good.example"]).await;
        inside.check(PIP_AND_GIT, "a wheel\n1 True\na file\n128 True\n").await;
        inside.end(&["evil.example no_rule"]).await;
        let inside = Inside::trusting(&world, &daemon, "code", &["good.example"]).await;
        inside.check(REQUESTS, "hello from 45.45.0.1 True\n").await;
        inside.end(&["evil.example no_rule"]).await;
        daemon.stop();
    });
}

/// Git fetches files over HTTP, and speaks its own protocol over TLS.
const PIP_AND_GIT: &str = r"
import subprocess, sys
def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr
pip = (sys.executable, '-m', 'pip', 'install', '--quiet', '--no-cache-dir', '--retries', '0')
scheme = sys.argv[1]
trust, path = (('--trusted-host', 'good.example'), '') if scheme == 'http' else ((), 'smart/')
good, evil = f'{scheme}://good.example/', f'{scheme}://evil.example/'
status, text = run(*pip, *trust, '--index-url', good + 'simple', '--force-reinstall', 'sample')
assert status == 0, text
print(run(sys.executable, '-c', 'import sample; print(sample.WORD)')[1].strip())
status, text = run(*pip, '--index-url', evil + 'simple', 'other')
print(status, 'No matching distribution' in text)
clone = f'/tmp/{scheme}'
status, text = run('git', 'clone', '--quiet', good + path + 'repo.git', clone)
assert status == 0, text
print(open(clone + '/file').read().strip())
status, text = run('git', 'clone', evil + path + 'repo.git', clone + '2')
print(status, 'Could not resolve host: evil.example' in text)
";

const REQUESTS: &str = r"
import requests, sys
scheme = sys.argv[1]
try:
    refused = requests.get(f'{scheme}://evil.example/').text
except requests.ConnectionError as e:
    refused = 'Name or service not known' in str(e)
print(requests.get(f'{scheme}://good.example/').text, refused)
";

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
for scheme in http https; do
mkdir $scheme && cat > $scheme/sample <<end
{"name": "sample", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0":
 {"name": "sample", "version": "1.0.0",
  "dist": {"tarball": "$scheme://good.example/sample-1.0.0.tgz"}}}}
end
done"#,
        );
        make_repository(&world);
        let inside = Inside::trusting(&world, &daemon, "node", &["good.example"]).await;
        let expect = "a package\ntrue\na file\ntrue\nhello from 45.45.0.1\nENOTFOUND\n";
        inside.check(NPM_AND_FETCH, expect).await;
        inside.end(&["evil.example no_rule"]).await;
        daemon.stop();
    });
}

const NPM_AND_FETCH: &str = r"
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const scheme = process.argv[2];
const home = fs.mkdtempSync('/tmp/npm');
process.chdir(home);
const run = (...words) => spawnSync(words[0], words.slice(1), { encoding: 'utf8' });
const npm = (...words) => run('npm', ...words, '--no-audit', '--no-fund', '--fetch-retries=0',
  '--cache', `${home}/cache`);
const good = npm('install', 'sample', `--registry=${scheme}://good.example/${scheme}/`);
if (good.status !== 0) throw new Error(good.stdout + good.stderr);
console.log(require(`${home}/node_modules/sample`));
const evil = npm('install', 'other', `--registry=${scheme}://evil.example/`);
console.log(evil.status !== 0 && /ENOTFOUND/.test(evil.stderr));
const clone = (host) =>
  run('git', 'clone', `${scheme}://${host}/smart/repo.git`, `${home}/${host}`);
clone('good.example');
console.log(fs.readFileSync(`${home}/good.example/file`, 'utf8').trim());
console.log(/Could not resolve host: evil.example/.test(clone('evil.example').stderr));
(async () => {
  console.log(await (await fetch(`${scheme}://good.example/`)).text());
  console.log(await fetch(`${scheme}://evil.example/`).catch((e) => e.cause.code));
})();
";

#[test]
fn apt_curl_and_git_work_where_they_may() {
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
        make_repository(&world);
        let inside = Inside::trusting(&world, &daemon, "shell", &["good.example"]).await;
        let unknown = "Could not resolve host: evil.example\n";
        let expect = format!(
            "a package\n100\nhello from 45.45.0.1\ncurl: (6) {unknown}a file\n\
             fatal: unable to access '{{}}://evil.example/smart/repo.git/': {unknown}"
        );
        inside.check(APT_CURL_AND_GIT, &expect).await;
        inside.end(&["evil.example no_rule"]).await;
        let reached: Vec<_> = world.reached();
        assert!(!reached.iter().any(|line| line.contains("45.45.0.2")), "{reached:?}");
        daemon.stop();
    });
}

const APT_CURL_AND_GIT: &str = r#"
set -eu
cd "$(mktemp -d)"
source() { sudo sh -c "echo 'deb [trusted=yes] $scheme://$1/apt ./' > /etc/apt/sources.list"; }
scheme=$1
source good.example
sudo apt-get update -qq
sudo apt-get install -qq -y --reinstall sample >/dev/null 2>&1
cat /usr/share/sample/word
source evil.example
sudo apt-get update -qq --error-on=any >/dev/null 2>&1 || echo $?
curl -sS "$scheme://good.example/"; echo
curl -sS "$scheme://evil.example/" 2>&1 || true
git clone --quiet "$scheme://good.example/smart/repo.git" clone
cat clone/file
git clone --quiet "$scheme://evil.example/smart/repo.git" 2>&1 || true
"#;

#[test]
fn git_over_ssh_works_where_it_may() {
    World::tell(async |world| {
        if !World::has_ssh() {
            emberd_testing::skip("no dropbear, which serves ssh");
            return;
        }
        let Some(daemon) = Daemon::start(&[]) else { return };
        make_repository(&world);
        let allow = ["good.example:22", "evil.example:443"];
        let inside = Inside::new(&daemon, "shell", &allow).await;
        let mut keys = String::new();
        for user in ["root", "user"] {
            let mut body = code(SSH_KEY);
            body.spec.user = Some(user.to_owned());
            keys += &inside.run(&body).await;
        }
        world.admit(&keys);
        let program = format!("repository={}/repo.git{GIT_OVER_SSH}", world.site().display());
        let refused = "ssh: Could not resolve hostname wild.example: Name or service not known\n";
        inside.check(&program, &format!("a file\n128\n{refused}128\n")).await;
        inside.end(&["evil.example:22 port_not_allowed", "wild.example no_rule"]).await;
        daemon.stop();
    });
}

/// Makes a key, takes the keys of servers as they come, and prints the public key.
const SSH_KEY: &str = "
set -eu
mkdir -p -m 700 ~/.ssh
echo 'StrictHostKeyChecking accept-new' > ~/.ssh/config
ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519
cat ~/.ssh/id_ed25519.pub";

const GIT_OVER_SSH: &str = r#"
set -eu
cd "$(mktemp -d)"
clone() { git clone --quiet "ssh://root@$1$repository" 2>said || echo $?; }
clone good.example
cat repo/file
rm -r repo
clone evil.example
clone wild.example > status
tr -d '\r' < said | grep '^ssh:'
cat status
"#;
