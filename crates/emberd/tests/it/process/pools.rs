//! Pools of a whole daemon: filled without being asked, and gone with it however it ends.

use rustix::process::Signal;

use super::{Daemon, Room};
use crate::wait;

/// MicroVMs of each of the two packs.
const SIZE: usize = 2;

#[tokio::test]
async fn pool_fills_gives_and_leaves_nothing_at_the_end() {
    let room = Room::new();
    let daemon = Daemon::spawn(room.command_with_pools(SIZE));
    daemon.comes_to_rest().await;
    let info = daemon.client.info().await.unwrap();
    assert_eq!(info.boot_path, "warm-pool");
    let names: Vec<_> = info.pools.iter().map(|pool| pool.language_pack.as_str()).collect();
    assert_eq!(names, ["python", "shell"]);
    let (id, pid) = daemon.create().await;
    let sandbox = daemon.client.get(&id).await.unwrap();
    assert_eq!(sandbox.boot_path.as_deref(), Some("warm-pool"));
    let boot = sandbox.boot.unwrap();
    assert!(boot.load_us.is_some() && boot.renew_us.is_some(), "{boot:?}");
    assert_eq!(daemon.client.info().await.unwrap().pools[1].handed_out, 1);
    daemon.comes_to_rest().await;
    daemon.stop(Signal::TERM).await;
    assert!(!wait::is_running(pid));
    room.close().await;
}

#[tokio::test]
async fn templates_outlive_their_daemon() {
    let room = Room::new();
    let made = async |command| {
        let daemon = Daemon::spawn(command);
        let template = daemon.client.build_template("shell").await.unwrap();
        daemon.stop(Signal::TERM).await;
        template.made_at_ms.unwrap()
    };
    let first = made(room.command_with_pools(0)).await;
    assert_eq!(made(room.command_with_pools(0)).await, first);
    room.close().await;
}

#[tokio::test]
async fn signal_during_the_first_build_is_obeyed_at_once() {
    let room = Room::new();
    room.double.misbehave("hang-at=PUT /snapshot/create");
    let daemon = Daemon::spawn(room.command_with_pools(SIZE));
    wait::until(async || {
        let templates = daemon.client.templates().await.unwrap().templates;
        templates.iter().any(|template| template.state == emberd_api::TemplateState::Building)
            && !wait::left_in(&room.run_dir()).is_empty()
    })
    .await;
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn a_build_that_a_kill_cuts_is_done_again_and_leaves_nothing() {
    let room = Room::new();
    room.double.misbehave("hang-at=PUT /snapshot/create");
    let daemon = Daemon::spawn(room.command_with_pools(1));
    // The directory of the template is there, and the VMM is to fill it.
    let unfinished = async || wait::left_in(&room.path("data/templates")).len() == 1;
    wait::until(unfinished).await;
    daemon.crash().await;
    assert_eq!(wait::left_in(&room.run_dir()).len(), 1);
    // Half of it is written.
    let [unfinished] = &wait::left_in(&room.path("data/templates"))[..] else { panic!() };
    let name = unfinished.to_str().unwrap();
    assert!(name.ends_with(".unfinished"), "{name}");
    std::fs::write(unfinished.join("memory"), "half").unwrap();
    room.double.behave();
    let daemon = Daemon::spawn(room.command_with_pools(1));
    daemon.comes_to_rest().await;
    assert_eq!(room.templates(), ["python", "shell"]);
    let (id, _) = daemon.create().await;
    let sandbox = daemon.client.get(&id).await.unwrap();
    assert_eq!(sandbox.boot_path.as_deref(), Some("warm-pool"));
    room.finish(daemon).await;
}
