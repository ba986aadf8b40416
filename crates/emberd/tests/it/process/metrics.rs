//! What VMMs use, as a daemon shows it that runs for some time.

use rustix::process::Signal;

use super::Room;
use crate::api::body;
use crate::api::scrape::value;
use crate::wait;

const PROCESSOR: &str = r#"emberd_vmm_processor_seconds_total{pack="shell"}"#;
const RESIDENT: &str = r#"emberd_vmm_resident_bytes{pack="shell"}"#;

#[tokio::test]
async fn vmms_are_read_again_and_leave_with_their_sandboxes() {
    let room = Room::new();
    let daemon = room.start();
    let (id, _) = daemon.create().await;
    let scrape = async || daemon.client.daemon_metrics().await.unwrap();
    let first = scrape().await;
    // A new one is shown at once.
    assert!(value(&first, RESIDENT).unwrap() > 0.0, "{first}");
    let before = value(&first, PROCESSOR).unwrap();
    // The VMM carries what its guest prints. A scrape does not read it again; the daemon does.
    wait::until(async || {
        daemon.client.exec(&id, &body("head -c 1000000 /dev/zero")).await.unwrap();
        value(&scrape().await, PROCESSOR).unwrap() > before
    })
    .await;
    let before = value(&scrape().await, PROCESSOR).unwrap();
    daemon.client.delete(&id).await.unwrap();
    let last = scrape().await;
    assert_eq!(value(&last, RESIDENT), Some(0.0), "{last}");
    assert!(value(&last, PROCESSOR).unwrap() >= before, "{last}");
    daemon.stop(Signal::TERM).await;
    room.close().await;
}
