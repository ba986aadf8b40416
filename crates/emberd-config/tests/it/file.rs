//! The configuration file, and which of several values wins.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args as _, FromArgMatches as _};
use emberd_config::{
    AllKeys, Authentication, Config, Flags, Given, Key, Origin, Problems, Surroundings, WebOrigin,
};
use serde_json::Value;

use crate::surroundings;

fn load(given: Given, path: &Path, text: &str) -> Result<Config, Problems> {
    fs::write(path, text).unwrap();
    Config::load(given, Some(path), &surroundings())
}

fn temp() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("emberd.toml");
    (dir, path)
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let (_dir, path) = temp();
    let mut given = Given::default();
    given.set(Key::MaxSandboxes, "3", Origin::Flag);
    given.set(Key::MaxSandboxes, "4", Origin::Variable);
    given.set(Key::GuestVcpus, "5", Origin::Variable);
    let text = "max-sandboxes = 6\nguest-vcpus = 7\n\nguest-ram-mib = '1GiB'\n\
        allowed-host = ['a', 'b']\nboot-timeout = 90\nno-seccomp = true\n";
    let config = load(given, &path, text).unwrap();
    assert_eq!((config.max_sandboxes, config.guest_vcpus, config.guest_ram_mib), (3, 5, 1024));
    assert_eq!((config.boot_timeout.as_secs(), config.seccomp), (90, false));
    assert_eq!(config.allowed_hosts, ["a", "b"]);
    assert_eq!(config.file.as_deref(), Some(&*path));
    assert_eq!(config.given.origin(Key::MaxSandboxes), Origin::Flag);
    assert_eq!(config.given.origin(Key::GuestVcpus), Origin::Variable);
    assert_eq!(config.given.origin(Key::GuestRamMib), Origin::File { path, line: 4 });
    assert_eq!(config.given.origin(Key::Addr), Origin::Default);
}

#[test]
fn the_default_file_is_read_if_it_exists_and_a_named_one_must() {
    let (_dir, path) = temp();
    let surroundings = Surroundings { config_file: Some(path.clone()), ..surroundings() };
    let absent = Config::load(Given::default(), None, &surroundings).unwrap();
    assert_eq!((absent.file, absent.guest_vcpus), (None, 1));
    let problems = Config::load(Given::default(), Some(&path), &surroundings).unwrap_err();
    assert!(problems.0[0].error.starts_with("cannot read "), "{problems}");
    fs::write(&path, "guest-vcpus = 2").unwrap();
    let read = Config::load(Given::default(), None, &surroundings).unwrap();
    assert_eq!((read.file, read.guest_vcpus), (Some(path), 2));
}

#[test]
fn everything_wrong_with_a_file_is_reported_with_its_line() {
    let (_dir, path) = temp();
    let text = "adress = 'a:1'\nguest-vcpus = 99\nvmm = 7\n\nxyz = 1\nnode-key = 'TOO LONG'\n\
        pool-size = 1.5\nguest-ram-mib = []\n";
    let problems = load(Given::default(), &path, text).unwrap_err();
    let shown = path.display().to_string();
    let expect = [
        (1, "unknown option `adress`", "did you mean `addr`?"),
        (2, "guest-vcpus is `99`, not between 1 and 32", "values: 1 to 32"),
        (3, "vmm has the wrong type", "text in quotes"),
        (5, "unknown option `xyz`", "emberd config print"),
        (6, "node-key is `TOO LONG`, not 0 to 4 of a-z and 0-9", "values: 0 to 4"),
        (7, "pool-size has the wrong type", "a whole number"),
        (8, "guest-ram-mib has the wrong type", "512 or '2GiB'"),
    ];
    assert_eq!(problems.0.len(), expect.len(), "{problems}");
    for (line, error, hint) in expect {
        let error = format!("{shown}:{line}: {error}");
        let found = problems.0.iter().find(|problem| problem.error == error);
        let found = found.unwrap_or_else(|| panic!("{error} not in {problems}"));
        assert!(found.hint.contains(hint), "{found:?}");
    }
}

#[test]
fn a_file_that_is_not_toml_is_refused_with_its_line() {
    let (_dir, path) = temp();
    for (text, line) in [("[", 1), ("guest-vcpus = 1\nguest-vcpus = 2\n", 2), ("\n\nx", 3)] {
        let problems = load(Given::default(), &path, text).unwrap_err();
        let place = format!("{}:{line}: ", path.display());
        assert!(problems.0[0].error.starts_with(&place), "{text:?}: {problems}");
    }
    fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(Config::load(Given::default(), Some(&path), &surroundings()).is_err());
}

#[test]
fn what_is_printed_can_be_read_as_a_file() {
    let (_dir, path) = temp();
    let text = "addr = 'unix:/s'\nallowed-host = ['a']\nallowed-origin = ['https://A:443']\nnode-key = 'eu1'\nvmm = 'qemu'\n\
        guest-ram-mib = '2GiB'\npool-memory-mib = 4096\nboot-timeout = '1h'\nconsole = 'off'\n\
        jail-uids = '7-9'\nkernel-args = 'a b'\nnetns = '/n'\npool-size = 'off'\n";
    let config = load(Given::default(), &path, text).unwrap();
    let shown = config.shown();
    let mut printed = String::new();
    for option in shown.iter().filter(|option| option.value != Value::Null) {
        writeln!(printed, "{} = {}", option.option, option.value).unwrap();
    }
    let again = load(Given::default(), &path, &printed).unwrap().shown();
    for (one, other) in shown.iter().zip(&again) {
        assert_eq!(one.value, other.value, "{}", one.option);
    }
    let origin = |name: &str| {
        let option = shown.iter().find(|option| option.option == name).unwrap();
        (option.origin, option.place.clone())
    };
    assert_eq!(origin("node-key"), ("file", Some(format!("{}:4", path.display()))));
    assert_eq!(origin("max-sandboxes"), ("default", None));
}

