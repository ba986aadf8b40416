//! Saves a paused guest's devices to a file, and loads them.
//!
//! The guest's memory is not part of it: QEMU maps it from a file, shared when it is saved and
//! private when it is loaded (capability `x-ignore-shared`). Files are passed as
//! descriptors, because the sandbox lets QEMU start no program that would open them.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::{Value, json};

use super::qmp::{Event, Qmp, QmpError};

/// Name under which QEMU is given the state file.
const STATE: &str = "state";

/// Longest wait until the devices are saved or loaded: 60 KB, some milliseconds.
const MIGRATION_WAIT_MAX: Duration = Duration::from_secs(30);

/// Why a guest's devices were not saved or loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum MigrationError {
    /// A command failed.
    #[error("{command} failed")]
    Command {
        /// The command.
        command: &'static str,
        /// Why.
        source: QmpError,
    },
    /// QEMU began and did not succeed.
    #[error("migration {outcome}: {reason}")]
    Unsuccessful {
        /// `failed` or `cancelled`.
        outcome: String,
        /// Why, in QEMU's words; may be empty.
        reason: String,
    },
}

fn failed(command: &'static str) -> impl FnOnce(QmpError) -> MigrationError {
    move |source| MigrationError::Command { command, source }
}

/// Writes the devices of the guest, which is paused, into `state`.
pub(super) async fn save(qmp: &mut Qmp, state: &File) -> Result<(), MigrationError> {
    give(qmp, state).await?;
    let to = json!({ "uri": format!("fd:{STATE}") });
    qmp.execute("migrate", to).await.map_err(failed("migrate"))?;
    completed(qmp).await
}

/// Loads the devices from `state` into a QEMU that was started with `-incoming defer`. The guest
/// is paused then, as it was when it was saved.
pub(super) async fn load(qmp: &mut Qmp, state: impl AsFd) -> Result<(), MigrationError> {
    give(qmp, state).await?;
    let from = json!({ "uri": format!("fd:{STATE}") });
    qmp.execute("migrate-incoming", from).await.map_err(failed("migrate-incoming"))?;
    completed(qmp).await
}

async fn give(qmp: &mut Qmp, state: impl AsFd) -> Result<(), MigrationError> {
    let capabilities = ["events", "x-ignore-shared"];
    let capabilities = capabilities.map(|name| json!({ "capability": name, "state": true }));
    let set = qmp.execute("migrate-set-capabilities", json!({ "capabilities": capabilities }));
    set.await.map_err(failed("migrate-set-capabilities"))?;
    qmp.give(STATE, state.as_fd()).await.map_err(failed("getfd"))
}

/// Lets the guest run whose devices were loaded.
pub(super) async fn run(qmp: &mut Qmp) -> Result<(), MigrationError> {
    qmp.execute("cont", Value::Null).await.map(drop).map_err(failed("cont"))
}

async fn completed(qmp: &mut Qmp) -> Result<(), MigrationError> {
    let outcome = qmp.event(MIGRATION_WAIT_MAX, outcome).await.map_err(failed("migration"))?;
    if outcome == "completed" {
        return Ok(());
    }
    let answer =
        qmp.execute("query-migrate", Value::Null).await.map_err(failed("query-migrate"))?;
    let reason = answer["error-desc"].as_str().unwrap_or_default().to_owned();
    Err(MigrationError::Unsuccessful { outcome, reason })
}

/// How the migration ended, if `event` tells that it did.
fn outcome(event: &Event) -> Option<String> {
    let status = event.data["status"].as_str().filter(|_| event.name == "MIGRATION")?;
    matches!(status, "completed" | "failed" | "cancelled").then(|| status.to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::super::qmp::tests::{GREETING, peer};
    use super::*;

    /// Saves to a QEMU that answers `migrate`, and what may follow, with `answers`, and closes
    /// the connection then.
    async fn check(answers: &[&str], expect: Result<(), &str>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let done = |id: u32| format!("{{\"return\": {{}}, \"id\": {id}}}\n");
        let before = [format!("{GREETING}\n"), done(1), done(2), done(3)];
        let script: Vec<&str> =
            before.iter().map(String::as_str).chain(answers.iter().copied()).collect();
        let save = async {
            let mut qmp = Qmp::open(ours).await.unwrap();
            save(&mut qmp, &tempfile::tempfile().unwrap()).await
        };
        let (saved, heard) = tokio::join!(save, peer(theirs, &script));
        let words = |error: MigrationError| match &error {
            MigrationError::Command { source, .. } => format!("{error}: {source}"),
            MigrationError::Unsuccessful { .. } => error.to_string(),
        };
        assert_eq!(saved.map_err(words), expect.map_err(str::to_owned), "{answers:?}");
        assert_eq!(heard[3], r#"{"arguments":{"uri":"fd:state"},"execute":"migrate","id":4}"#);
    }

    fn status(status: &str) -> String {
        format!("{{\"event\": \"MIGRATION\", \"data\": {{\"status\": \"{status}\"}}}}\n")
    }

    #[tokio::test]
    async fn saving_ends_with_the_event_that_says_so() {
        let [setup, completed, failed] = ["setup", "completed", "failed"].map(status);
        let begun = "{\"return\": {}, \"id\": 4}\n";
        check(&[&format!("{begun}{setup}{completed}")], Ok(())).await;
        check(&[&format!("{setup}{completed}{begun}")], Ok(())).await;
        let why = r#"{"return": {"status": "failed", "error-desc": "no space"}, "id": 5}"#;
        let why = format!("{why}\n");
        check(&[&format!("{begun}{failed}"), &why], Err("migration failed: no space")).await;
    }

    #[tokio::test]
    async fn qemu_that_ends_or_refuses_is_told_apart() {
        let setup = status("setup");
        let begun = "{\"return\": {}, \"id\": 4}\n";
        let gone = "the control connection is closed";
        check(&[&setup], Err(&format!("migrate failed: {gone}"))).await;
        check(&[&format!("{begun}{setup}")], Err(&format!("migration failed: {gone}"))).await;
        let refused = r#"{"error": {"class": "GenericError", "desc": "blocked"}, "id": 4}"#;
        let blocked = "migrate failed: blocked (GenericError)";
        check(&[&format!("{refused}\n")], Err(blocked)).await;
    }
}
