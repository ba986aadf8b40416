//! Who may make requests, and what they may do.
//!
//! ```text
//! a key ──────────── among those in keys.json ──────▶ its scopes, its own sandboxes
//! Unix socket ────── root, the daemon's user ───────▶ everything
//!                    users of [[access]] ───────────▶ the scopes of a role, their own sandboxes
//! TCP, no key ────── no keys exist, or insecure ────▶ everything
//! everything else ──────────────────────────────────▶ refused
//! ```

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use emberd_api::Address;
use emberd_config::{AccessRule, Authentication, Who};
use emberd_keys::{KeyId, KeyRecord, Presented, Role, Scope};
use rustix::process::geteuid;
use tokio_util::sync::CancellationToken;

use crate::server::connection::Peer;
use crate::server::principal::{Principal, Source};

mod account;
mod expiry;
mod grant;
mod ring;

pub(crate) use account::{Account, UnderWay};
pub(crate) use expiry::Now;
pub use grant::Grant;
pub(crate) use ring::LiveKey;
use ring::{Judged, KeyRing};

/// How often the file of keys is looked at, and keys that have expired are ended.
const PERIOD: Duration = Duration::from_millis(250);

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The request has no key and needs one.
    #[error("the request has no key")]
    NoKey,
    /// A web page of another origin sends it without a key, which it needs wherever it comes from.
    #[error("a web page of another origin needs a key")]
    PageWithoutKey,
    /// The text that it has as its key is that of none.
    #[error("the key is not valid")]
    Invalid,
    /// The key was valid.
    #[error("the key has expired")]
    Expired,
    /// The key was removed or replaced, or has expired, while the request was under way.
    #[error("the key is not valid any more")]
    Ended,
    /// The URL of a port was altered, is that of another port, or was revoked.
    #[error("the URL of the port is not valid")]
    UrlInvalid,
    /// The URL of a port, or the key that asked for it, has ended.
    #[error("the URL of the port is not valid any more")]
    UrlExpired,
    /// A page of another host has its browser use the URL of a port.
    #[error("the port refuses requests of pages from other hosts")]
    ForeignPage,
    /// The keys cannot be read, and none is guessed.
    #[error("no key can be checked, because the daemon cannot read its keys")]
    Unreadable,
    /// The caller may do other things, but not this.
    #[error("the caller does not have the scope `{0}`")]
    Scope(Scope),
    /// The user is not among those who may use the socket.
    #[error("user {0} of this host may not use the daemon without a key")]
    User(u32),
}

/// A daemon without keys would serve everybody on a network.
#[derive(Debug, thiserror::Error)]
#[error("{0} can be reached from other hosts, and there are no keys")]
pub struct Exposed(Address);

/// Whether requests over TCP need a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverTcp {
    /// They need none: there are no keys.
    Open,
    /// They need one.
    NeedsKey,
    /// They need none, by the operator's wish.
    Insecure,
}

/// Decides who may do what. Clones share it.
#[derive(Debug, Clone)]
pub struct Access(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ring: KeyRing,
    rules: Vec<AccessRule>,
    insecure: bool,
    /// The daemon's user.
    own_uid: u32,
}

impl Access {
    /// Reads the keys in `data_dir`. A file that cannot be read is reported in the log, and no key
    /// is valid until it can. Blocks.
    pub fn new(data_dir: &Path, rules: &[AccessRule], authentication: Authentication) -> Self {
        Self::with_fixed(None, data_dir, rules, authentication)
    }

    /// As [`Self::new`], with a key beside those of the file, which stays as long as the daemon.
    pub fn with_fixed(
        fixed: Option<KeyRecord>,
        data_dir: &Path,
        rules: &[AccessRule],
        authentication: Authentication,
    ) -> Self {
        let insecure = authentication == Authentication::Off;
        let ring = KeyRing::open(data_dir, fixed);
        let (rules, own_uid) = (rules.to_vec(), geteuid().as_raw());
        Self(Arc::new(Inner { ring, rules, insecure, own_uid }))
    }

    /// Whether a daemon on `address` is safe from other hosts.
    ///
    /// # Errors
    /// [`Exposed`].
    pub fn check(&self, address: &Address) -> Result<(), Exposed> {
        let (Address::Tcp(authority) | Address::Tls(authority)) = address else { return Ok(()) };
        let socket = authority.parse::<SocketAddr>();
        let is_loopback = socket.is_ok_and(|socket| socket.ip().to_canonical().is_loopback());
        if is_loopback || self.over_tcp() != OverTcp::Open {
            return Ok(());
        }
        Err(Exposed(address.clone()))
    }

