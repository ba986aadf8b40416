//! Programs run as forks of the Python zygote and as `python3 file.py`: output, end and the
//! files they leave must be the same, byte for byte, but for the differences named here.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

mod program;
mod protocol;
mod python;
mod zygote;

use program::Program;
use python::{Python, preloads};
use zygote::Zygote;

/// What is known to differ, and why. Each is a program of the corpus.
const DIFFERENCES: [(&str, &str); 8] = [
    ("differs_modules", "the preloaded modules are there before anything imports them"),
    ("differs_command_line", "the kernel shows the zygote's command line"),
    ("differs_descriptors", "the socket for the report is open, far up"),
    ("differs_frozen_objects", "the zygote's objects are frozen, so that forks share them"),
    ("differs_recursion_functions", "they hide the frame below the program"),
    ("differs_recursion_in_thread", "where there is no such frame, which leaves one more"),
    ("differs_fault_handler", "it reads the stack without regard to frames not yet there"),
    ("differs_finalizer_in_library", "modules of the zygote are not torn down"),
];

/// How long one program may take, in seconds; far beyond what any needs.
const PATIENCE: Duration = Duration::from_secs(120);

fn corpus(place: &Path) -> Vec<Program> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/zygote_fidelity/corpus");
    let only = env::var("EMBERD_TEST_PROGRAM").unwrap_or_default();
    let files = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|file| file.is_file() && file.to_str().unwrap().contains(&only)).collect();
    files.sort();
    files.iter().map(|file| Program::read(file, place)).collect()
}

/// Whether a program is there to show a difference.
fn known(program: &Program) -> bool {
    DIFFERENCES.iter().any(|(name, _)| *name == program.name)
}

/// Programs for `python` that are `wanted`, and that do not do the same in both modes; with
/// what they did. Each runner has a place and a zygote of its own.
fn compare(python: &Python, wanted: fn(&Program) -> bool) -> BTreeMap<String, String> {
    const RUNNERS: usize = 3;
    let (sender, receiver) = mpsc::channel();
    let start = |runner| {
        let (sender, python) = (sender.clone(), python.clone());
        thread::spawn(move || {
            let place = program::place();
            let mut zygote = Zygote::start(&python, &preloads());
            let programs = corpus(place.path()).into_iter().filter(wanted);
            let programs = programs.filter(|program| program.is_for(&python));
            let mut found = BTreeMap::new();
            for program in programs.skip(runner).step_by(RUNNERS) {
                sender.send(program.name.clone()).unwrap();
                let fresh = program.run(|streams| python.run(&program, streams));
                // Work that waits cuts a child's preparation short.
                let hurried = program.run(|streams| zygote.run(&program, streams));
                let rested = program.run(|streams| zygote.run_rested(&program, streams));
                let difference = fresh.difference(&hurried).or_else(|| fresh.difference(&rested));
                found.extend(difference.map(|difference| (program.name, difference)));
            }
            found
        })
    };
    let runners: Vec<_> = (0..RUNNERS).map(start).collect();
    drop(sender);
    let mut last = Vec::new();
    loop {
        match receiver.recv_timeout(PATIENCE) {
            Ok(name) => last.push(name),
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("one of {last:?} does not end"),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        last.drain(..last.len().saturating_sub(RUNNERS));
    }
    runners.into_iter().flat_map(|runner| runner.join().unwrap()).collect()
}

#[test]
fn programs_do_the_same_in_both_modes() {
    let home = program::place();
    let Some(python) = Python::find(home.path()) else { return };
    let found = compare(&python, |program| !known(program));
    let report: Vec<_> =
        found.iter().map(|(name, difference)| format!("===== {name}\n{difference}\n")).collect();
    assert!(found.is_empty(), "{} differ:\n{}", found.len(), report.concat());
}

#[test]
fn preparation_may_be_cut_short_wherever_it_looks_for_work() {
    const LOOK: &str = "told.poll(0)";
    const PROGRAM: &[u8] = b"import sys, traceback, warnings
print(sys.argv, sys.path, sorted(globals()), sys.path_importer_cache.get('/dev/null', 'none'))
print([rule for rule in warnings.filters if rule[0] == 'error'], sys._getframe().f_back)
try:
    1 / 0
except ZeroDivisionError:
    traceback.print_exc()
sys.exit(3)";
    let (place, altered) = (program::place(), program::place());
    let Some(python) = Python::find(place.path()) else { return };
    let source = fs::read_to_string(python::zygote_program()).unwrap();
    assert_eq!(source.matches(LOOK).count(), 1);
    let looks = source.matches("    yield\n").count();
    assert!(looks > 3, "{looks}");
    let program = Program::new("cut", place.path(), PROGRAM);
    let fresh = program.run(|streams| python.run(&program, streams));
    for cut in 0..=looks {
        let counted = source.replace(LOOK, "LOOKS.pop()").replacen(
            "report = None",
            &format!("LOOKS = [True] + [False] * {cut}\nreport = None"),
            1,
        );
        let file = altered.path().join("zygote.py");
        fs::write(&file, counted).unwrap();
        let mut zygote = Zygote::start_program(&file, &python, &preloads());
        let forked = program.run(|streams| zygote.run_rested(&program, streams));
        assert_eq!(fresh.difference(&forked), None, "cut at {cut}");
    }
}

#[test]
fn known_differences_still_differ() {
    let home = program::place();
    let Some(python) = Python::find(home.path()) else { return };
    let found = compare(&python, known);
    for (name, reason) in DIFFERENCES {
        assert!(found.contains_key(name), "{name} does the same now, not so that {reason}");
    }
}
