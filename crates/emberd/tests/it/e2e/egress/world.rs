//! A machine and a world of the test's own: two network namespaces with a cable between them.
//!
//! ```text
//! D: this thread, the daemon and its VMMs ── W: a name server and web servers
//!    10.77.0.2, and 45.45.9.9                    10.77.0.1, 45.45.0.x, 169.254.169.254
//! ```

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use emberd_testing::{run, with_network};
use nix::sched::{CloneFlags, setns};
use tempfile::TempDir;

use super::Daemon;

/// Directory of the web servers' files, in the world's own.
const SITE: &str = "site";

/// Directory of the keys that may log in by ssh, in the world's own.
const KEYS: &str = "keys";

/// A world. Dropping it ends it.
pub struct World {
    process: Child,
    _stdin: ChildStdin,
    dir: TempDir,
    /// Certificate of the authority that signs those of the servers.
    pub ca: String,
}

impl World {
    /// Runs `story` on a thread in a network namespace of its own, with such a world beside it.
    /// Nothing happens, which is a skip, where that cannot be.
    pub fn tell<F: Future<Output = ()>>(story: impl FnOnce(Self) -> F + Send + 'static) {
        if Daemon::images().is_none() {
            return;
        }
        with_network(move || {
            let world = Self::make();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(story(world));
        });
    }

    fn make() -> Self {
        let dir = tempfile::Builder::new().prefix("e2e-world").tempdir_in("/tmp").unwrap();
        let resolv_conf = dir.path().join("resolv.conf");
        fs::write(&resolv_conf, "nameserver 10.77.0.1\noptions timeout:2 attempts:2\n").unwrap();
        run(&format!("mount --bind {} /etc/resolv.conf", resolv_conf.display()));
        let (certificate, ca) = make_certificates(dir.path());
        let keys = dir.path().join(KEYS);
        fs::create_dir(&keys).unwrap();
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o700)).unwrap();
        let mut process = Command::new("unshare")
            .args(["--net", "--mount", "python3", "-c", include_str!("world.py")])
            .args([&certificate, &dir.path().join(SITE), &keys])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut line = || lines.next().unwrap().unwrap();
        assert_eq!(line(), "born");
        run("ip link set lo up");
        run("ip addr add 45.45.9.9/32 dev lo");
        run(&format!("ip link add d0 type veth peer name w0 netns {}", process.id()));
        run("ip addr add 10.77.0.2/24 dev d0");
        run("ip link set d0 up");
        run("ip route add default via 10.77.0.1");
        let mut stdin = process.stdin.take().unwrap();
        stdin.write_all(b"\n").unwrap();
        assert_eq!(line(), "ready");
        let world = Self { process, _stdin: stdin, dir, ca };
        // The world's own tries of its servers.
        fs::write(world.dir.path().join("log"), "").unwrap();
        world
    }

    /// Directory of the files that the web servers serve, beside their greeting.
    pub fn site(&self) -> PathBuf {
        self.dir.path().join(SITE)
    }

    /// A listener at every address of the world, for a server of the test's own.
    pub fn listen(&self, port: u16) -> TcpListener {
        let namespace = fs::File::open(format!("/proc/{}/ns/net", self.process.id())).unwrap();
        let listening = thread::spawn(move || {
            // A socket stays in the namespace that it was made in.
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()
        });
        listening.join().unwrap()
    }

    /// Returns whether a world has a server of ssh.
    pub fn has_ssh() -> bool {
        let found = Command::new("sh").args(["-c", "command -v dropbear"]).output();
        found.is_ok_and(|output| output.status.success())
    }

    /// Lets root log in by ssh with these keys, one a line.
    pub fn admit(&self, public_keys: &str) {
        fs::write(self.dir.path().join(KEYS).join("authorized_keys"), public_keys).unwrap();
    }

    /// Takes what reached the world since the last call, sorted, each once: queries and
    /// connections.
    pub fn reached(&self) -> Vec<String> {
        let mut lines = self.log();
        lines.retain(|line| line.starts_with("connect") || line.starts_with("query"));
        lines.sort();
        lines.dedup();
        lines
    }

    /// Takes what reached the world since the last call: queries, connections, servers named in
    /// TLS and requests.
    pub fn log(&self) -> Vec<String> {
        let path = self.dir.path().join("log");
        let log = fs::read_to_string(&path).unwrap();
        fs::write(&path, "").unwrap();
        log.lines().map(|line| line.trim_matches('\0').to_owned()).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Makes the servers' certificate, with its key, and the one of the authority that signs it.
fn make_certificates(dir: &Path) -> (PathBuf, String) {
    let request = "openssl req -batch -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
                   -nodes -days 2 -subj";
    let path = |name: &str| dir.join(name).display().to_string();
    let (ca, ca_key, pair) = (path("ca.pem"), path("ca.key"), path("certificate.pem"));
    run(&format!("{request} /CN=world -keyout {ca_key} -out {ca}"));
    run(&format!(
        "{request} /CN=good.example -CA {ca} -CAkey {ca_key} -keyout {pair} -out {pair}.crt \
         -addext subjectAltName=DNS:good.example,DNS:also.example,DNS:evil.example,\
         DNS:*.wild.example -addext basicConstraints=critical,CA:FALSE"
    ));
    let both =
        fs::read_to_string(&pair).unwrap() + &fs::read_to_string(format!("{pair}.crt")).unwrap();
    fs::write(&pair, both).unwrap();
    (pair.into(), fs::read_to_string(ca).unwrap())
}