    /// Whether requests over TCP need a key now.
    pub fn over_tcp(&self) -> OverTcp {
        match (self.0.insecure, self.0.ring.is_in_use()) {
            (true, _) => OverTcp::Insecure,
            (false, true) => OverTcp::NeedsKey,
            (false, false) => OverTcp::Open,
        }
    }

    /// Number of keys, and why they cannot be read, if they cannot.
    pub fn keys(&self) -> (usize, Option<String>) {
        self.0.ring.summary()
    }

    /// Returns what ends with the key `id`; none if it is not in force.
    pub(crate) fn ended(&self, id: KeyId) -> Option<CancellationToken> {
        self.0.ring.live(id).map(|key| key.ended.clone())
    }

    /// The keys that are in force, in no order.
    pub(crate) fn live_keys(&self) -> Vec<Arc<LiveKey>> {
        self.0.ring.all()
    }

    /// Whether users beside the daemon's own may use the Unix socket.
    pub fn admits_users(&self) -> bool {
        !self.0.rules.is_empty()
    }

    /// Keeps the keys as their file says, and ends those that have expired.
    pub async fn keep(&self) -> ! {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.0.ring.catch_up().await;
            self.0.ring.end_expired();
        }
    }

    /// Returns what the caller at `peer` may do, who sent `key` as its key. A request without a
    /// peer came over no connection of the server's, as in a test, and counts as one over TCP.
    ///
    /// # Errors
    /// [`AccessError`].
    pub(crate) async fn judge(
        &self,
        peer: Option<&Peer>,
        key: Option<&[u8]>,
    ) -> Result<Grant, AccessError> {
        let inner = &*self.0;
        match key {
            // Without keys, clients that send one are served as before.
            Some(key) if inner.ring.is_in_use() => inner.judge_key(key).await,
            _ => self.judge_peer(peer),
        }
    }

    /// Returns what a web page of another origin may do, which sent `key` as its key. Nothing else
    /// counts for it, nor that there are no keys.
    ///
    /// # Errors
    /// [`AccessError`].
    pub(crate) async fn judge_page(&self, key: Option<&[u8]>) -> Result<Grant, AccessError> {
        self.0.judge_key(key.ok_or(AccessError::PageWithoutKey)?).await
    }

    fn judge_peer(&self, peer: Option<&Peer>) -> Result<Grant, AccessError> {
        let principal = Principal::Local(peer.map_or(Source::Unknown, Source::from));
        match peer {
            Some(Peer::Credentials(user)) => {
                let role = self.0.role_of(user.uid(), user.gid());
                let role = role.ok_or(AccessError::User(user.uid()))?;
                return Ok(Grant::of_role(principal, role));
            }
            // It may be anybody.
            Some(Peer::Unknown) => return Err(AccessError::NoKey),
            Some(Peer::Address(_)) | None => {}
        }
        match self.over_tcp() {
            OverTcp::NeedsKey => Err(AccessError::NoKey),
            OverTcp::Open | OverTcp::Insecure => Ok(Grant::of_role(principal, Role::Admin)),
        }
    }
}

impl Inner {
    async fn judge_key(&self, key: &[u8]) -> Result<Grant, AccessError> {
        let presented = Presented::parse(key).ok_or(AccessError::Invalid)?;
        match self.ring.judge(&presented).await {
            Judged::Valid(key) => Ok(Grant::of_key(key)),
            Judged::Expired => Err(AccessError::Expired),
            Judged::Unknown => Err(AccessError::Invalid),
            Judged::Unreadable => Err(AccessError::Unreadable),
        }
    }

