//! On whose behalf a request is made: travels with every request, and limits are counted by it.

use std::convert::Infallible;
use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use emberd_keys::KeyId;
use serde::{Deserialize, Serialize};

use super::connection::Peer;

/// On whose behalf a request is made. Requests of equal principals share their limits.
///
/// As an extractor it never fails: a request that came over no connection of the server's, as in
/// a test, is of a local principal from an unknown source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Principal {
    /// Somebody who has proved nothing, and is known by where the connection comes from only.
    Local(Source),
    /// Somebody who has the secret of this key.
    Key(KeyId),
    /// Somebody who has the signed URL of a port.
    Url,
}

impl Principal {
    /// Name of the principal as the owner of sandboxes; none for one that anybody may be.
    pub fn owner(self) -> Option<String> {
        match self {
            Self::Key(id) => Some(format!("key:{id}")),
            Self::Local(Source::User(uid)) => Some(format!("uid:{uid}")),
            Self::Local(Source::Ip(_) | Source::Unknown) | Self::Url => None,
        }
    }
}

/// Where connections come from, as far as it tells callers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Source {
    /// One IP address, whatever the port.
    Ip(IpAddr),
    /// The programs of one user of this host, by its uid, over a Unix socket.
    User(u32),
    /// Nothing is known.
    Unknown,
}

impl From<&Peer> for Source {
    fn from(peer: &Peer) -> Self {
        match peer {
            Peer::Address(_) => peer.ip().map_or(Self::Unknown, Self::Ip),
            Peer::Credentials(credentials) => Self::User(credentials.uid()),
            Peer::Unknown => Self::Unknown,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let known = parts.extensions.get().copied();
        Ok(known.unwrap_or(Self::Local(Source::Unknown)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_source_on_every_port_and_in_either_notation() {
        let source = |text: &str| Source::from(&Peer::Address(text.parse().unwrap()));
        assert_eq!(source("192.0.2.1:1"), source("192.0.2.1:2"));
        assert_eq!(source("192.0.2.1:1"), source("[::ffff:192.0.2.1]:1"));
        assert_ne!(source("192.0.2.1:1"), source("192.0.2.2:1"));
        assert_eq!(Source::from(&Peer::Unknown), Source::Unknown);
    }

    #[test]
    fn keys_and_users_own_what_they_make_and_addresses_do_not() {
        let key = Principal::Key("0a1b2c3d".parse().unwrap());
        assert_eq!(key.owner().as_deref(), Some("key:0a1b2c3d"));
        assert_eq!(Principal::Local(Source::User(7)).owner().as_deref(), Some("uid:7"));
        let address = Source::Ip("127.0.0.1".parse().unwrap());
        for source in [address, Source::Unknown] {
            assert_eq!(Principal::Local(source).owner(), None);
        }
    }
}
