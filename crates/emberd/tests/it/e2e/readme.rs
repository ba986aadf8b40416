//! The README's shell blocks, typed into Bash beside a daemon of the test's own.
//!
//! A `console` block is commands, `$ ` before each, and what they print; a `sh` block is commands
//! that succeed. In what is printed, ids and times are whatever they are, and `...` is anything.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::daemon::Daemon;

/// Blocks that are not run, by their first command, and why.
const NOT_RUN: [(&str, &str); 2] = [
    ("scripts/quickstart.sh", "takes minutes, and the other command runs this test"),
    ("emberctl setup firecracker", "downloads a release"),
];

/// What the README has the reader do first in a terminal, which the test does in another way.
const DONE: [&str; 2] = ["scripts/serve.sh", "alias emberctl="];

/// Address of the daemon in the README.
const ADDRESS: &str = "127.0.0.1:7777";

/// An id in the README that stands for the last one printed.
const ID: &str = "sb_5f0c1e7a9b3d";

/// Printed after each command, with its exit code in between.
const MARK: [&str; 2] = ["\u{1}exit ", "\u{1}\n"];

/// A command, and what it prints where that is shown.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    command: String,
    printed: Option<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn shell_blocks_of_the_readme_do_what_they_show() {
    let Some(daemon) = Daemon::instant(&["--pool-size", "off"]) else { return };
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let blocks = blocks(&fs::read_to_string(readme).unwrap());
    let mut not_run = Vec::from(NOT_RUN.map(|(first, _)| first));
    let mut problems = Vec::new();
    for block in &blocks {
        let first = &block[0].command;
        if let Some(at) = not_run.iter().position(|start| first.starts_with(start)) {
            not_run.remove(at);
            continue;
        }
        let steps: Vec<_> = block.iter().filter(|step| !is_done(&step.command)).collect();
        let printed = type_in(&daemon.authority, &steps);
        for (step, (text, code)) in steps.iter().zip(&printed) {
            let expect = step.printed.as_deref();
            let holds = expect.map_or(*code == 0, |expect| matches(&normal(expect), &normal(text)));
            if !holds {
                let shown = expect.unwrap_or("exit code 0");
                problems.push(format!("$ {}\nshown:\n{shown}\nprinted:\n{text}", step.command));
            }
        }
        assert_eq!(printed.len(), steps.len(), "{block:?}");
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(not_run.is_empty(), "no such blocks any more: {not_run:?}");
    assert!(blocks.len() > NOT_RUN.len(), "nothing was run");
    daemon.stop();
}

fn is_done(command: &str) -> bool {
    DONE.iter().any(|start| command.starts_with(start))
}

/// The `sh` and `console` blocks of a page.
fn blocks(page: &str) -> Vec<Vec<Step>> {
    let mut blocks = Vec::new();
    for part in page.split("\n```").skip(1).step_by(2) {
        let (language, text) = part.split_once('\n').unwrap_or((part, ""));
        match language {
            "sh" => blocks.push(text.lines().filter_map(|line| step(line, None)).collect()),
            "console" => blocks.push(session(text)),
            _ => {}
        }
    }
    blocks
}

fn step(line: &str, printed: Option<String>) -> Option<Step> {
    // Remarks stand far to the right, as no argument does.
    let command = line.split("   #").next().unwrap_or_default().trim().to_owned();
    (!command.is_empty()).then_some(Step { command, printed })
}

fn session(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.extend(step(command, Some(String::new())));
        } else if let Some(printed) = steps.last_mut().and_then(|step| step.printed.as_mut()) {
            printed.push_str(line);
            printed.push('\n');
        }
    }
    steps
}

/// Types the commands into one Bash; what each printed, and its exit code.
fn type_in(authority: &str, steps: &[&Step]) -> Vec<(String, i32)> {
    let mut script = format!("emberctl() {{ '{}' \"$@\"; }}\n", emberctl().display());
    script.push_str("exec 2>&1\n");
    for step in steps {
        let command = step.command.replace(ADDRESS, authority).replace(ID, "$last");
        script.extend([
            // In this shell, so that variables stay; what it prints is kept for the id in it.
            format!("{{ {command}\n}} >printed; code=$?; cat printed\n"),
            "printf '\\1exit %s\\1\\n' \"$code\"\n".to_owned(),
            "found=$(grep -o 'sb_[0-9a-z]*' printed | head -n 1)\n".to_owned(),
            "last=${found:-${last-}}\n".to_owned(),
        ]);
    }
    let dir = tempfile::tempdir().unwrap();
    let mut bash = Command::new("bash")
        .args(["--noprofile", "--norc"])
        .env("EMBERD_ADDR", authority)
        .env("NO_COLOR", "1")
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = String::from_utf8(bash.wait_with_output().unwrap().stdout).unwrap();
    let parts = output.split_inclusive(MARK[1]).filter_map(|part| part.rsplit_once(MARK[0]));
    let code = |text: &str| text.trim_end_matches(MARK[1]).parse().unwrap();
    parts.map(|(text, rest)| (text.to_owned(), code(rest))).collect()
}

/// The `emberctl` built beside this test.
fn emberctl() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let mut places = exe.ancestors().skip(1).take(2).map(|dir| dir.join("emberctl"));
    places.find(|path| Path::exists(path)).expect("run `cargo build -p emberctl` first")
}

/// Ids and times as they always are.
fn normal(text: &str) -> String {
    let mut words = Vec::new();
    for word in text.trim_end().split_inclusive(|c: char| !c.is_alphanumeric() && c != '_') {
        let end = word.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(word.len());
        let (name, separator) = word.split_at(end);
        let is_time = words.iter().rev().take(2).any(|before| before == "duration_ms\"");
        let is_id = name.starts_with("sb_");
        let name = if is_id {
            "sb_ID"
        } else if is_time {
            "N"
        } else {
            name
        };
        words.push(format!("{name}{separator}"));
    }
    words.concat()
}

/// Whether `text` is `pattern`, of which `...` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split("...").map(str::trim_end);
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    rest.is_empty() || last.is_some_and(|last| text.ends_with(last))
}

#[test]
fn blocks_of_a_page_are_told_apart() {
    let page = "a\n```sh\none    # why\n\ntwo '#3'\n```\nb\n```rust\nx\n```\n```console\n$ say x\nx\n\
                y\n$ end\n```\n";
    let step = |command: &str, printed: Option<&str>| Step {
        command: command.to_owned(),
        printed: printed.map(str::to_owned),
    };
    let shell = vec![step("one", None), step("two '#3'", None)];
    let console = vec![step("say x", Some("x\ny\n")), step("end", Some(""))];
    assert_eq!(blocks(page), [shell, console]);
}

#[test]
fn what_is_printed_is_held_against_what_is_shown() {
    let check = |pattern: &str, text: &str| matches(&normal(pattern), &normal(text));
    assert!(check("42\n", "42\n") && !check("42\n", "43\n") && !check("42\n", "42\n43\n"));
    assert!(check("{\"id\":\"sb_1\"}\n", "{\"id\":\"sb_2f\"}"));
    let shown = "{\"out\":\"42\\n\",\"duration_ms\":17,\"exit_code\":0, ...}";
    assert!(check(shown, "{\"out\":\"42\\n\",\"duration_ms\":8,\"exit_code\":0,\"x\":1}"));
    assert!(!check(shown, "{\"out\":\"42\\n\",\"duration_ms\":8,\"exit_code\":1,\"x\":1}"));
}
