//! `tls`: handshakes, and a small request over TLS beside one without, each to a daemon of its own.
//!
//! A handshake begins on a connection that stands, and includes the client's part.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use emberd_api::Address;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::measure::connection::{Connection, shake_hands};
use crate::measure::error::MeasureError;
use crate::measure::rig::{Rig, WARM_UPS};

/// Name in the certificate: the address of the daemons that the bench starts.
const NAME: &str = "127.0.0.1";

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let dir = TempDir::new()?;
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
    let CertifiedKey { cert: made, signing_key } =
        generate_simple_self_signed([NAME.to_owned()]).map_err(io::Error::other)?;
    fs::write(&cert, made.pem())?;
    fs::write(&key, signing_key.serialize_pem())?;
    let config = trusting(made.der())?;
    let daemon =
        rig.another(&["--tls-cert".into(), cert.into(), "--tls-key".into(), key.into()])?;
    let Address::Tls(authority) = daemon.address.clone() else {
        return Err(MeasureError::NotHere("the daemon does not speak TLS"));
    };
    let mut plain = Connection::open(&rig.address)?;
    let mut secured = Connection::secured(&authority, &config)?;
    for iteration in 0..WARM_UPS + rig.iterations {
        rig.interrupt.check()?;
        let stream = TcpStream::connect(&authority)?;
        stream.set_nodelay(true)?;
        let began = Instant::now();
        let shaken = shake_hands(stream, &authority, &config)?;
        let took = began.elapsed();
        drop(shaken);
        let (without, over_tls) = (plain.healthz()?, secured.healthz()?);
        if iteration >= WARM_UPS {
            rig.record.time("handshake", took);
            rig.record.time("request_plain", without);
            rig.record.time("request_tls", over_tls);
        }
    }
    rig.stop(daemon)
}

/// A client that trusts one certificate, and resumes no earlier session.
fn trusting(certificate: &CertificateDer<'static>) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).map_err(io::Error::other)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
