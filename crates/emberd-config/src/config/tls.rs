//! TLS as configured.

use std::path::PathBuf;

use emberd_api::Address;

use crate::definition::Key;
use crate::reader::Reader;

/// Files of TLS; paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// The certificate, with those of its issuers.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Issuers of the certificates that clients must have, if they must.
    pub client_ca: Option<PathBuf>,
}

/// The files for `addr`, if there are any.
pub(super) fn tls(read: &mut Reader<'_>, addr: &Address) -> Option<TlsOptions> {
    let (cert, key) = (read.path(Key::TlsCert), read.path(Key::TlsKey));
    let client_ca = read.path(Key::TlsClientCa);
    if cert.is_some() != key.is_some() {
        let missing = if cert.is_some() { Key::TlsCert } else { Key::TlsKey };
        let error = "the certificate and its key are given together";
        read.report(missing, error, "give both --tls-cert and --tls-key");
    }
    if client_ca.is_some() && cert.is_none() {
        let error = "clients are asked for certificates over TLS only";
        read.report(Key::TlsClientCa, error, "give --tls-cert and --tls-key too");
    }
    if cert.is_some() && matches!(addr, Address::Unix(_)) {
        let error = "a Unix socket takes no TLS: it leaves this host with nobody";
        read.report(Key::TlsCert, error, "choose HOST:PORT with --addr, or leave TLS out");
    }
    let (cert, key) = cert.zip(key)?;
    Some(TlsOptions { cert, key, client_ca })
}
