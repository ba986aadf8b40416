//! Which context of a sandbox code runs in, and its turns.
//!
//! The default context of a language is the oldest one that was opened for it. That holds for
//! every client of the sandbox, and after a restart of any program.

use std::collections::HashMap;
use std::sync::Arc;

use emberd_api::{ContextSpec, ErrorCode};
use emberd_client::Client;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::failure::Failure;

/// Most default contexts that are remembered; they are found again.
const KNOWN_MAX: usize = 4_096;

/// Name of the context that code runs in unless a call names another.
pub const DEFAULT: &str = "default";

/// Name of a context that is opened for the call.
pub const NEW: &str = "new";

/// A sandbox and a language.
type Place = (String, Option<String>);

/// The contexts of all sandboxes.
#[derive(Debug, Default)]
pub struct Contexts {
    known: Mutex<HashMap<Place, String>>,
    /// Locks by sandbox while a context is looked for, and by context while code runs in it.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Contexts {
    /// The context that `name` names, in `sandbox` for `language`. Opens one if there is none.
    pub async fn find(
        &self,
        client: &Client,
        sandbox: &str,
        language: Option<&str>,
        name: &str,
    ) -> Result<String, Failure> {
        let language = language.map(str::to_lowercase);
        match name {
            DEFAULT => {}
            NEW => return open(client, sandbox, language).await,
            id if id.starts_with("ctx_") => return Ok(id.to_owned()),
            other => {
                let error = format!("unknown context: {other}");
                let hint = "`context` is \"default\", \"new\" or the id of one, `ctx_...`";
                return Err(Failure::new(ErrorCode::NotFound, error).hint(hint));
            }
        }
        let place = (sandbox.to_owned(), language.clone());
        if let Some(known) = self.known.lock().get(&place) {
            return Ok(known.clone());
        }
        // Two calls at once would open two.
        let _turn = self.turn(sandbox).await;
        if let Some(known) = self.known.lock().get(&place) {
            return Ok(known.clone());
        }
        let mut contexts = client.contexts(sandbox).await?.contexts.into_iter();
        let id = match contexts.find(|context| context.language == language) {
            Some(context) => context.id,
            None => open(client, sandbox, language).await?,
        };
        let mut known = self.known.lock();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(place, id.clone());
        Ok(id)
    }

    /// Forgets a context that does not exist any more.
    pub fn forget(&self, context: &str) {
        self.known.lock().retain(|_, known| known != context);
    }

    /// Waits for the turn of a call: code runs in a context one after the other, and the daemon
    /// lets few wait.
    pub async fn turn(&self, of: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock();
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(of.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}

async fn open(client: &Client, sandbox: &str, language: Option<String>) -> Result<String, Failure> {
    let spec = ContextSpec { language, ..ContextSpec::default() };
    Ok(client.open_context(sandbox, &spec).await?.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_are_taken_one_after_the_other_and_then_forgotten() {
        let contexts = Contexts::default();
        let first = contexts.turn("ctx_1").await;
        assert!(
            tokio::time::timeout(std::time::Duration::ZERO, contexts.turn("ctx_1")).await.is_err()
        );
        let other = contexts.turn("ctx_2").await;
        drop(first);
        drop(contexts.turn("ctx_1").await);
        drop(other);
        drop(contexts.turn("ctx_3").await);
        assert_eq!(contexts.turns.lock().len(), 1);
    }
}
