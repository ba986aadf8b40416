//! The daemon as a guest's host.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use emberd_guest::{End, Guest, Host, Link};
use emberd_proto::EgressDenials;
use emberd_vmm::Stream;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use super::machine::Machine;
use super::sandbox::Sandbox;
use crate::egress::Session;

/// The daemon's side of a guest: how `emberd-guest` connects to it and ends it.
pub(crate) struct GuestHost {
    pub machine: Arc<Machine>,
    /// The sandbox, which owns the guest.
    pub sandbox: Weak<Sandbox>,
    pub activity: Arc<Activity>,
    /// Cancelled when the daemon stops making microVMs.
    pub closing: CancellationToken,
    /// None if the daemon carries no connections.
    pub egress: Option<Arc<Session>>,
    /// Of the sandbox; empty until it is created.
    pub env: Arc<OnceLock<BTreeMap<String, String>>>,
}

impl GuestHost {
    /// The guest at the other end of `first`.
    pub fn guest(self, name: String, first: Link<Stream>) -> Guest<Stream> {
        Guest::new(name, self, first)
    }

    /// The guest that an earlier daemon started.
    pub fn adopted(self, name: String) -> Guest<Stream> {
        Guest::adopted(name, self)
    }
}

impl Host<Stream> for GuestHost {
    fn connect(&self) -> BoxFuture<'_, Result<Stream, Box<dyn Error + Send + Sync>>> {
        Box::pin(async { Ok(self.machine.connect().await?) })
    }

    fn ended(&self) -> BoxFuture<'static, End> {
        Box::pin(self.machine.ended())
    }

    fn deleted(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.machine.ending().clone().cancelled_owned())
    }

    fn closing(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.closing.clone().cancelled_owned())
    }

    fn end(&self) {
        let machine = Arc::clone(&self.machine);
        // The deletion of the sandbox reports what could not be removed.
        tokio::spawn(async move { machine.kill().await });
    }

    fn mark(&self) -> u64 {
        let Some(session) = &self.egress else { return 0 };
        session.need();
        session.egress.mark()
    }

    fn denied_since(&self, mark: u64) -> EgressDenials {
        let session = self.egress.as_ref();
        session.map(|session| session.egress.denied_since(mark)).unwrap_or_default()
    }

    fn env(&self) -> Option<&BTreeMap<String, String>> {
        self.env.get()
    }

    fn run_for(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(self.machine.clock().run_for(time))
    }

    fn stir(&self) {
        self.activity.stir();
        if let Some(sandbox) = self.sandbox.upgrade() {
            sandbox.usage.stir();
        }
    }

    fn knock(&self) {
        if let Some(sandbox) = self.sandbox.upgrade() {
            sandbox.knock();
        }
    }
}