#[test]
fn flags_take_what_they_always_took() {
    let parse = |words: &[&str]| {
        let command = Flags::<AllKeys>::augment_args(clap::Command::new("emberd"));
        let words = ["emberd"].iter().chain(words);
        let matches = command.try_get_matches_from(words)?;
        Flags::<AllKeys>::from_arg_matches(&matches)
    };
    let given = |words: &[&str]| Config::new(parse(words).unwrap().given, &surroundings());
    let config = given(&["--allowed-host", "a,b", "--allowed-host", "c", "--kernel-args", "-x y"]);
    let config = config.unwrap();
    assert_eq!(config.allowed_hosts, ["a", "b", "c"]);
    assert_eq!(config.kernel_args, ["-x", "y"]);
    assert!(!given(&["--no-seccomp"]).unwrap().seccomp);
    assert!(given(&["--no-seccomp=off", "--jail", "on"]).unwrap().seccomp);
    assert!(parse(&["--vmm", "qemu", "--vmm", "qemu"]).is_err());
    assert!(parse(&["--adress", "x"]).is_err());
}

#[test]
fn origins_of_pages_are_a_list_of_few() {
    let (_dir, path) = temp();
    let text = "allowed-origin = ['https://A.example', 'http://localhost:3000', \
        'https://a.example:443']\n";
    let config = load(Given::default(), &path, text).unwrap();
    let origins: Vec<_> = config.allowed_origins.iter().map(WebOrigin::as_str).collect();
    assert_eq!(origins, ["https://a.example", "http://localhost:3000"]);
    for (wrong, expect) in [
        (
            "['https://a.example/']",
            "is `https://a.example/`, not an origin without a path: write https://a.example",
        ),
        ("7", "allowed-origin has the wrong type"),
        ("['http://8000-sb-0123456789ab.localhost:7777']", "not an origin of yours: programs"),
    ] {
        let text = format!("allowed-origin = {wrong}\n");
        let problems = load(Given::default(), &path, &text).unwrap_err();
        assert!(problems.0[0].error.contains(expect), "{wrong}: {problems}");
        assert!(problems.0[0].hint.contains("https://"), "{wrong}: {problems:?}");
    }
    let each: Vec<_> = (0..17).map(|n| format!("'https://{n}.example'")).collect();
    let many = format!("allowed-origin = [{}]\n", each.join(", "));
    let problems = load(Given::default(), &path, &many).unwrap_err();
    assert!(problems.0[0].error.contains("17 origins, over the limit of 16"), "{problems}");
    let long = format!("allowed-origin = ['https://{}']\n", "a.".repeat(124));
    let problems = load(Given::default(), &path, &long).unwrap_err();
    assert!(problems.0[0].error.contains("at most 255 bytes"), "{problems}");
}

#[test]
fn who_may_use_the_socket_is_a_table_or_a_text() {
    let (_dir, path) = temp();
    let tables = "[[access]]\nuid = 1000\nrole = 'user'\n[[access]]\ngid = 7\nrole = 'viewer'\n";
    let config = load(Given::default(), &path, tables).unwrap();
    let shown: Vec<_> = config.access.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["uid:1000=user", "gid:7=viewer"]);
    let texts = "access = ['uid:1000=user', 'gid:7=viewer']\ninsecure-no-auth = true\n";
    let same = load(Given::default(), &path, texts).unwrap();
    assert_eq!((same.access, same.authentication), (config.access, Authentication::Off));
    for (wrong, expect) in [
        ("[[access]]\nuid = 1\n", "access has the wrong type"),
        ("[[access]]\nuid = 1\ngid = 2\nrole = 'user'\n", "access has the wrong type"),
        ("[[access]]\nuid = 1\nrole = 'user'\nname = 'x'\n", "access has the wrong type"),
        ("[access]\nuid = 1\nrole = 'user'\n", "access has the wrong type"),
        ("[[access]]\nuid = 1\nrole = 'root'\n", "`uid:1=root`, not a rule such as"),
        ("[[access]]\nuid = -1\nrole = 'user'\n", "`uid:-1=user`, not a rule such as"),
        ("[[access]]\nuid = 4294967296\nrole = 'user'\n", "not a rule such as"),
        ("access = ['uid:+1=user']\n", "not a rule such as"),
        ("access = ['user']\n", "not a rule such as"),
    ] {
        let problems = load(Given::default(), &path, wrong).unwrap_err();
        assert!(problems.0[0].error.contains(expect), "{wrong}: {problems}");
    }
    let many = format!("access = [{}]\n", "'uid:1=user',".repeat(65));
    let problems = load(Given::default(), &path, &many).unwrap_err();
    assert!(problems.0[0].error.contains("65 rules, over the limit of 64"), "{problems}");
}
