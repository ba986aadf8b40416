//! Code run in a shell context and given to a plain Bash as its input: output, status and what
//! they leave must be the same, but for the differences named here.
//!
//! Each snippet is a sequence of runs. A plain Bash is given the first, the first two and so on,
//! and both are asked at the end for their variables, functions, options, traps and aliases,
//! unless the last run ends the shell.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{env, fs};

mod shells;
mod snippet;

use shells::{Context, Heard, plain};
use snippet::{PROBE, Snippet};

/// What is known to differ, and why. Each is a snippet of the corpus.
const DIFFERENCES: [(&str, &str); 8] = [
    ("differs: a quote that is not ended", "each run is read to its end by itself"),
    ("differs: a here-document that is not ended", "each run is read to its end by itself"),
    ("differs: a function that is not ended", "each run is read to its end by itself"),
    ("differs: line numbers", "they begin anew with each run"),
    ("differs: standard input", "it is empty, and not the code that follows"),
    ("differs: a trap on EXIT without exit", "it runs when the shell exits, not at a run's end"),
    ("differs: reading without executing", "it ends with its run, or there were no more"),
    ("differs: an empty run after a failure", "a run without a command succeeds"),
];

/// Least number of snippets compared.
const SNIPPETS_MIN: usize = 200;

fn corpus() -> Vec<Snippet> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/shell_fidelity/corpus");
    let only = env::var("EMBERD_TEST_SNIPPET").unwrap_or_default();
    let files = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let all: Vec<_> =
        files.flat_map(|file| Snippet::all_of(&fs::read_to_string(file).unwrap())).collect();
    let names: BTreeSet<_> = all.iter().map(|snippet| &snippet.name).collect();
    assert_eq!(names.len(), all.len(), "two snippets have one name");
    assert!(all.len() >= SNIPPETS_MIN, "only {} snippets", all.len());
    all.into_iter().filter(|snippet| snippet.name.contains(&only)).collect()
}

fn known(snippet: &Snippet) -> bool {
    DIFFERENCES.iter().any(|(name, _)| *name == snippet.name)
}

/// How the two differ; `None` where they do not.
fn difference(snippet: &Snippet) -> Option<String> {
    let home = tempfile::tempdir().unwrap();
    let mut runs: Vec<&str> = snippet.runs.iter().map(String::as_str).collect();
    if !snippet.exits {
        runs.push(PROBE);
    }
    let mut context = Context::open(home.path());
    let mut heard = Vec::new();
    for run in &runs {
        match context.run(run) {
            Some(now) => heard.push(now),
            None => return Some(format!("the context ended after {heard:?}")),
        }
    }
    drop(context);
    (1..=runs.len()).find_map(|count| {
        let right = plain(home.path(), &runs[..count]);
        let found = Heard::all(&heard[..count]);
        right.difference(&found).map(|difference| format!("run {count}, {difference}"))
    })
}

#[test]
fn snippets_do_the_same_in_a_context_and_in_a_plain_bash() {
    let corpus = corpus();
    let found: BTreeMap<_, _> = corpus
        .iter()
        .filter(|snippet| !known(snippet))
        .filter_map(|snippet| Some((&snippet.name, difference(snippet)?)))
        .collect();
    let report: Vec<_> =
        found.iter().map(|(name, difference)| format!("{name}: {difference}\n")).collect();
    assert!(found.is_empty(), "{} differ:\n{}", found.len(), report.concat());
}

#[test]
fn known_differences_still_differ() {
    let corpus = corpus();
    for (name, reason) in DIFFERENCES {
        let snippet = corpus.iter().find(|snippet| snippet.name == name).expect(name);
        assert!(difference(snippet).is_some(), "{name} does the same now, not so that {reason}");
    }
}