    /// The role of the programs of user `uid` in group `gid`.
    fn role_of(&self, uid: u32, gid: u32) -> Option<Role> {
        if uid == 0 || uid == self.own_uid {
            return Some(Role::Admin);
        }
        let fits = |rule: &&AccessRule| match rule.who {
            Who::User(user) => user == uid,
            Who::Group(group) => group == gid,
        };
        self.rules.iter().find(fits).map(|rule| rule.role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_gives_the_role() {
        let dir = tempfile::tempdir().unwrap();
        let rules = ["uid:1000=viewer", "gid:100=user", "uid:1001=operator"];
        let rules = rules.map(|rule| rule.parse().unwrap());
        let inner = Access::new(dir.path(), &rules, Authentication::Keys).0;
        assert_eq!(inner.role_of(0, 7), Some(Role::Admin));
        assert_eq!(inner.role_of(inner.own_uid, 7), Some(Role::Admin));
        assert_eq!(inner.role_of(1000, 100), Some(Role::Viewer));
        assert_eq!(inner.role_of(1001, 100), Some(Role::User));
        assert_eq!(inner.role_of(1001, 7), Some(Role::Operator));
        assert_eq!(inner.role_of(1002, 7), None);
    }

    #[tokio::test]
    async fn a_key_that_expires_ends_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let file = emberd_keys::KeysFile::new(dir.path());
        let new = emberd_keys::NewKey {
            ttl: Some(Duration::from_secs(5)),
            ..emberd_keys::NewKey::of_role("short".parse().unwrap(), Role::User)
        };
        let (_, secret) = emberd_keys::create(&file, new).unwrap();
        let access = Access::new(dir.path(), &[], Authentication::Keys);
        let ask = async || access.judge(None, Some(secret.expose().as_bytes())).await;
        let grant = ask().await.unwrap();
        assert!(grant.permits(Scope::SandboxUse) && !grant.sees_all() && grant.may_end());
        tokio::select! {
            () = grant.ended() => {}
            never = access.keep() => never,
        }
        assert_eq!(ask().await.unwrap_err(), AccessError::Expired);
    }

    #[tokio::test]
    async fn a_peer_that_is_not_known_is_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let access = Access::new(dir.path(), &[], Authentication::Keys);
        let unknown = access.judge(Some(&Peer::Unknown), None).await;
        assert_eq!(unknown.unwrap_err(), AccessError::NoKey);
        let over_tcp = Peer::Address("127.0.0.1:1".parse().unwrap());
        assert!(access.judge(Some(&over_tcp), None).await.unwrap().sees_all());
    }

    #[tokio::test]
    async fn a_page_is_nobody_without_a_key() {
        let dir = tempfile::tempdir().unwrap();
        for authentication in [Authentication::Keys, Authentication::Off] {
            let access = Access::new(dir.path(), &[], authentication);
            let refused = async |key| access.judge_page(key).await.unwrap_err();
            assert_eq!(refused(None).await, AccessError::PageWithoutKey);
            for text in ["", "x", "emb_0a1b2c3d_0123456789ABCDEFGHIJKLMNOPQRSTUV"] {
                assert_eq!(refused(Some(text.as_bytes())).await, AccessError::Invalid, "{text}");
                assert!(access.judge(None, Some(text.as_bytes())).await.unwrap().sees_all());
            }
        }
        let file = emberd_keys::KeysFile::new(dir.path());
        let new = emberd_keys::NewKey::of_role("page".parse().unwrap(), Role::Viewer);
        let (_, secret) = emberd_keys::create(&file, new).unwrap();
        let access = Access::new(dir.path(), &[], Authentication::Off);
        let grant = access.judge_page(Some(secret.expose().as_bytes())).await.unwrap();
        assert!(grant.permits(Scope::SandboxRead) && !grant.permits(Scope::SandboxUse));
    }

    #[test]
    fn a_daemon_without_keys_is_for_this_host_only() {
        let dir = tempfile::tempdir().unwrap();
        let check = |insecure, address: &str| {
            let authentication = if insecure { Authentication::Off } else { Authentication::Keys };
            Access::new(dir.path(), &[], authentication).check(&address.parse().unwrap()).is_ok()
        };
        for own in ["127.0.0.1:7777", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:/s"] {
            assert!(check(false, own), "{own}");
        }
        // An address that was listened on is one with numbers.
        for exposed in ["0.0.0.0:7777", "[::]:1", "192.0.2.1:1", "localhost:1"] {
            assert!(!check(false, exposed), "{exposed}");
            assert!(check(true, exposed), "{exposed}");
        }
        std::fs::write(dir.path().join(emberd_keys::FILE_NAME), "torn").unwrap();
        assert!(check(false, "0.0.0.0:7777"), "nobody is served until the keys can be read");
    }
}
