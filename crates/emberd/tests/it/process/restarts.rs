//! A daemon that is restarted again and again under load, as by a service manager.

use rustix::process::Signal;

use super::callers::{Callers, Ending};
use super::{Daemon, Room};
use crate::wait;

/// Number of restarts, unless `EMBERD_TEST_RESTARTS` says otherwise.
const RESTARTS: usize = 6;

/// Operations of callers that are answered between two of them: about two seconds' worth.
const OPERATIONS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_under_load_lose_no_request_and_double_none() {
    let restarts = std::env::var("EMBERD_TEST_RESTARTS");
    let restarts = restarts.map_or(RESTARTS, |text| text.parse().unwrap());
    let room = Room::new();
    let addr = format!("unix:{}", room.path("emberd.sock").display());
    let start = || {
        let mut command = room.command_with_pools_on(&addr, 1);
        command.args(["--on-stop", "keep"]);
        Daemon::spawn(command)
    };
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut daemon = start();
    let callers = Callers::begin(&room, &daemon, Ending::Orderly, seed);
    for _ in 0..restarts {
        let enough = callers.tally.answered() + OPERATIONS;
        wait::until(async || {
            callers.check();
            callers.tally.answered() >= enough
        })
        .await;
        daemon.stop(Signal::TERM).await;
        daemon = start();
    }
    println!("{restarts} restarts");
    callers.end(room, daemon).await;
}
