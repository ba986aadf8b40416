//! The egress session of a sandbox, which its life opens and ends.

use std::sync::Arc;
use std::time::Duration;

use emberd_egress::{CONNECTIONS_MAX_DEFAULT, Egress, Policy, SandboxEgress};
use emberd_proto::egress::encode_frame;
use emberd_proto::process::ProcessSpec;
use emberd_proto::{ContextRun, ContextSpec, EgressDenials, EgressReason, EgressRequest, ExecSpec};
use emberd_sandbox::{EgressState, RunEvent, SandboxSpec, SandboxesConfig};
use tokio::io::AsyncWriteExt as _;

use crate::fixture::{Fixture, until};

fn with_egress(config: &mut SandboxesConfig) {
    config.egress = Some(Arc::new(Egress::new(CONNECTIONS_MAX_DEFAULT).unwrap()));
}

#[tokio::test]
async fn a_guest_is_asked_once_it_has_answered() {
    let fixture = Fixture::with(with_egress);
    let handle = fixture.sandboxes.get(fixture.create().await).unwrap();
    // The agent is a process of this host, which it must not capture.
    let state = handle.egress_settled().await;
    assert!(matches!(state, EgressState::Unavailable { .. }), "{state:?}");
    assert_eq!(handle.egress_state(), state);
    fixture.close().await;
}

#[tokio::test]
async fn a_sandbox_of_the_pool_gets_its_policy_on_the_host() {
    let fixture = Fixture::pooled_with(1, with_egress);
    fixture.build().await;
    fixture.filled().await;
    let policy = Arc::new(Policy::default());
    let spec = SandboxSpec { policy: Some(Arc::clone(&policy)), ..SandboxSpec::default() };
    let created = fixture.create_as(spec).await;
    let handle = fixture.sandboxes.get(created.unwrap().id).unwrap();
    let egress = handle.egress().unwrap();
    assert!(Arc::ptr_eq(&egress.policy(), &policy));
    // It was asked in the pool.
    let state = handle.egress_settled().await;
    assert!(matches!(state, EgressState::Unavailable { .. }), "{state:?}");
    fixture.close().await;
}

#[tokio::test]
async fn a_shutdown_amid_health_checks_leaves_nothing() {
    for _ in 0..5 {
        let fixture = Fixture::pooled_with(2, |config| {
            with_egress(config);
            config.pool.as_mut().unwrap().pace.health_period = Duration::from_millis(1);
        });
        fixture.filled().await;
        fixture.close().await;
    }
}

#[tokio::test]
async fn egress_ends_with_its_sandbox() {
    let fixture = Fixture::with(with_egress);
    let [deleted, killed] = [fixture.create().await, fixture.create().await];
    let of = |id| fixture.sandboxes.get(id).unwrap().egress().unwrap();
    let (of_deleted, of_killed) = (of(deleted), of(killed));
    fixture.sandboxes.delete(deleted).await.unwrap();
    assert!(of_deleted.is_closed());
    fixture.signal(killed, rustix::process::Signal::KILL);
    until(|| of_killed.is_closed()).await;
    fixture.close().await;
}

#[tokio::test]
async fn a_daemon_without_egress_says_so() {
    let fixture = Fixture::new();
    let handle = fixture.sandboxes.get(fixture.create().await).unwrap();
    assert!(handle.egress().is_none());
    assert_eq!(handle.egress_settled().await, EgressState::Off);
    fixture.close().await;
}

/// Connects to a name in the place of the guest, and returns once that is refused.
async fn be_denied(egress: &SandboxEgress, name: &str) {
    let (near, mut far) = tokio::io::duplex(4096);
    let open = EgressRequest::Open {
        address: "151.101.0.1".parse().unwrap(),
        port: 8443,
        names: vec![name.to_owned()],
    };
    let open = encode_frame(&open).unwrap();
    // The first stream of the mux: a data frame that opens it.
    let mut frame = vec![0, 0, 0, 1, 0, 0, 0, 1];
    frame.extend(u32::try_from(open.len()).unwrap().to_be_bytes());
    frame.extend(open);
    far.write_all(&frame).await.unwrap();
    let denied = egress.totals().denied;
    tokio::select! {
        ended = egress.serve(near) => panic!("{ended:?}"),
        () = until(|| egress.totals().denied > denied) => {}
    }
}

fn check(denials: &EgressDenials, name: &str) {
    let [denied] = &denials.egress_denied[..] else { panic!("{denials:?}") };
    assert_eq!((denied.host.as_str(), denied.port, denied.count), (name, Some(8443), 1));
    assert_eq!(denied.reason, EgressReason::NoRule);
    assert!(denials.hint.as_ref().unwrap().contains(&format!("\"{name}:8443\"")));
}

#[tokio::test]
async fn programs_are_told_what_was_denied_while_they_ran() {
    let fixture = Fixture::with(with_egress);
    let id = fixture.create().await;
    let handle = fixture.sandboxes.get(id).unwrap();
    let egress = handle.egress().unwrap();
    be_denied(&egress, "before.example").await;
    let dir = handle.view().dir;
    let waits =
        |name: &str| format!("echo > {name}; while ! test -e {name}.end; do sleep 0.01; done");
    let during = async |name: &str| {
        until(|| dir.join(name).exists()).await;
        be_denied(&egress, &format!("{name}.example")).await;
        std::fs::write(dir.join(format!("{name}.end")), "").unwrap();
    };
    let cwd = Some(dir.display().to_string());

    let spec = ExecSpec { cwd: cwd.clone(), ..ExecSpec::new(waits("exec")) };
    let (executed, ()) = tokio::join!(handle.exec(spec, b""), during("exec"));
    check(&executed.unwrap().outcome.exit.egress, "exec.example");

    let spec = ProcessSpec { cwd, ..ProcessSpec::of_argv(["sh", "-c", &waits("process")]) };
    let process = handle.processes().unwrap().start(spec).await.unwrap();
    during("process").await;
    check(&process.wait().await.egress, "process.example");

    let contexts = handle.contexts().unwrap();
    let shell = ContextSpec { language: Some("shell".to_owned()), ..ContextSpec::default() };
    let context = contexts.open(shell).await.unwrap().id;
    let code = format!("cd {}; {}", dir.display(), waits("context"));
    let mut run = contexts.run(context, &ContextRun { code, ..ContextRun::default() }).unwrap();
    let end = async {
        loop {
            if let RunEvent::End(end) = run.next().await.unwrap().event {
                return end;
            }
        }
    };
    let (end, ()) = tokio::join!(end, during("context"));
    check(&end.egress, "context.example");

    let executed = handle.exec(ExecSpec::new(":"), b"").await.unwrap();
    assert_eq!(executed.outcome.exit.egress, EgressDenials::default());
    fixture.close().await;
}
