//! The operator's egress file, read at start-up and on SIGHUP, and changes of policies under it.
//! The log that it names is opened at start-up.
//!
//! ```text
//! SIGHUP ─▶ read ─▶ valid: every sandbox's policy is compiled again
//!              └──▶ invalid: the old content stays in force, and the log says why
//! ```

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use emberd_egress::{Operator, OperatorError, PackProfiles, Policy, SandboxEgress};
use emberd_image::PackName;
use emberd_proto::chain;
use emberd_sandbox::{Handle, Sandboxes};
use parking_lot::Mutex;

use crate::audit::Audit;
use crate::egress_log::EgressLog;

/// The operator's egress file. Clones share it.
#[derive(Debug, Clone)]
pub struct EgressFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: Option<PathBuf>,
    /// Held while policies are compiled and put in force, so that none follows an old file.
    operator: Mutex<Arc<Operator>>,
    defaults: Mutex<Defaults>,
    /// The file that records of all sandboxes are written to.
    log: Option<EgressLog>,
    audit: Audit,
}

/// Policies of sandboxes whose callers say nothing, by language pack: all get the same, which takes
/// longer to compile than all else that a creation decides.
#[derive(Debug)]
struct Defaults {
    /// The content that they are compiled from.
    operator: Arc<Operator>,
    by_pack: HashMap<PackName, Arc<Policy>>,
}

impl Defaults {
    fn of(operator: Arc<Operator>) -> Self {
        Self { operator, by_pack: HashMap::new() }
    }
}

/// The operator's egress file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EgressFileError {
    /// The file cannot be read, or is invalid.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The log that the file names cannot be opened.
    #[error("cannot open the egress log {}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
}

/// A sandbox that was taken in. Dropped, it begins to write the logs of the sandbox, which loses
/// nothing: the newest records are kept.
pub struct Admitted {
    file: EgressFile,
    handle: Handle,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.file.follow(&self.handle);
    }
}

impl EgressFile {
    /// Reads the file at `path`; without a path, everything has its default. Blocks.
    ///
    /// # Errors
    /// [`EgressFileError`].
    pub fn open(path: Option<&Path>) -> Result<Self, EgressFileError> {
        let operator = path.map(Operator::read).transpose()?.unwrap_or_default();
        let log = operator.log().map(|path| {
            let failed = |error| EgressFileError::Log { path: path.to_owned(), error };
            EgressLog::open(path).map_err(failed)
        });
        let log = log.transpose()?;
        let (path, operator) = (path.map(Path::to_owned), Arc::new(operator));
        let defaults = Mutex::new(Defaults::of(Arc::clone(&operator)));
        let operator = Mutex::new(operator);
        Ok(Self(Arc::new(Inner { path, operator, defaults, log, audit: Audit::default() })))
    }

    /// Has what sandboxes reach recorded in `audit` too.
    ///
    /// # Panics
    /// When the file is shared already.
    #[must_use]
    pub fn recording(mut self, audit: Audit) -> Self {
        Arc::get_mut(&mut self.0).expect("nothing shares the file yet").audit = audit;
        self
    }

    /// Returns what the operator permits now.
    pub fn operator(&self) -> Arc<Operator> {
        Arc::clone(&self.0.operator.lock())
    }

    /// Returns the default that `operator` gives to sandboxes of `pack`.
    pub fn default_policy(
        &self,
        operator: &Arc<Operator>,
        sandboxes: &Sandboxes,
        pack: &PackName,
    ) -> Arc<Policy> {
        let mut defaults = self.0.defaults.lock();
        if !Arc::ptr_eq(&defaults.operator, operator) {
            *defaults = Defaults::of(Arc::clone(operator));
        }
        if let Some(policy) = defaults.by_pack.get(pack) {
            return Arc::clone(policy);
        }
        let policy = Arc::new(Policy::default_of(operator, profiles(sandboxes, pack), None));
        defaults.by_pack.insert(pack.clone(), Arc::clone(&policy));
        policy
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

    /// Takes in a sandbox that was created while the file was `operator`: compiles its policy again
    /// if the file has changed. Its logs are written from when the returned value is dropped.
    pub fn admit(
        &self,
        operator: &Arc<Operator>,
        sandboxes: &Sandboxes,
        handle: Handle,
    ) -> Admitted {
        let current = self.0.operator.lock();
        if !Arc::ptr_eq(operator, &current) {
            recompile(&current, sandboxes, &handle);
        }
        Admitted { file: self.clone(), handle }
    }

    /// Begins to write the logs of a sandbox.
    fn follow(&self, handle: &Handle) {
        let Some(egress) = handle.egress() else { return };
        if let Some(log) = &self.0.log {
            log.follow(handle.id(), egress.clone());
        }
        self.0.audit.follow(handle.id(), egress);
    }

    /// Takes in the sandboxes of an earlier daemon: compiles their policies, and begins to write
    /// their logs.
    pub fn adopt(&self, sandboxes: &Sandboxes) {
        let operator = self.0.operator.lock();
        for view in sandboxes.list() {
            let Ok(handle) = sandboxes.get(view.id) else { continue };
            recompile(&operator, sandboxes, &handle);
            self.follow(&handle);
        }
    }

    /// Waits until the records of sandboxes that have ended are written.
    pub async fn written(&self) {
        if let Some(log) = &self.0.log {
            log.written().await;
        }
    }

    /// Reads the file again. An invalid file changes nothing. Blocks.
    pub fn read_again(&self, sandboxes: &Sandboxes) {
        let Some(path) = &self.0.path else { return };
        let operator = match Operator::read(path) {
            Ok(operator) => Arc::new(operator),
            Err(error) => {
                let error = chain(&error);
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
    let profiles = profiles(sandboxes, &handle.view().shape.pack);
    egress.replace(Arc::new(egress.policy().recompiled(operator, profiles)));
}
