//! The daemon of a request, and what the calls of a server share.

use std::collections::HashMap;

use emberd_api::Address;
use emberd_client::Client;
use parking_lot::Mutex;
use rmcp::model::Extensions;

use crate::contexts::Contexts;
use crate::life::Life;
use crate::outputs::Outputs;

/// Most processes whose place of reading is remembered.
const READS_MAX: usize = 4_096;

/// The daemon, as the caller of one request reaches it.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// A client with the caller's key.
    pub client: Client,
    /// Where browsers find the daemon, such as `http://localhost:7777`.
    pub origin: String,
}

impl Daemon {
    /// The daemon of `client`, at the client's own address.
    pub fn new(client: Client) -> Self {
        let origin = Self::origin(client.address());
        Self { client, origin }
    }

    /// Where browsers find the daemon that listens at `address`.
    pub fn origin(address: &Address) -> String {
        match address {
            Address::Tls(authority) => format!("https://{authority}"),
            Address::Tcp(authority) => format!("http://{authority}"),
            Address::Unix(_) => format!("http://{}", emberd_api::ADDR_DEFAULT),
        }
    }
}

/// Finds the daemon of a request.
pub type Connect = dyn Fn(&Extensions) -> Daemon + Send + Sync;

/// Shared by all calls.
pub struct State {
    connect: Box<Connect>,
    pub sandbox: Option<String>,
    pub pack: Option<String>,
    pub life: Life,
    pub outputs: Outputs,
    pub contexts: Contexts,
    /// Number of the next event to read, by sandbox and process.
    pub reads: Mutex<HashMap<(String, u32), u64>>,
    /// The sandbox that was created for code without one.
    pub own: tokio::sync::Mutex<Option<String>>,
}

impl State {
    /// Nothing has been called yet.
    pub fn new(
        connect: Box<Connect>,
        life: Life,
        sandbox: Option<String>,
        pack: Option<String>,
    ) -> Self {
        let (outputs, contexts, reads, own) = Default::default();
        Self { connect, sandbox, pack, life, outputs, contexts, reads, own }
    }

    /// The daemon of the caller of a request.
    pub fn daemon(&self, extensions: &Extensions) -> Daemon {
        (self.connect)(extensions)
    }

    /// Remembers how far a process was read.
    pub fn has_read(&self, sandbox: &str, process: u32, next: u64) {
        let mut reads = self.reads.lock();
        if reads.len() >= READS_MAX {
            reads.clear();
        }
        reads.insert((sandbox.to_owned(), process), next);
    }
}
