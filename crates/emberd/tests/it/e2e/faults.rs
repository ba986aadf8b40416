//! What a hostile guest, a dying VMM and a dying daemon leave behind: nothing.

use emberd_api::{ErrorCode, ProcessEventKind, ProcessSpec, SandboxState};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;

use super::daemon::{is_running, left_in, refusal};
use super::{Daemon, code};
use crate::wait;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_vmm_is_told_and_can_be_deleted() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("shell").await;
    let pid = daemon.client.get(&id).await.unwrap().vmm_pid.unwrap();
    let sleeping = code("sleep 1000");
    let (cut_off, ()) = tokio::join!(daemon.client.exec(&id, &sleeping), async {
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    });
    assert_eq!(refusal(cut_off).1.code, ErrorCode::SandboxGone);
    let (status, body) = refusal(daemon.client.exec(&id, &code("true")).await);
    assert_eq!((status, body.code), (410, ErrorCode::SandboxGone));
    let sandbox = daemon.client.get(&id).await.unwrap();
    assert_eq!(sandbox.state, SandboxState::Gone);
    assert!(sandbox.reason.unwrap().contains("signal 9"));
    daemon.client.delete(&id).await.unwrap();
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn guest_code_that_ends_its_machine_ends_only_that() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let (ends, lives) = tokio::join!(daemon.create("python"), daemon.create("shell"));
    // The agent is PID 1, which takes no signal it has no use for.
    daemon.output(&ends, "import os\nos.kill(1, 9)").await;
    let serve = "import socket\n\
        server = socket.create_server(('127.0.0.1', 7000))\n\
        print('listens', flush=True)\n\
        connection, _ = server.accept()\n\
        connection.sendall(b'x')\n\
        connection.recv(1)";
    let process = ProcessSpec { code: Some(serve.into()), ..ProcessSpec::default() };
    let process = daemon.client.start_process(&ends, &process).await.unwrap().pid;
    let mut attachment = daemon.client.attach(&ends, process, 1).await.unwrap();
    let listens = attachment.event().await.unwrap().unwrap();
    assert!(matches!(listens.kind, ProcessEventKind::Stdout(_)), "{listens:?}");
    let mut tunnel = daemon.client.connect_port(&ends, 7000).await.unwrap();
    tunnel.read_exact(&mut [0; 1]).await.unwrap();

    // A kernel panic where the kernel has a key for it, else a reboot. Either is the end of
    // the agent, of the machine and of the VMM.
    let end = "import ctypes, os\n\
        key = '/proc/sysrq-trigger'\n\
        os.path.exists(key) and open(key, 'w').write('c')\n\
        ctypes.CDLL(None).reboot(0x1234567)";
    let outcome = daemon.client.exec(&ends, &code(end)).await;
    assert_eq!(refusal(outcome).1.code, ErrorCode::SandboxGone);

    let last = attachment.event().await.unwrap().unwrap();
    let ProcessEventKind::Exit(exit) = last.kind else { panic!("{last:?}") };
    assert!(exit.error.unwrap().contains("is gone"));
    let broken = tunnel.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(broken.kind(), std::io::ErrorKind::ConnectionReset);
    let sandbox = daemon.client.get(&ends).await.unwrap();
    assert_eq!((sandbox.state, sandbox.vmm_pid), (SandboxState::Gone, None));
    assert_eq!(daemon.output(&lives, "echo alive").await, "alive\n");
    daemon.client.delete(&ends).await.unwrap();
    daemon.client.delete(&lives).await.unwrap();
    wait::until(async || left_in(&daemon.run_dir).is_empty()).await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_and_full_memory_are_the_guest_s_own_trouble() {
    let Some(daemon) = Daemon::start(&["--disk-mib", "256"]) else { return };
    let id = daemon.create("python").await;
    let fill = "import os\n\
        try:\n \
            with open('/root/full', 'wb') as file:\n  \
                while True: file.write(bytes(1 << 20))\n\
        except OSError as error: print(error.strerror)\n\
        os.remove('/root/full')";
    assert_eq!(daemon.output(&id, fill).await, "No space left on device\n");
    let outcome = daemon.exec(&id, &code("x = bytearray(1 << 31)")).await;
    assert_ne!(outcome.exit.exit_code, 0);
    let hog = "x = []\nwhile True: x.append(bytearray(b'x' * (1 << 20)))";
    let outcome = daemon.exec(&id, &code(hog)).await;
    assert_ne!(outcome.exit.exit_code, 0, "{outcome:?}");
    assert!(outcome.exit.out_of_memory, "{outcome:?}");
    assert_eq!(daemon.output(&id, "print(1)").await, "1\n");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_never_answers_is_torn_down() {
    let Some(daemon) = Daemon::start(&["--boot-timeout", "100ms"]) else { return };
    let (status, body) = refusal(daemon.client.create(Some("python")).await);
    assert_eq!((status, body.code), (503, ErrorCode::BootFailed), "{body:?}");
    assert_eq!(left_in(&daemon.run_dir), Vec::<std::path::PathBuf>::new());
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_during_a_creation_leaves_nothing() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let client = daemon.client.clone();
    let creating = tokio::spawn(async move { client.create(Some("shell")).await });
    let pid = loop {
        let sandboxes = daemon.client.list().await.unwrap().sandboxes;
        if let Some(directory) = sandboxes.first().map(|sandbox| sandbox.dir.clone())
            && let Ok(record) = std::fs::read_to_string(format!("{directory}/vmm.json"))
        {
            let record: serde_json::Value = serde_json::from_str(&record).unwrap();
            break u32::try_from(record["pid"].as_u64().unwrap()).unwrap();
        }
    };
    assert!(is_running(pid));
    daemon.stop();
    assert!(!is_running(pid));
    creating.await.unwrap().unwrap_err();
}
