//! The conformance suite of MCP, newest and latest stable, which `scripts/clients.sh mcp` installs.

use std::path::Path;

use tokio::process::Command;

use super::{Place, said};
use crate::clients::installed;

/// How many times the suite is run: each version for each protocol that it knows.
const RUNS: usize = 3;

#[tokio::test]
async fn the_conformance_suite_finds_what_is_known_and_nothing_else() {
    let complete = installed("mcp-suite/installed.json");
    let why = "the conformance suite is not installed: run scripts/clients.sh mcp";
    if !emberd_testing::needs(complete.is_some(), why) {
        return;
    }
    let place = Place::new();
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/mcp/conformance/run.sh");
    let mut suite = Command::new(run);
    suite.arg(complete.unwrap().parent().unwrap()).arg(&place.daemon.addr);
    let said = said(suite.current_dir(place.room.path(""))).await;
    assert_eq!(said.matches("\nTotal: ").count(), RUNS, "{said}");
    // The sandboxes that the suite created end with the daemon.
    place.close().await;
}
