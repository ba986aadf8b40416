//! `setup`: what is fetched is verified, what is interrupted goes on, what is wrong changes
//! nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::file_server::{Answer, FileServer};
use crate::{ADDR_DEAD, complaint, emberctl, printed};

const VERSION: &str = "1.16.2";

/// A data directory and a release to install into it.
struct Site {
    dir: tempfile::TempDir,
    archive: Vec<u8>,
    sha256: String,
}

impl Site {
    fn new() -> Self {
        let programs = ["firecracker", "jailer"];
        let members = programs.map(|name| (member(name), program(name)));
        Self::with_members(&members)
    }

    fn with_members(members: &[(String, String)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (tree, file) = (dir.path().join("tree"), dir.path().join("release.tgz"));
        for (name, content) in members {
            let path = tree.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let names = members.iter().map(|(name, _)| name);
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&tree).arg("-czf").arg(&file).args(names);
        assert!(tar.status().unwrap().success());
        let sha256 = sha256(&file);
        Self { archive: fs::read(&file).unwrap(), dir, sha256 }
    }

    fn archive_file(&self) -> PathBuf {
        self.dir.path().join("release.tgz")
    }

    fn data(&self, path: &str) -> PathBuf {
        self.dir.path().join("data").join(path)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = emberctl(ADDR_DEAD, &["setup"]);
        command.args(args).arg("--data-dir").arg(self.data(""));
        // Loopback is not a proxy's business.
        command.env("no_proxy", "*");
        command
    }

    /// `setup firecracker` from `url`.
    fn install_from(&self, url: &str) -> Output {
        let args = ["firecracker", "--url", url, "--sha256", &self.sha256];
        self.command(&args).output().unwrap()
    }

    #[track_caller]
    fn assert_installed(&self, output: &Output) {
        assert!(printed(output).contains("Firecracker 1.16.2"), "{}", printed(output));
        let current = self.data("firecracker/current");
        assert_eq!(fs::read_link(&current).unwrap(), Path::new(VERSION));
        for name in ["firecracker", "jailer"] {
            let path = current.join(name);
            assert_eq!(fs::read_to_string(&path).unwrap(), program(name));
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o755);
        }
        assert_eq!(self.downloads(), ["lock"], "downloads are removed once installed");
    }

    #[track_caller]
    fn assert_refused(&self, output: &Output, said: &str) {
        assert_eq!(output.status.code(), Some(125), "{}", complaint(output));
        let complaint = complaint(output);
        assert!(complaint.contains(said) && complaint.contains("hint: "), "{complaint}");
        assert!(!self.data("firecracker").exists(), "nothing is installed");
    }

