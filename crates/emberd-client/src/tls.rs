//! TLS of a client: whom it trusts, who it is, and how a connection is secured.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, ClientConfig, InvalidMessage, OtherError,
    RootCertStore, version,
};

/// The protocol that is spoken in TLS (RFC 7301).
const PROTOCOL: &[u8] = b"http/1.1";

/// Files of TLS, in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Issuers of which one must have issued the daemon's certificate; those that this host trusts
    /// when absent.
    pub ca_cert: Option<PathBuf>,
    /// Certificate of this client, and its private key, for daemons that ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why files of TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    /// A file cannot be read, or has no certificate or no key.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A certificate or a key cannot be used.
    #[error("cannot use {}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// This host trusts no issuer.
    #[error("this host has no certificates of issuers")]
    NoRoots,
}

/// Why a connection was not secured, where the answer to it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFault {
    /// The daemon's certificate has expired, or is not valid yet.
    Time,
    /// The daemon's certificate is for other names.
    Name,
    /// No issuer that is trusted has issued the daemon's certificate.
    Issuer,
    /// The daemon shows a certificate that is for issuing others, such as `openssl req -x509`
    /// makes without more.
    OfIssuer,
    /// The daemon asks for a certificate of the client, or for another.
    Client,
    /// The daemon speaks no TLS there.
    Plain,
}

impl TlsFault {
    /// Finds it among the causes of an error.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            let found = error.downcast_ref::<rustls::Error>();
            let found = found.or_else(|| inner?.downcast_ref::<rustls::Error>());
            if let Some(error) = found {
                return Self::of_tls(error);
            }
            next = error.source();
        }
        None
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
        use CertificateError as Wrong;
        match error {
            rustls::Error::InvalidCertificate(wrong) => Some(match wrong {
                Wrong::Expired
                | Wrong::ExpiredContext { .. }
                | Wrong::NotValidYet
                | Wrong::NotValidYetContext { .. } => Self::Time,
                Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => Self::Name,
                Wrong::Other(other) if is_of_issuer(other) => Self::OfIssuer,
                _ => Self::Issuer,
            }),
            rustls::Error::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::DecryptError,
            ) => Some(Self::Client),
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Some(Self::Plain),
            _ => None,
        }
    }
}

fn is_of_issuer(error: &OtherError) -> bool {
    matches!(error.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// How connections are secured. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Security(Arc<OnceLock<Arc<ClientConfig>>>);

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Security").finish_non_exhaustive()
    }
}

impl Security {
    /// With these files.
    ///
    /// # Errors
    /// [`TlsFilesError`].
    pub fn new(files: &TlsFiles) -> Result<Self, TlsFilesError> {
        let config = OnceLock::new();
        config.set(Arc::new(config_of(files)?)).ok();
        Ok(Self(Arc::new(config)))
    }

    /// Makes the handshake with the daemon at `authority`.
    pub async fn secure(
        &self,
        authority: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        if self.0.get().is_none() {
            // Reading what this host trusts takes a while, and is needed here only.
            let config = config_of(&TlsFiles::default()).map_err(io::Error::other)?;
            self.0.get_or_init(|| Arc::new(config));
        }
        let config = Arc::clone(self.0.wait());
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, stream).await
    }
}

fn config_of(files: &TlsFiles) -> Result<ClientConfig, TlsFilesError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &files.ca_cert {
        for issuer in certificates(path)? {
            let refused = |source| TlsFilesError::Refused { path: path.clone(), source };
            roots.add(issuer).map_err(refused)?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(TlsFilesError::NoRoots);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(&[&version::TLS13]).expect("it has TLS 1.3");
    let builder = builder.with_root_certificates(roots);
    let mut config = match &files.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(unread(key))?;
            let refused = |source| TlsFilesError::Refused { path: cert.clone(), source };
            builder.with_client_auth_cert(chain, private).map_err(refused)?
        }
    };
    config.alpn_protocols = vec![PROTOCOL.to_owned()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(unread(path))?;
    if read.is_empty() { Err(unread(path)(pem::Error::NoItemsFound)) } else { Ok(read) }
}

fn unread(path: &Path) -> impl FnOnce(pem::Error) -> TlsFilesError {
    let path = path.to_owned();
    move |source| TlsFilesError::Read { path, source }
}
