//! How many programs of callers the agent counts.

use std::fs;
use std::process::Command;

use emberd_proto::process::ProcessSpec;
use emberd_proto::{GuestMessage, HostMessage};

use crate::contexts::{self, Context};
use crate::guest::{Guest, Host};

fn count(host: &mut Host) -> u32 {
    host.send(&HostMessage::Metrics);
    match host.answer() {
        GuestMessage::Metrics(metrics) => metrics.program_count.expect("this agent counts them"),
        other => panic!("{other:?}"),
    }
}

/// Waits until as many programs count: one that has ended may have its process for a moment.
fn await_count(host: &mut Host, expect: u32) {
    while count(host) != expect {
        std::thread::yield_now();
    }
}

#[test]
fn programs_count_and_so_does_what_they_left_behind() {
    let guest = Guest::shell();
    let (mut host, mut running) = (guest.greet(), guest.greet());
    assert_eq!(count(&mut host), 0);
    let id = running.begin(&HostMessage::Start(ProcessSpec::of_argv(["sleep", "1000"]))).id;
    assert!(matches!(running.answer(), GuestMessage::Started { .. }));
    await_count(&mut host, 1);
    running.leave();
    await_count(&mut host, 1);
    host.send(&HostMessage::Delete { id });
    assert_eq!(host.answer(), GuestMessage::Done);
    await_count(&mut host, 0);
    let fifo = guest.dir().join("go");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    guest.run(&format!("setsid cat {} >/dev/null 2>&1 &", fifo.display()));
    await_count(&mut host, 1);
    fs::write(fifo, "").unwrap();
    await_count(&mut host, 0);
}

#[test]
fn what_waits_for_work_does_not_count() {
    for language in ["python", "shell"] {
        let Some(guest) = contexts::guest(language) else { continue };
        let mut host = guest.greet();
        host.send(&HostMessage::Settle);
        assert!(matches!(host.answer(), GuestMessage::Settled(_)));
        let mut context = Context::open(&guest, language);
        await_count(&mut host, 0);
        let code = match language {
            "python" => "import subprocess; p = subprocess.Popen(['sleep', '1000'])",
            _ => "sleep 1000 &",
        };
        context.run(code);
        await_count(&mut host, 1);
        context.run(if language == "python" { "p.kill(); p.wait()" } else { "kill %1" });
        await_count(&mut host, 0);
    }
}
