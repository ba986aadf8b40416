//! Many lives over HTTP, after which nothing is left.

use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{env, fs};

use emberd_api::{ExecBody, Pool};
use emberd_proto::ExecSpec;
use rustix::process::Signal;

use crate::process::{Daemon, Room};
use crate::wait;

/// How many lives, unless `EMBERD_LIVES` says otherwise.
const LIVES: usize = 200;

/// Readings in a row that agree once a daemon has come to rest.
const AGREED: usize = 50;

#[tokio::test]
async fn nothing_is_left_of_many_lives() {
    let room = Room::new();
    let mut daemon = room.start();
    many_lives(&daemon, &room).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
    room.close().await;
}

#[tokio::test]
async fn nothing_is_left_of_many_lives_from_the_pool() {
    let room = Room::new();
    let mut daemon = Daemon::spawn(room.command_with_pools(2));
    daemon.comes_to_rest().await;
    many_lives(&daemon, &room).await;
    let pool = shell_pool(&daemon).await.unwrap();
    println!("{pool:?}");
    let given = u64::try_from(lives()).unwrap() + 1;
    assert_eq!((pool.handed_out, pool.missed, pool.discarded), (given, 0, 0));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
    room.close().await;
}

fn lives() -> usize {
    env::var("EMBERD_LIVES").map_or(LIVES, |text| text.parse().unwrap())
}

async fn shell_pool(daemon: &Daemon) -> Option<Pool> {
    let pools = daemon.client.info().await.unwrap().pools;
    pools.into_iter().find(|pool| pool.language_pack == "shell")
}

async fn many_lives(daemon: &Daemon, room: &Room) {
    let lives = lives();
    // What is opened once is open after the first.
    live(daemon).await;
    daemon.comes_to_rest().await;
    let before = Holdings::steady(daemon, room).await;
    let started = Instant::now();
    for _ in 0..lives {
        live(daemon).await;
    }
    let took = started.elapsed();
    // Ends go on behind the answers, and pools are filled again.
    wait::until(async || Holdings::of(daemon, room).are_within(&before)).await;
    println!("{lives} lives in {took:.1?}; before and after {before:?}");
}

async fn live(daemon: &Daemon) {
    // A pool asked in vain raises its ceiling, and holds more for minutes.
    wait::until(async || shell_pool(daemon).await.is_none_or(|pool| pool.ready > 0)).await;
    let (id, _) = daemon.create().await;
    assert_eq!(daemon.client.exec(&id, &no_op()).await.unwrap().exit.exit_code, 0);
    daemon.client.delete(&id).await.unwrap();
}

fn no_op() -> ExecBody {
    ExecBody { spec: ExecSpec::new(":"), stdin: None, stdin_base64: None }
}

/// What a daemon has, by count.
#[derive(Debug, PartialEq, Eq)]
pub struct Holdings {
    processes: usize,
    descriptors: usize,
    sockets: usize,
    directories: usize,
}

impl Holdings {
    fn of(daemon: &Daemon, room: &Room) -> Self {
        Self::of_process(daemon.process_id(), &room.run_dir())
    }

    /// As [`Self::of`], once readings in a row agree: work of a moment is over.
    async fn steady(daemon: &Daemon, room: &Room) -> Self {
        let mut last = Self::of(daemon, room);
        let mut agreed = 0;
        wait::until(async || {
            let now = Self::of(daemon, room);
            agreed = if now == last { agreed + 1 } else { 0 };
            last = now;
            agreed == AGREED
        })
        .await;
        last
    }

    /// Whether nothing is more than in `others`.
    pub fn are_within(&self, others: &Self) -> bool {
        self.processes <= others.processes
            && self.descriptors <= others.descriptors
            && self.sockets <= others.sockets
            && self.directories <= others.directories
    }

    /// Holdings of a daemon with this process and this run directory.
    pub fn of_process(pid: u32, run_dir: &Path) -> Self {
        let open = open_files(pid);
        let sockets = open.iter().filter(|file| file.to_string_lossy().starts_with("socket:"));
        Self {
            processes: descendants(pid),
            sockets: sockets.count(),
            descriptors: open.len(),
            directories: wait::left_in(run_dir).len(),
        }
    }
}

fn open_files(pid: u32) -> Vec<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

/// Processes below `root`, zombies included.
fn descendants(root: u32) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let parents: Vec<(u32, u32)> = processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, parent_of(&entry.path())?))
        })
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid));
        next += 1;
    }
    found.len() - 1
}

fn parent_of(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The name, in parentheses, may hold anything; state and parent follow the last one.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
