//! Waiting for what has no event, and looking for what is left.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for what must come about; only ever reached by a failing test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Returns once `condition` holds.
pub async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    });
    waited.await.expect("it comes about");
}

/// Lets `time` pass at once, for this runtime's timers alone.
pub async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Whether the process runs. A zombie does not: an orphan's is for the host's init to reap.
pub fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

/// The directories in `dir`.
pub fn left_in(dir: &Path) -> Vec<PathBuf> {
    let entries = dir.read_dir().unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).collect()
}