    /// Names of what is left of downloads.
    fn downloads(&self) -> Vec<String> {
        let entries = fs::read_dir(self.data("downloads")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

fn member(program: &str) -> String {
    format!("release-v{VERSION}-x86_64/{program}-v{VERSION}-x86_64")
}

/// A program's text, too long for one read and one line alike.
fn program(name: &str) -> String {
    format!("#!/bin/sh\necho {name} v{VERSION}\n# {}\n", random_text(100_000))
}

/// Text that does not compress away, the same each time.
fn random_text(bytes: usize) -> String {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + (state >> 59) as u8 % 26)
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

pub fn sha256(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn a_release_is_installed_and_not_fetched_twice() {
    let site = Site::new();
    let server = FileServer::start(&[Answer::File(site.archive.clone())]);
    site.assert_installed(&site.install_from(&server.url));
    let again = site.install_from(&server.url);
    assert!(printed(&again).contains("already installed"), "{}", printed(&again));
    site.assert_installed(&again);
    assert_eq!(server.heads().len(), 1);
}

#[test]
fn a_damaged_installation_is_mended() {
    let site = Site::new();
    let server = FileServer::start(&[Answer::File(site.archive.clone())]);
    site.assert_installed(&site.install_from(&server.url));
    fs::write(site.data("firecracker/current/jailer"), "#!/bin/sh\n").unwrap();
    site.assert_installed(&site.install_from(&server.url));
    assert_eq!(server.heads().len(), 2);
}

#[test]
fn a_mirror_has_the_makers_tree() {
    let site = Site::new();
    let server = FileServer::start(&[Answer::File(site.archive.clone())]);
    let mirror = format!("{}/mirror/", server.url);
    let args = ["firecracker", "--mirror", &mirror, "--sha256", &site.sha256, "--json"];
    let output = site.command(&args).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&document["up_to_date"], &document["sha256"]),
        (&false.into(), &site.sha256[..].into())
    );
    assert_eq!(document["path"], site.data("firecracker/1.16.2").to_str().unwrap());
    let head = &server.heads()[0];
    assert!(head.starts_with("GET /mirror/v1.16.2/firecracker-v1.16.2-x86_64.tgz "), "{head}");
}

#[test]
fn redirects_are_followed() {
    let site = Site::new();
    let file = FileServer::start(&[Answer::File(site.archive.clone())]);
    let front = FileServer::start(&[Answer::Redirect(format!("{}/elsewhere", file.url))]);
    site.assert_installed(&site.install_from(&front.url));
    assert!(file.heads()[0].starts_with("GET /elsewhere "));
}

#[test]
fn a_download_that_breaks_goes_on_where_it_was() {
    let site = Site::new();
    let archive = &site.archive;
    let third = archive.len() / 3;
    let cut = Answer::CutAfter(archive.clone(), third);
    let server = FileServer::start(&[cut.clone(), cut, Answer::File(archive.clone())]);
    site.assert_installed(&site.install_from(&server.url));
    let heads = server.heads();
    assert!(!heads[0].contains("Range"), "{}", heads[0]);
    assert!(heads[1].contains(&format!("Range: bytes={third}-")), "{}", heads[1]);
    assert!(heads[2].contains(&format!("Range: bytes={}-", 2 * third)), "{}", heads[2]);
}

#[test]
fn an_interrupted_download_is_resumed_by_the_next_run() {
    let site = Site::new();
    let half = site.archive.len() / 2;
    let broken = [Answer::CutAfter(site.archive.clone(), half), Answer::NotFound];
    let server = FileServer::start(&broken);
    site.assert_refused(&site.install_from(&server.url), "404");
    assert_eq!(site.downloads().len(), 2, "the part is kept: {:?}", site.downloads());
    let server = FileServer::start(&[Answer::File(site.archive.clone())]);
    site.assert_installed(&site.install_from(&server.url));
    assert!(server.heads()[0].contains(&format!("Range: bytes={half}-")));
}

#[test]
fn a_server_that_cannot_continue_begins_anew() {
    let site = Site::new();
    let half = site.archive.len() / 2;
    let cut = Answer::CutAfter(site.archive.clone(), half);
    let server = FileServer::start(&[cut, Answer::Whole(site.archive.clone())]);
    site.assert_installed(&site.install_from(&server.url));
    assert_eq!(server.heads().len(), 3);
}

#[test]
fn a_file_that_is_always_cut_is_given_up() {
    let site = Site::new();
    let server = FileServer::start(&[Answer::CutAfter(site.archive.clone(), 0)]);
    site.assert_refused(&site.install_from(&server.url), "cannot download");
    assert_eq!(site.downloads(), ["lock"], "an empty part is not kept");
    let server = FileServer::start(&[Answer::CutAfter(site.archive.clone(), 1)]);
    site.assert_refused(&site.install_from(&server.url), "--from FILE");
    assert_eq!(server.heads().len(), 5, "attempts are limited");
}

#[test]
fn a_file_that_ends_early_without_a_word_is_refused() {
    let site = Site::new();
    let half = site.archive.len() / 2;
    let server = FileServer::start(&[Answer::SilentlyCut(site.archive.clone(), half)]);
    site.assert_refused(&site.install_from(&server.url), "has the SHA-256");
    assert_eq!(site.downloads(), ["lock"]);
}

#[test]
fn another_file_is_refused_and_removed() {
    let site = Site::new();
    let other = Site::with_members(&[(member("firecracker"), "#!/bin/sh\nrm -rf ~\n".into())]);
    let server = FileServer::start(&[Answer::File(other.archive.clone())]);
    site.assert_refused(&site.install_from(&server.url), &format!("not {}", site.sha256));
    assert_eq!(site.downloads(), ["lock"]);
}

#[test]
fn no_file_and_no_server_come_with_a_hint() {
    let site = Site::new();
    let server = FileServer::start(&[Answer::NotFound]);
    let output = site.install_from(&server.url);
    site.assert_refused(&output, "404");
    assert!(complaint(&output).contains("with QEMU, emberd needs no Firecracker"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    site.assert_refused(&site.install_from(&format!("http://{port}/x.tgz")), "cannot download");
    site.assert_refused(&site.install_from("file:///etc/passwd"), "cannot download");
}

#[test]
fn a_host_without_curl_is_told_so() {
    let site = Site::new();
    let args = ["firecracker", "--url", "http://127.0.0.1:9/x", "--sha256", &site.sha256];
    let output = site.command(&args).env("PATH", "/nonexistent").output().unwrap();
    site.assert_refused(&output, "cannot run curl");
    assert!(complaint(&output).contains("apt-get install curl"));
}

#[test]
fn a_file_at_hand_needs_no_network() {
    let site = Site::new();
    let file = site.archive_file();
    let args = ["firecracker", "--from", file.to_str().unwrap()];
    site.assert_refused(&site.command(&args).output().unwrap(), "has the SHA-256");
    let args = [&args[..], &["--sha256", &site.sha256]].concat();
    site.assert_installed(&site.command(&args).output().unwrap());
    assert!(file.exists(), "the user's file stays");
    let gone = ["firecracker", "--from", "/nonexistent", "--sha256", &"0".repeat(64)];
    let output = site.command(&gone).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(complaint(&output).contains("cannot read /nonexistent"), "{}", complaint(&output));
}

#[test]
fn an_archive_of_something_else_is_refused() {
    let only_one = Site::with_members(&[(member("firecracker"), program("firecracker"))]);
    let empty = Site::with_members(&[
        (member("firecracker"), String::new()),
        (member("jailer"), program("jailer")),
    ]);
    for (site, said) in
        [(only_one, "no release-v1.16.2-x86_64/jailer"), (empty, "the file is empty")]
    {
        let file = site.archive_file();
        let args = ["firecracker", "--from", file.to_str().unwrap(), "--sha256", &site.sha256];
        site.assert_refused(&site.command(&args).output().unwrap(), said);
        assert_eq!(site.downloads(), ["lock"], "no tree is left");
    }
}

#[test]
fn releases_that_must_not_be_used_and_unknown_ones_are_not_fetched() {
    let site = Site::new();
    let server = FileServer::start(&[Answer::File(site.archive.clone())]);
    let refused = |version: &str, said: &str| {
        let args = ["firecracker", "--version", version, "--mirror", &server.url];
        site.assert_refused(&site.command(&args).output().unwrap(), said);
    };
    refused("1.15.0", "CVE-2026-5747");
    refused("1.10.1", "too old");
    refused("1.17.0", "is not known");
    assert!(server.heads().is_empty());
}

#[test]
fn a_failed_change_of_release_leaves_the_old_one_in_use() {
    let site = Site::new();
    let server = FileServer::start(&[Answer::File(site.archive.clone()), Answer::NotFound]);
    site.assert_installed(&site.install_from(&server.url));
    let args = ["firecracker", "--version", "1.15.1", "--mirror", &server.url];
    let output = site.command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(fs::read_link(site.data("firecracker/current")).unwrap(), Path::new(VERSION));
    assert!(!site.data("firecracker/1.15.1").exists());
}

#[test]
fn what_is_no_kernel_is_refused_and_leaves_the_images_alone() {
    let site = Site::new();
    let server = FileServer::start(&[Answer::File(site.archive.clone())]);
    let args = ["kernel", "--mirror", &server.url];
    let output = site.command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(complaint(&output).contains("has the SHA-256"), "{}", complaint(&output));
    let head = &server.heads()[0];
    assert!(head.starts_with("GET /firecracker-ci/v1.15/x86_64/vmlinux-6.1.155 "), "{head}");
    let args = ["kernel", "--url", &server.url, "--sha256", &site.sha256];
    let output = site.command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", complaint(&output));
    assert!(!site.data("kernel.json").exists());
    assert_eq!(site.downloads(), ["lock"]);
}
