//! A daemon behind TLS: an end of TLS in front of the daemon of the other tests.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

/// Where it is, and whom to trust. It goes on until the process ends.
pub struct Secured {
    pub addr: String,
    pub ca_cert: PathBuf,
    _dir: TempDir,
}

impl Secured {
    /// Carries connections to `authority`.
    pub fn before(authority: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let ca_cert = dir.path().join("ca.pem");
        fs::write(&ca_cert, cert.pem()).unwrap();
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key.into())
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = format!("https://{}", listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        let (to, acceptor) = (authority.to_owned(), TlsAcceptor::from(Arc::new(config)));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (acceptor, to) = (acceptor.clone(), to.clone());
                    tokio::spawn(async move {
                        let mut near = acceptor.accept(stream).await?;
                        let mut far = TcpStream::connect(to).await?;
                        copy_bidirectional(&mut near, &mut far).await
                    });
                }
            });
        });
        Self { addr, ca_cert, _dir: dir }
    }
}
