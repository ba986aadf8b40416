//! The egress session of a sandbox, which its life opens and ends.

use std::sync::Arc;
use std::time::Duration;

use emberd_egress::{CONNECTIONS_MAX_DEFAULT, Egress, Policy};
use emberd_sandbox::{EgressState, SandboxesConfig};

use crate::fixture::{Fixture, shell, until};

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
    let created = fixture.sandboxes.create_with(&shell(), Some(Arc::clone(&policy))).await;
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
