//! The official MCP clients for Python, which `scripts/clients.sh mcp` installs.

use std::path::Path;

use tokio::process::Command;

use super::{Place, said};
use crate::clients::installed;

/// Directories of the environments below the target directory, and the protocol that each speaks.
const GENERATIONS: [(&str, &str); 2] = [("mcp-1", "2025-11-25"), ("mcp-2", "2026-07-28")];

#[tokio::test]
async fn the_official_clients_of_both_generations_are_served() {
    let pythons =
        GENERATIONS.map(|(dir, version)| (installed(&format!("{dir}/bin/python")), version));
    let why = "the official MCP clients are not installed: run scripts/clients.sh mcp";
    let is_complete = pythons.iter().all(|(python, _)| python.is_some());
    if !emberd_testing::needs(is_complete, why) {
        return;
    }
    let place = Place::new();
    for (python, version) in pythons {
        let mut client = Command::new(python.unwrap());
        client
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/mcp/conversation.py"))
            .arg(Path::new(env!("CARGO_BIN_EXE_emberd")).with_file_name("emberctl"))
            .arg(&place.daemon.addr);
        let said = said(&mut client).await;
        for way in ["stdio", "http"] {
            assert!(said.contains(&format!("--- {way}, protocol {version}")), "{said}");
        }
    }
    place.is_empty().await;
    place.close().await;
}
