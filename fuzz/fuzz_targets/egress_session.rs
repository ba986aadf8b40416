//! A guest that sends anything in the place of its egress session: frames of the mux, requests in
//! them, and what follows. The session ends, no connection stays, and nothing is dialled that the
//! policy does not allow.
#![no_main]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};

use emberd_egress::{Egress, LookupError, Network, Operator, PackProfiles, Policy, PolicySpec};
use futures::future::BoxFuture;
use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

/// The only name that the policy allows, and its address.
const NAME: &str = "a.example";
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(151, 101, 0, 1));

struct Nothing;

impl Network for Nothing {
    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        assert_eq!(name, NAME);
        Ok(vec![ADDRESS])
    }

    fn connect(&self, destination: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        assert_eq!(destination.ip(), ADDRESS);
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }
}

static EGRESS: LazyLock<Egress> =
    LazyLock::new(|| Egress::with_network(64, Arc::new(Nothing)).unwrap());
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().build().unwrap());

fuzz_target!(|bytes: &[u8]| {
    let spec: PolicySpec = serde_json::from_str(r#"{"allow":["a.example:*"]}"#).unwrap();
    let policy = Policy::compile(&Operator::default(), &PackProfiles::new(), &spec).unwrap();
    let sandbox = EGRESS.sandbox(&Arc::new(policy));
    RUNTIME.block_on(async {
        let (near, mut far) = tokio::io::duplex(bytes.len() + (1 << 20));
        far.write_all(bytes).await.unwrap();
        far.shutdown().await.unwrap();
        drop(sandbox.serve(near).await);
        while sandbox.connections() > 0 {
            tokio::task::yield_now().await;
        }
    });
});
