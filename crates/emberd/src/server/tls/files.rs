//! The files of a certificate: read at start-up, on SIGHUP, and when they change.
//!
//! ```text
//! changed, and the same at the next look ─▶ read ─┬─ valid: for new connections
//!                                                 └─ invalid: the old one stays, the log says why
//! ```

use std::error::Error;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use emberd_config::TlsOptions;
use emberd_proto::chain;
use tokio::task::spawn_blocking;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig, version};

use super::Tls;

/// The protocol that is spoken in TLS (RFC 7301). Upgrades need HTTP/1.1.
const PROTOCOL: &[u8] = b"http/1.1";

/// Time from one look at the files to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Largest file, in bytes (1 MiB).
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file has not what it is for.
    #[error("{} has no {what}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Content that it is for.
        what: &'static str,
        /// Why it has none.
        source: pem::Error,
    },
    /// The certificate and the key cannot be used together.
    #[error("cannot use the certificate {} with the key {}", cert.display(), key.display())]
    Pair {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// An issuer of clients' certificates cannot be used.
    #[error("cannot use {} for the certificates of clients", path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Reads the files. Blocks.
///
/// # Errors
/// [`TlsError`].
pub fn load(options: &TlsOptions) -> Result<ServerConfig, TlsError> {
    let TlsOptions { cert, key, client_ca } = options;
    let chain = certificates(cert)?;
    let missing = |source| TlsError::Missing { path: key.clone(), what: "private key", source };
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(missing)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(&[&version::TLS13]).expect("it has TLS 1.3");
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let refused = |source| TlsError::ClientCa { path: path.clone(), source };
            let mut roots = RootCertStore::empty();
            for issuer in certificates(path)? {
                roots.add(issuer).map_err(|error| refused(error.into()))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| refused(error.into()))?)
        }
    };
    let refused = |source| TlsError::Pair { cert: cert.clone(), key: key.clone(), source };
    let mut config = builder.with_single_cert(chain, private).map_err(refused)?;
    config.alpn_protocols = vec![PROTOCOL.to_owned()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let missing = |source| TlsError::Missing { path: path.to_owned(), what: "certificate", source };
    let text = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(missing)?;
    if certificates.is_empty() {
        return Err(missing(pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        let error = format!("it has {bytes} bytes, over {FILE_BYTES_MAX}");
        return Err(failed(io::Error::other(error)));
    }
    fs::read(path).map_err(failed)
}

/// Reads the files of `options` again, and uses them in `tls` if they are valid. Blocks.
pub fn read_again(tls: &Tls, options: &TlsOptions) {
    let cert = options.cert.display();
    match load(options) {
        Ok(config) => {
            tls.replace(config);
            tracing::info!(%cert, "read the TLS certificate again");
        }
        Err(error) => {
            let error = chain(&error);
            tracing::error!(error, %cert, "kept the old TLS certificate, because the new is invalid");
        }
    }
}

/// State of the files by the file system: another one once a file is replaced or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen(Vec<Option<Stamp>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    /// Device and inode.
    identity: (u64, u64),
    bytes: u64,
    /// Seconds and nanoseconds.
    written: (i64, i64),
}

/// Reads the files, and returns how they are. Blocks.
///
/// # Errors
/// [`TlsError`].
pub fn open(options: &TlsOptions) -> Result<(Tls, Seen), TlsError> {
    // Before they are read: a change meanwhile is noticed later.
    let seen = look(options);
    Ok((Tls::new(load(options)?), seen))
}

fn look(options: &TlsOptions) -> Seen {
    let files = [Some(&options.cert), Some(&options.key), options.client_ca.as_ref()];
    let seen = files.into_iter().flatten().map(|path| {
        let file = fs::metadata(path).ok()?;
        let written = (file.mtime(), file.mtime_nsec());
        Some(Stamp { identity: (file.dev(), file.ino()), bytes: file.len(), written })
    });
    Seen(seen.collect())
}

/// Reads the files again whenever they are not as they were `used`, and stand still. A certificate
/// and its key are two files: between their replacements they do not fit.
pub async fn watch(tls: Tls, options: TlsOptions, mut used: Seen) -> ! {
    let options = Arc::new(options);
    let looks = async || {
        let options = Arc::clone(&options);
        spawn_blocking(move || look(&options)).await.expect("a look does not panic")
    };
    let mut before = used.clone();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = looks().await;
        if now == before && now != used {
            used.clone_from(&now);
            let (tls, options) = (tls.clone(), Arc::clone(&options));
            spawn_blocking(move || read_again(&tls, &options))
                .await
                .expect("reading does not panic");
        }
        before = now;
    }
}
