//! Namespaces of a test's own.

use std::panic::resume_unwind;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use crate::skip;

/// Runs `story` on a thread with mounts of its own. Nothing happens, which is a skip, where that
/// cannot be.
///
/// # Panics
/// With `story`.
pub fn with_mounts(story: impl FnOnce() + Send + 'static) {
    apart(CloneFlags::CLONE_NEWNS, "a mount namespace needs root", story);
}

/// As [`with_mounts`], with a network of its own besides, whose loopback is down.
///
/// # Panics
/// With `story`.
pub fn with_network(story: impl FnOnce() + Send + 'static) {
    let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    apart(flags, "a network namespace needs root", story);
}

fn apart(flags: CloneFlags, needs: &str, story: impl FnOnce() + Send + 'static) {
    if !geteuid().is_root() {
        skip(needs);
        return;
    }
    let told = thread::spawn(move || {
        // Of this thread, and of every thread and process that it starts.
        unshare(flags).expect("root may make namespaces");
        run("mount --make-rprivate /");
        story();
    });
    if let Err(panic) = told.join() {
        resume_unwind(panic);
    }
}

/// Runs a program with its arguments, separated by spaces.
///
/// # Panics
/// Unless it succeeds.
pub fn run(line: &str) {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program is named");
    let output = Command::new(program).args(words).output().expect(line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}
