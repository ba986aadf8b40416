//! The ends of the process, and what is left behind.

use std::fs;
use std::path::Path;
use std::time::Instant;

use emberd_proto::HostMessage;
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{Agent, Dir, PATIENCE, Vmm};

/// Starts a program that leaves the agent's session, and returns every process of the guest.
fn guest_processes(vmm: &Vmm, agent: &mut Agent) -> Vec<u32> {
    let output = agent.run("setsid sleep 600 >/dev/null 2>&1 & echo $!; echo $PPID");
    let mut pids: Vec<u32> = output.lines().map(|line| line.parse().unwrap()).collect();
    agent.start("sleep 600");
    pids.extend(children(vmm.process.id()));
    assert!(pids.iter().all(|pid| is_alive(*pid)), "{pids:?}");
    pids
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

fn children(parent: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let of_parent = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    pids.filter(of_parent).collect()
}

fn wait_until_gone(pids: &[u32]) {
    let deadline = Instant::now() + PATIENCE;
    while pids.iter().any(|pid| is_alive(*pid)) {
        assert!(Instant::now() < deadline, "{pids:?}");
        std::thread::yield_now();
    }
}

#[test]
fn sigkill_takes_the_whole_guest_along_even_a_paused_one() {
    for paused in [false, true] {
        let dir = Dir::new();
        let mut vmm = dir.start(&[]);
        vmm.boot();
        let mut agent = vmm.connect_agent();
        let pids = guest_processes(&vmm, &mut agent);
        if paused {
            vmm.pause();
        }
        vmm.process.kill().unwrap();
        wait_until_gone(&pids);
    }
}

#[test]
fn sigkill_takes_a_guest_along_that_was_paused_while_it_started() {
    for _ in 0..20 {
        let dir = Dir::new();
        let mut vmm = dir.start(&[]);
        vmm.boot();
        vmm.pause();
        let mut pids = children(vmm.process.id());
        pids.extend(children(pids[0]));
        vmm.process.kill().unwrap();
        wait_until_gone(&pids);
    }
}

#[test]
fn sigterm_is_immediate_death_and_the_sockets_stay() {
    let dir = Dir::new();
    let mut vmm = dir.start(&[]);
    vmm.boot();
    let mut agent = vmm.connect_agent();
    let pids = guest_processes(&vmm, &mut agent);
    kill_process(Pid::from_child(&vmm.process), Signal::TERM).unwrap();
    let status = vmm.wait();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
    wait_until_gone(&pids);
    assert!(dir.path("api.sock").exists() && dir.path("v.sock").exists());
}

#[test]
fn the_end_of_the_agent_is_the_end_of_the_vm() {
    let dir = Dir::new();
    let mut vmm = dir.start(&[]);
    vmm.boot();
    let mut agent = vmm.connect_agent();
    let pids = guest_processes(&vmm, &mut agent);
    let pid = i32::try_from(pids[1]).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    assert_eq!(vmm.wait().code(), Some(0), "reboot=k");
    assert!(!pids.iter().any(|pid| is_alive(*pid)));
    assert!(agent.next().is_none());
    let guest_dir = format!("guest-{}", vmm.process.id());
    assert!(!Path::new(&vmm.path(&guest_dir)).exists());
}

#[test]
fn a_pause_stops_what_left_the_agents_process_group() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.boot();
    let mut agent = vmm.connect_agent();
    let pid = agent.run("setsid sleep 600 >/dev/null 2>&1 & echo $!");
    let state = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap();
        stat.rsplit_once(')').unwrap().1.trim_start().chars().next().unwrap()
    };
    let wait_for = |is_stopped: bool| {
        let deadline = Instant::now() + PATIENCE;
        while (state() == 'T') != is_stopped {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    };
    vmm.pause();
    wait_for(true);
    vmm.resume();
    wait_for(false);
    agent.send(&HostMessage::Ping);
    assert!(agent.next().is_some());
}

#[test]
fn an_existing_socket_file_is_in_the_way() {
    let dir = Dir::new();
    fs::write(dir.path("api.sock"), "").unwrap();
    let mut process = dir.spawn(&[]);
    assert_eq!(process.wait().unwrap().code(), Some(1));
    let log = fs::read_to_string(dir.path("out")).unwrap();
    assert!(log.contains("Failed to open the API socket at: api.sock"), "{log}");
}
