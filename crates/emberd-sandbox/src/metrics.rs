//! What a sandbox uses, by its guest's own account.

use emberd_proto::{GuestMessage, HostMessage, Metrics};

use crate::operation::{Line, OperationError};
use crate::{SandboxId, Sandboxes};

impl Sandboxes {
    /// What the sandbox uses now. Its guest says so, and may say anything.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn metrics(&self, id: SandboxId) -> Result<Metrics, OperationError> {
        let sandbox = self.0.table.find(id).ok_or(OperationError::Unknown(id))?;
        let mut line = Line::open(sandbox).await?;
        match line.ask(&HostMessage::Metrics).await? {
            GuestMessage::Metrics(metrics) => {
                line.done();
                Ok(metrics)
            }
            _ => Err(line.broken("it did not say what it uses").await),
        }
    }
}
