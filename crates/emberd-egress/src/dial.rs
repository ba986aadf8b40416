//! Connects to the first address that answers.

use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::network::Network;

/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Wait for one address before the next is tried beside it (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// Time that all attempts together may take.
const DIAL_WAIT_MAX: Duration = Duration::from_secs(10);

/// Connects to `port` of one of `addresses`, in their order. None if none answers.
pub(crate) async fn dial(
    network: &dyn Network,
    addresses: &[IpAddr],
    port: u16,
) -> Option<(TcpStream, IpAddr)> {
    timeout(DIAL_WAIT_MAX, attempts(network, addresses, port)).await.ok().flatten()
}

async fn attempts(
    network: &dyn Network,
    addresses: &[IpAddr],
    port: u16,
) -> Option<(TcpStream, IpAddr)> {
    let mut waiting = addresses.iter().copied().take(ADDRESSES_MAX);
    let mut under_way = FuturesUnordered::new();
    loop {
        if let Some(address) = waiting.next() {
            under_way.push(async move {
                let stream = network.connect((address, port).into()).await.ok()?;
                // The guest's programs decide how they batch.
                stream.set_nodelay(true).ok()?;
                // However the connection ends, also with the daemon, the destination does not take
                // a part for the whole, unless the end is in order.
                stream.set_zero_linger().ok()?;
                Some((stream, address))
            });
        } else if under_way.is_empty() {
            return None;
        }
        tokio::select! {
            attempt = under_way.next() => if let Some(Some(connected)) = attempt {
                return Some(connected);
            },
            () = sleep(STAGGER), if waiting.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;
    use crate::network::HostNetwork;

    #[tokio::test]
    async fn the_first_address_that_answers_is_taken() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let refused = IpAddr::from([127, 0, 0, 2]);
        let listening = IpAddr::from(Ipv4Addr::LOCALHOST);
        let (_, address) = dial(&HostNetwork, &[refused, refused, listening], port).await.unwrap();
        assert_eq!(address, listening);
    }

    #[tokio::test]
    async fn no_more_than_some_addresses_are_tried() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut addresses = vec![IpAddr::from([127, 0, 0, 2]); ADDRESSES_MAX];
        addresses.push(Ipv4Addr::LOCALHOST.into());
        assert!(dial(&HostNetwork, &addresses, port).await.is_none());
        assert!(dial(&HostNetwork, &[], port).await.is_none());
    }
}
