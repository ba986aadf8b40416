//! The policy of one sandbox, compiled.

use std::net::IpAddr;

use emberd_proto::EgressReason;
use ipnet::IpNet;

use crate::name::Name;
use crate::verdict::{Denied, Limits, LogMode, Verdict};

/// The policy of one sandbox in force: what it allows, within what the operator permits. It is
/// never changed; a sandbox gets another one.
///
/// The default allows nothing.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    limits: Limits,
    log: LogMode,
    private: Vec<IpNet>,
}

impl Policy {
    /// Whether a name may be looked up: some port of it is allowed.
    pub fn lookup(&self, _name: &Name) -> Verdict {
        Verdict::Denied(Denied::by(EgressReason::NoRule))
    }

    /// Whether a port of a host may be reached by its name.
    pub fn name(&self, _name: &Name, _port: u16) -> Verdict {
        Verdict::Denied(Denied::by(EgressReason::NoRule))
    }

    /// Whether a port of an address may be reached without a name, by an entry with an address
    /// range. The addresses of `*` are public ones.
    pub fn address(&self, _address: IpAddr, _port: u16) -> Verdict {
        Verdict::Denied(Denied::by(EgressReason::NoRule))
    }

    /// Returns the limits of the sandbox.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns which connections are recorded.
    pub fn log(&self) -> LogMode {
        self.log
    }

    /// Returns the ranges of private addresses that the operator permits.
    pub fn private(&self) -> &[IpNet] {
        &self.private
    }
}
