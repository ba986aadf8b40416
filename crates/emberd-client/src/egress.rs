//! Network access of sandboxes: policies, dry runs, the log and profiles.

use bytes::Bytes;
use emberd_api::{
    CheckEgress, EgressCheck, EgressDecision, EgressEvent, EgressLog, EgressPatch,
    EgressProfileList, PolicySpec, SandboxEgress, paths,
};
use hyper::Method;

use crate::client::{Client, ClientError, json};
use crate::follow::{Events, Form};

/// Longest record that is read, in bytes (1 MiB).
const RECORD_BYTES_MAX: usize = 1 << 20;

impl Client {
    /// Shows the network access of a sandbox.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn egress(&self, id: &str) -> Result<SandboxEgress, ClientError> {
        self.call(Method::GET, &paths::egress(paths::EGRESS, id), Bytes::new()).await
    }

    /// Replaces the policy of a sandbox. Connections that it does not allow are reset.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_egress(
        &self,
        id: &str,
        policy: &PolicySpec,
    ) -> Result<SandboxEgress, ClientError> {
        self.call(Method::PUT, &paths::egress(paths::EGRESS, id), json(policy)).await
    }

    /// Changes the policy of a sandbox, as a whole or not at all.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn patch_egress(
        &self,
        id: &str,
        patch: &EgressPatch,
    ) -> Result<SandboxEgress, ClientError> {
        self.call(Method::PATCH, &paths::egress(paths::EGRESS, id), json(patch)).await
    }

    /// Shows what would happen to a connection. No connection is made.
    ///
    /// # Errors
    /// [`ClientError`]. A denial is not an error.
    pub async fn check_egress(
        &self,
        id: &str,
        check: &CheckEgress,
    ) -> Result<EgressCheck, ClientError> {
        self.call(Method::POST, &paths::egress(paths::EGRESS_CHECK, id), json(check)).await
    }

    /// Reads at most `limit` records of a sandbox's connections after number `after`, of one
    /// decision if given. The daemon has a limit of its own.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn egress_log(
        &self,
        id: &str,
        after: u64,
        decision: Option<EgressDecision>,
        limit: Option<usize>,
    ) -> Result<EgressLog, ClientError> {
        let decision = decision.map(EgressDecision::name);
        let path = paths::egress_log(id, after, decision, limit, false);
        self.call(Method::GET, &path, Bytes::new()).await
    }

    /// Follows the records of a sandbox's connections after number `after`, until the sandbox
    /// ends.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn follow_egress_log(
        &self,
        id: &str,
        after: u64,
        decision: Option<EgressDecision>,
    ) -> Result<Events<EgressEvent>, ClientError> {
        let decision = decision.map(EgressDecision::name);
        let path = paths::egress_log(id, after, decision, None, true);
        self.follow(Method::GET, &path, Bytes::new(), Form::lines(RECORD_BYTES_MAX)).await
    }

    /// Lists the profiles of policies, sorted by name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn egress_profiles(&self) -> Result<EgressProfileList, ClientError> {
        self.call(Method::GET, paths::EGRESS_PROFILES, Bytes::new()).await
    }
}
