//! A test that cannot run here.
//!
//! A skip is a line of JSON in the file that `EMBERD_SKIPS` names, `{"test": …, "why": …}`, where
//! `scripts/test.sh` counts it. The test harness itself counts the test as passed. With
//! `EMBERD_E2E=require` a skip fails the test.

use std::env;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;

/// How seriously `EMBERD_E2E` takes the tests that need something of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seriousness {
    /// Whatever cannot run fails.
    Require,
    /// Whatever cannot run is skipped.
    Auto,
    /// No microVM is booted; the rest as with `Auto`.
    Off,
}

impl Seriousness {
    /// Any other word is a mistake that would skip in silence.
    fn of(word: Option<&str>) -> Self {
        match word {
            Some("require") => Self::Require,
            None | Some("auto") => Self::Auto,
            Some("off") => Self::Off,
            Some(other) => panic!("EMBERD_E2E is `{other}`, not require, auto or off"),
        }
    }

    fn here() -> Self {
        Self::of(env::var("EMBERD_E2E").ok().as_deref())
    }
}

/// Records that the running test does not run, or a part of it, and why.
///
/// # Panics
/// With `EMBERD_E2E=require`, and when the record cannot be written.
pub fn skip(why: impl Display) {
    let record = Record { test: running_test(), why: why.to_string() };
    record.keep(Seriousness::here(), env::var_os("EMBERD_SKIPS").map(PathBuf::from));
}

/// The test binary and the test, which the harness names its thread after; cargo-nextest, whose
/// tests run on the main thread, says it.
fn running_test() -> String {
    let binary = env::current_exe().ok();
    let binary = binary.as_deref().and_then(std::path::Path::file_stem).unwrap_or_default();
    let name = env::var("NEXTEST_TEST_NAME").ok();
    let name = name.or_else(|| std::thread::current().name().map(str::to_owned));
    format!("{}::{}", binary.to_string_lossy(), name.unwrap_or_default())
}

/// Whether the test can run, which is `condition`. Where it cannot, that is a [`skip`].
///
/// # Panics
/// As [`skip`].
#[must_use]
pub fn needs(condition: bool, why: impl Display) -> bool {
    if !condition {
        skip(why);
    }
    condition
}

/// Whether tests may boot microVMs. With `EMBERD_E2E=off` they are skipped.
///
/// # Panics
/// When the record cannot be written, or `EMBERD_E2E` has an unknown value.
#[must_use]
pub fn microvms() -> bool {
    needs(Seriousness::here() != Seriousness::Off, "EMBERD_E2E=off")
}

/// One skip.
struct Record {
    test: String,
    why: String,
}

impl Record {
    fn keep(&self, seriousness: Seriousness, file: Option<PathBuf>) {
        let Self { test, why } = self;
        assert!(
            seriousness != Seriousness::Require,
            "EMBERD_E2E=require, but this test cannot run: {why}"
        );
        // Past the harness's capture, so that a skipped test is seen.
        writeln!(io::stderr(), "SKIPPED: {test}: {why}").expect("standard error can be written");
        let Some(path) = file else { return };
        let line = format!("{}\n", serde_json::json!({"test": test, "why": why}));
        let kept = File::options().create(true).append(true).open(&path);
        // In one write: other tests append to the same file.
        let kept = kept.and_then(|mut file| file.write_all(line.as_bytes()));
        kept.unwrap_or_else(|error| panic!("cannot record a skip in {}: {error}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record { test: "here".into(), why: "no \"colon\"\nneeded".into() }
    }

    #[test]
    fn a_skip_is_one_line_whatever_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("skips");
        record().keep(Seriousness::Auto, Some(file.clone()));
        record().keep(Seriousness::Off, Some(file.clone()));
        let text = std::fs::read_to_string(file).unwrap();
        assert_eq!(text.lines().count(), 2);
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line, serde_json::json!({"test": "here", "why": "no \"colon\"\nneeded"}));
    }

    #[test]
    #[should_panic(expected = "EMBERD_E2E=require, but this test cannot run")]
    fn any_skip_fails_where_all_is_required() {
        record().keep(Seriousness::Require, None);
    }

    #[test]
    #[should_panic(expected = "cannot record a skip")]
    fn a_skip_that_cannot_be_recorded_fails() {
        record().keep(Seriousness::Auto, Some("/nonexistent/skips".into()));
    }

    #[test]
    #[should_panic(expected = "not require, auto or off")]
    fn a_mistyped_word_fails() {
        Seriousness::of(Some("required"));
    }
}
