//! The operator's egress file, read at start-up and on SIGHUP, and changes of policies under it.
//!
//! ```text
//! SIGHUP ─▶ read ─▶ valid: every sandbox's policy is compiled again
//!              └──▶ invalid: the old content stays in force, and the log says why
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use emberd_egress::{Operator, OperatorError, PackProfiles, Policy, SandboxEgress};
use emberd_image::PackName;
use emberd_sandbox::{Handle, Sandboxes};
use parking_lot::Mutex;

use crate::log::Chain;

/// The operator's egress file. Clones share it.
#[derive(Debug, Clone)]
pub struct EgressFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: Option<PathBuf>,
    /// Held while policies are compiled and put in force, so that none follows an old file.
    operator: Mutex<Arc<Operator>>,
}

impl EgressFile {
    /// Reads the file at `path`; without a path, everything has its default. Blocks.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub fn open(path: Option<&Path>) -> Result<Self, OperatorError> {
        let operator = path.map(Operator::read).transpose()?.unwrap_or_default();
        let (path, operator) = (path.map(Path::to_owned), Mutex::new(Arc::new(operator)));
        Ok(Self(Arc::new(Inner { path, operator })))
    }

    /// Returns what the operator permits now.
    pub fn operator(&self) -> Arc<Operator> {
        Arc::clone(&self.0.operator.lock())
    }

    /// Compiles a policy with `compile` and puts it in force, if the daemon carries connections of
    /// the sandbox. No other policy of the daemon changes meanwhile. Returns how many connections
    /// were reset.
    ///
    /// # Errors
    /// Errors of `compile`.
    pub fn change<E>(
        &self,
        egress: &SandboxEgress,
        compile: impl FnOnce(&Operator, &Policy) -> Result<Policy, E>,
    ) -> Result<usize, E> {
        let operator = self.0.operator.lock();
        let policy = compile(&operator, &egress.policy())?;
        Ok(egress.replace(Arc::new(policy)))
    }

    /// Compiles the policy of a sandbox again if the file has changed since it was `operator`.
    pub fn catch_up(&self, operator: &Arc<Operator>, sandboxes: &Sandboxes, handle: &Handle) {
        let current = self.0.operator.lock();
        if !Arc::ptr_eq(operator, &current) {
            recompile(&current, sandboxes, handle);
        }
    }

    /// Reads the file again. An invalid file changes nothing. Blocks.
    pub fn read_again(&self, sandboxes: &Sandboxes) {
        let Some(path) = &self.0.path else { return };
        let operator = match Operator::read(path) {
            Ok(operator) => Arc::new(operator),
            Err(error) => {
                let error = Chain(&error).to_string();
                tracing::error!(error, "kept the old egress policy, because the new is invalid");
                return;
            }
        };
        warn_of_unknown(&operator, sandboxes);
        let mut current = self.0.operator.lock();
        *current = Arc::clone(&operator);
        for view in sandboxes.list() {
            if let Ok(handle) = sandboxes.get(view.id) {
                recompile(&operator, sandboxes, &handle);
            }
        }
        tracing::info!(path = %path.display(), "read the egress policy again");
    }
}

/// Logs names of profiles that nothing has.
pub fn warn_of_unknown(operator: &Operator, sandboxes: &Sandboxes) {
    let packs: Vec<_> = sandboxes.images().packs.values().map(|pack| &pack.profiles).collect();
    let unknown = operator.unknown_profiles(&packs);
    if !unknown.is_empty() {
        let profiles = unknown.join(", ");
        tracing::warn!(profiles, "the egress policy names profiles that nothing defines");
    }
}

/// The profiles of an image.
pub fn profiles<'a>(sandboxes: &'a Sandboxes, pack: &PackName) -> &'a PackProfiles {
    static NONE: PackProfiles = PackProfiles::new();
    sandboxes.images().packs.get(pack).map_or(&NONE, |image| &image.profiles)
}

fn recompile(operator: &Operator, sandboxes: &Sandboxes, handle: &Handle) {
    let Some(egress) = handle.egress() else { return };
    let profiles = profiles(sandboxes, &handle.view().pack);
    egress.replace(Arc::new(egress.policy().recompiled(operator, profiles)));
}
