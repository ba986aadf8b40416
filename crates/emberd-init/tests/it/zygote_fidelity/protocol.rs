//! What agent and zygote agreed on, and what no comparison of two programs shows.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::ExitStatus;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::program::{End, Program, Streams, place};
use super::python::{Python, preloads};
use super::zygote::{Spare, Zygote, send};

/// A zygote without preloads, unless there is no Python for it.
fn zygote() -> Option<(Zygote, TempDir)> {
    let place = place();
    let python = Python::find(place.path())?;
    Some((Zygote::start(&python, &[]), place))
}

fn pid(spare: &Spare) -> Pid {
    Pid::from_raw(i32::try_from(spare.pid).unwrap())
}

#[test]
fn no_two_programs_share_randomness() {
    const SOURCE: &str = "import os, random, secrets, tempfile, uuid\n\
        print(random.random(), random.SystemRandom().random(), os.urandom(8), uuid.uuid4(),\n\
              secrets.token_hex(), tempfile.mktemp(), sep='\\n')\n";
    let place = place();
    let Some(python) = Python::find(place.path()) else { return };
    let mut zygote = Zygote::start(&python, &preloads());
    let program = Program::new("randomness", place.path(), SOURCE.as_bytes());
    // Both spares are there before either has work: what they have in common, they keep.
    let spares = [zygote.fork(None), zygote.fork(None)];
    let mut outcomes = spares
        .map(|spare| program.run(|streams| zygote.run_in(spare, &program, streams)))
        .map(|outcome| String::from_utf8(outcome.stdout).unwrap());
    outcomes.sort();
    let [one, other] = &outcomes;
    assert_eq!((one.lines().count(), other.lines().count()), (6, 6), "{outcomes:?}");
    for (one, other) in one.lines().zip(other.lines()) {
        assert_ne!(one, other);
    }
}

#[test]
fn a_spare_has_its_own_session_and_joins_its_cgroup() {
    let Some((mut zygote, place)) = zygote() else { return };
    let procs = place.path().join("cgroup.procs");
    let spare = zygote.fork(Some(File::create(&procs).unwrap().as_fd()));
    let session = spare.pid;
    let source = b"import os; print(os.getsid(0), os.getpgid(0), os.getpid())";
    let program = Program::new("session", place.path(), source);
    let outcome = program.run(|streams| zygote.run_in(spare, &program, streams));
    let said = String::from_utf8(outcome.stdout).unwrap();
    assert_eq!(said, format!("{session} {session} {session}\n"));
    assert_eq!(fs::read(&procs).unwrap(), b"0");
}

#[test]
fn a_spare_goes_with_its_agent_and_a_killed_one_is_reported() {
    let Some((mut zygote, _place)) = zygote() else { return };
    let Spare { pid: left, channel } = zygote.fork(None);
    let killed = zygote.fork(None);
    drop(channel);
    assert_eq!(zygote.ended(left), End::Code(0));
    kill(pid(&killed), Signal::SIGKILL).unwrap();
    assert_eq!(zygote.ended(killed.pid), End::Signal(9));
}

#[test]
fn the_zygote_and_its_spares_go_with_the_agent() {
    let Some((mut zygote, _place)) = zygote() else { return };
    let mut spare = zygote.fork(None);
    drop(zygote.control.take());
    let status: ExitStatus = zygote.process.wait().unwrap();
    assert!(status.success(), "{status}");
    // The spare needs not the zygote but the agent.
    spare.channel.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(spare.channel.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_module_that_cannot_be_imported_is_said_and_skipped() {
    let place = place();
    let Some(python) = Python::find(place.path()) else { return };
    let modules = ["no_such_module", "colorsys"].map(str::to_owned);
    let mut zygote = Zygote::start(&python, &modules);
    let program = Program::new("p", place.path(), b"import sys; print('colorsys' in sys.modules)");
    assert_eq!(program.run(|streams| zygote.run(&program, streams)).stdout, b"True\n");
    drop(zygote.control.take());
    let mut said = String::new();
    zygote.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "zygote: cannot import no_such_module: No module named 'no_such_module'\n");
}

#[test]
fn work_may_be_long_and_come_in_pieces() {
    let Some((mut zygote, place)) = zygote() else { return };
    let source = b"import sys; print(len(sys.argv), sum(map(len, sys.argv[1:])))";
    let mut program = Program::new("pieces", place.path(), source);
    program.args = vec!["ü".repeat(1000); 500];
    let outcome = program.run(|streams| {
        let mut spare = zygote.fork(None);
        let work = zygote.work(&program, &streams);
        let Streams { stdin, stdout, stderr, .. } = streams;
        send(spare.channel.as_fd(), &work[..2], &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
        drop((stdin, stdout, stderr));
        for piece in work[2..].chunks(10_000) {
            spare.channel.write_all(piece).unwrap();
        }
        zygote.ended(spare.pid)
    });
    assert_eq!((outcome.stdout, outcome.end), (b"501 500000\n".to_vec(), End::Code(0)));
}

#[test]
fn what_was_installed_since_is_seen() {
    let place = place();
    let Some(python) = Python::find(place.path()) else { return };
    let mut zygote = Zygote::start(&python, &preloads());
    let packages = place.path().join(format!(".local/lib/python3.{}/site-packages", python.minor));
    fs::create_dir_all(&packages).unwrap();
    fs::write(packages.join("fresh.py"), "value = 'installed since'\n").unwrap();
    let source =
        b"import fresh, sys; print(fresh.value, [path for path in sys.path if 'more' in path])";
    let program = Program::new("fresh", place.path(), source);
    let mut check = |expect: &str| {
        let forked = program.run(|streams| zygote.run(&program, streams));
        let fresh = program.run(|streams| python.run(&program, streams));
        assert_eq!(fresh.difference(&forked), None);
        let shown = String::from_utf8_lossy(&forked.stdout).into_owned();
        assert!(shown.contains(expect), "{shown}");
    };
    check("installed since []");
    fs::create_dir(place.path().join("more")).unwrap();
    let more = place.path().join("more").display().to_string();
    fs::write(packages.join("more.pth"), format!("{more}\n")).unwrap();
    check(&more);
}

#[test]
fn programs_may_run_at_once() {
    let Some((mut zygote, place)) = zygote() else { return };
    let source = b"import sys; sys.exit(len(input()))";
    let first = Program::new("waits", &place.path().join("first"), source);
    let second = Program::new("does not", &place.path().join("second"), b"print('second')");
    let (mut waits, runs) = (zygote.fork(None), zygote.fork(None));
    let (stdin, mut to_first) = io::pipe().unwrap();
    let outcome = first.run(|streams| {
        let streams = Streams { stdin, ..streams };
        zygote.give(&mut waits, &first, streams);
        // The second program comes and goes while the first one waits for its input.
        let said = second.run(|streams| zygote.run_in(runs, &second, streams)).stdout;
        assert_eq!(said, b"second\n");
        to_first.write_all(b"four\n").unwrap();
        zygote.ended(waits.pid)
    });
    assert_eq!(outcome.end, End::Code(4));
}
