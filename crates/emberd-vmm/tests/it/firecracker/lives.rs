//! Many lives, after which nothing is left.

use std::fs;
use std::process::Command;
use std::time::Duration;

use emberd_vmm::{MicroVm as _, Vmm as _};

use super::lab::Lab;
use crate::agent::Agent;

/// Set in the process that lives them: descriptors are counted where no other test opens any.
const ALONE: &str = "EMBERD_TEST_ALONE";

/// How many lives, unless `EMBERD_TEST_LIVES` says otherwise.
const LIVES: usize = 200;

#[test]
fn lives_leave_no_process_descriptor_socket_or_directory() {
    if std::env::var_os(ALONE).is_some() {
        return live();
    }
    let this = "firecracker::lives::lives_leave_no_process_descriptor_socket_or_directory";
    // Its verdict is not one more of this run's.
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", this, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn live() {
    let lives = std::env::var("EMBERD_TEST_LIVES").map_or(LIVES, |text| text.parse().unwrap());
    let lab = Lab::new();
    let driver = lab.driver(&[]);
    let one = async |number: usize| {
        let vm = driver.boot(lab.spec(&format!("sb_{number}"))).await.unwrap();
        assert_eq!(Agent::connect(&vm).await.run("echo ok").await, "ok\n");
        if number.is_multiple_of(2) { vm.kill().await.unwrap() } else { drop(vm) }
    };
    // What the runtime opens once is open after the first.
    one(0).await;
    let before = counts();
    for number in 1..=lives {
        one(number).await;
    }
    lab.assert_empty();
    drop(driver);
    settle(before).await;
}

/// Descriptors and children of this process.
fn counts() -> (usize, usize) {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
    let own = std::process::id().to_string();
    let children = fs::read_dir("/proc").unwrap().filter(|entry| {
        let stat = fs::read_to_string(entry.as_ref().unwrap().path().join("stat"));
        stat.is_ok_and(|stat| {
            let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            after_name.split_whitespace().nth(1) == Some(own.as_str())
        })
    });
    (descriptors, children.count())
}

/// The tasks of the last life close their descriptors when the runtime comes to them.
async fn settle(expect: (usize, usize)) {
    for _ in 0..10_000 {
        if counts() <= expect {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(counts(), expect, "(descriptors, children) before and after");
}
