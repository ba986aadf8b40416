//! Network access of sandboxes: policies, dry runs, the log and profiles.

use bytes::Bytes;
use emberd_api::{
    Address, CheckEgress, EgressCheck, EgressDecision, EgressEvent, EgressLog, EgressPatch,
    EgressProfileList, PolicySpec, SandboxEgress, paths,
};
use hyper::{Method, StatusCode};

use crate::client::{Client, ClientError, json};
use crate::lines::Lines;
use crate::link::Answering;

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
    ) -> Result<EgressEvents, ClientError> {
        let decision = decision.map(EgressDecision::name);
        let path = paths::egress_log(id, after, decision, None, true);
        let (status, answering) = self.stream(Method::GET, &path, Bytes::new()).await?;
        let (address, lines) = (self.address().clone(), Lines::default());
        Ok(EgressEvents { address, status, answering, lines })
    }

    /// Lists the profiles of policies, sorted by name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn egress_profiles(&self) -> Result<EgressProfileList, ClientError> {
        self.call(Method::GET, paths::EGRESS_PROFILES, Bytes::new()).await
    }
}

/// The records of a log that is followed. Dropping it ends the request.
#[derive(Debug)]
pub struct EgressEvents {
    address: Address,
    status: StatusCode,
    answering: Answering,
    lines: Lines,
}

impl EgressEvents {
    /// Waits for the next record or gap; none once the sandbox or the daemon ends. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::Broken`] if the connection breaks, [`ClientError::Protocol`] for anything
    /// but records.
    pub async fn next(&mut self) -> Result<Option<EgressEvent>, ClientError> {
        loop {
            if let Some(line) = self.lines.whole() {
                return serde_json::from_slice(&line).map(Some).map_err(|source| {
                    let (addr, status) = (self.address.clone(), self.status.as_u16());
                    ClientError::Protocol { addr, status, source }
                });
            }
            let broken = |source| ClientError::Broken { addr: self.address.clone(), source };
            if self.lines.pending() > RECORD_BYTES_MAX {
                return Err(broken("a record is too long".into()));
            }
            match self.answering.piece().await.map_err(broken)? {
                Some(piece) => self.lines.push(&piece),
                None => return Ok(None),
            }
        }
    }
}
