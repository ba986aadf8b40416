//! The conformance suite of MCP, newest and latest stable, which `scripts/clients.sh mcp` installs.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::Place;

/// How many times the suite is run: each version for each protocol that it knows.
const RUNS: usize = 3;

#[tokio::test]
async fn the_conformance_suite_finds_what_is_known_and_nothing_else() {
    let suite = installed();
    let why = "the conformance suite is not installed: run scripts/clients.sh mcp";
    if !emberd_testing::needs(suite.is_some(), why) {
        return;
    }
    let place = Place::new();
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/mcp/conformance/run.sh");
    let output = Command::new(run)
        .arg(suite.unwrap())
        .arg(&place.daemon.addr)
        .current_dir(place.room.path(""))
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert_eq!(said.matches("\nTotal: ").count(), RUNS, "{said}\n{errors}");
    // The sandboxes that the suite created end with the daemon.
    place.close().await;
}

/// The suite beside the running test.
fn installed() -> Option<PathBuf> {
    let exe = std::env::current_exe().unwrap();
    let places = exe.ancestors().map(|dir| dir.join("mcp-suite"));
    places.into_iter().find(|path| path.join("installed.json").exists())
}
