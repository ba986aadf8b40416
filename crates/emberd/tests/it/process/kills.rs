//! Daemons that are killed at random moments of all that callers do.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use emberd_client::{ClientError, FileOptions, Upload};
use futures::stream;
use rustix::process::{Pid, Signal, kill_process};

use super::callers::{Callers, Dice, Ending};
use super::{Daemon, Room};
use crate::wait;

/// Number of daemons that are killed, unless `EMBERD_TEST_KILLS` says otherwise.
const KILLS: usize = 15;

/// Longest life of a daemon, in milliseconds; one of [`LONG_EVERY`] lives that much longer.
const LIFE_MS_MAX: u64 = 1_000;
const LONG_EVERY: u64 = 4;
const LONG_TIMES: u64 = 3;

/// One daemon of so many is killed while it makes a template again.
const BUILD_EVERY: u64 = 3;

/// Longest time between two VMMs that stand still, and the longest that one does, in milliseconds.
const CALM_MS_MAX: u64 = 100;
const STILL_MS_MAX: u64 = 40;

/// Size of an upload that is cut, in pieces of a MiB, and how many of them arrive at least.
const UPLOAD_PIECES: usize = 1024;
const ARRIVED_PIECES: usize = 64;

fn kills() -> usize {
    std::env::var("EMBERD_TEST_KILLS").map_or(KILLS, |text| text.parse().unwrap())
}

/// Lets one VMM after the other stand still for a moment. The daemon waits for it between two lines
/// of a journal, and is killed there more often than it would be. Ends once it `is_over`.
async fn hold_up(run_dir: &Path, mut dice: Dice, is_over: &AtomicBool) {
    let mut moment = async |most| {
        tokio::time::sleep(Duration::from_millis(dice.below(most))).await;
        dice.below(u64::MAX)
    };
    while !is_over.load(Ordering::Relaxed) {
        let number = moment(CALM_MS_MAX).await;
        let vmms: Vec<_> = fs::read_dir(run_dir).unwrap().flatten().collect();
        let Some(dir) = Dice(number).pick(&vmms).map(fs::DirEntry::path) else { continue };
        let Some(vmm) = vmm_of(&dir) else { continue };
        if kill_process(vmm, Signal::STOP).is_ok() {
            moment(STILL_MS_MAX).await;
            kill_process(vmm, Signal::CONT).ok();
        }
    }
}

/// The process of the microVM in `dir`; none while it is made or removed.
fn vmm_of(dir: &Path) -> Option<Pid> {
    let record = fs::read(dir.join("vmm.json")).ok()?;
    let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
    Pid::from_raw(record["pid"].as_i64()?.try_into().ok()?)
}

/// Has the template of `shell` made once more, and does not wait for it.
async fn make_template_again(daemon: &Daemon) {
    daemon.client.delete_template("shell").await.unwrap();
    let client = daemon.client.clone();
    tokio::spawn(async move { client.build_template("shell").await });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_killed_at_random_lose_leak_and_double_nothing() {
    let room = Room::new();
    let addr = format!("unix:{}", room.path("emberd.sock").display());
    let start = || Daemon::spawn(room.command_with_pools_on(&addr, 1));
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let mut daemon = start();
    let callers = Callers::begin(&room, &daemon, Ending::Killed, seed);
    let (run_dir, is_over) = (room.run_dir(), Arc::new(AtomicBool::new(false)));
    let over = Arc::clone(&is_over);
    let holding_up = tokio::spawn(async move { hold_up(&run_dir, Dice(!seed), &over).await });
    let mut builds = 0;
    for _ in 0..kills() {
        let longest = if dice.below(LONG_EVERY) == 0 { LONG_TIMES } else { 1 } * LIFE_MS_MAX;
        if dice.below(BUILD_EVERY) == 0 {
            make_template_again(&daemon).await;
            builds += 1;
        }
        tokio::time::sleep(Duration::from_millis(dice.below(longest))).await;
        daemon.crash().await;
        daemon = start();
        callers.check();
    }
    is_over.store(true, Ordering::Relaxed);
    holding_up.await.unwrap();
    println!("{} kills, {builds} of them after a template was asked for again", kills());
    callers.end(room, daemon).await;
}

#[tokio::test]
async fn a_gib_that_a_kill_cuts_leaves_nothing_half_there() {
    let room = Room::new();
    let mut daemon = room.start();
    let (id, _) = daemon.create().await;
    let dir = room.run_dir().join(&id);
    let (path, options) = (dir.join("upload"), FileOptions::default());
    let before = Upload::bytes("as it was");
    daemon.client.file_write(&id, &path, before, &options).await.unwrap();
    let names = || {
        let names = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
        names.collect::<BTreeSet<_>>()
    };
    let all = names();
    for _ in 0..2 {
        let piece = Bytes::from(vec![b'x'; 1 << 20]);
        let pieces = (0..UPLOAD_PIECES).map(move |_| Ok(piece.clone()));
        let upload = Upload::new(stream::iter(pieces));
        let (client, of, to) = (daemon.client.clone(), id.clone(), path.clone());
        let cut = tokio::spawn(async move {
            client.file_write(&of, &to, upload, &FileOptions::default()).await
        });
        let half = || names().into_iter().find(|name| !all.contains(name));
        let arrived = async || {
            let half = half().and_then(|name| fs::metadata(dir.join(name)).ok());
            half.is_some_and(|half| half.len() >= (ARRIVED_PIECES as u64) << 20)
        };
        wait::until(arrived).await;
        daemon.crash().await;
        let broken = cut.await.unwrap();
        assert!(matches!(broken, Err(ClientError::Broken { .. })), "{broken:?}");
        // The agent sees that its host has left, without the next daemon.
        wait::until(async || half().is_none()).await;
        assert_eq!(fs::read(&path).unwrap(), b"as it was");
        daemon = room.start();
        let stat = daemon.client.file_stat(&id, &path, &options).await.unwrap();
        assert_eq!(stat.size, 9);
    }
    let whole = Upload::bytes(vec![b'y'; ARRIVED_PIECES << 20]);
    let written = daemon.client.file_write(&id, &path, whole, &options).await.unwrap();
    assert_eq!(written.size, (ARRIVED_PIECES as u64) << 20);
    room.finish(daemon).await;
}
