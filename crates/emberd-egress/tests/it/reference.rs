//! A matcher that is slow and plain: it reads the texts of entries for each question.

use std::net::IpAddr;

/// Whether an entry's text matches `host` on `port`; `default_ports` are those of an entry
/// without any.
pub fn matches(entry: &str, host: &str, port: u16, default_ports: &str) -> bool {
    let (pattern, ports) = match entry.strip_prefix('[') {
        Some(rest) => {
            let (net, ports) = rest.split_once(']').unwrap();
            (net, ports.strip_prefix(':'))
        }
        None if entry.matches(':').count() > 1 => (entry, None),
        None => match entry.split_once(':') {
            Some((host, ports)) => (host, Some(ports)),
            None => (entry, None),
        },
    };
    has_port(ports.unwrap_or(default_ports), port) && has_host(pattern, host)
}

fn has_port(ports: &str, port: u16) -> bool {
    ports == "*"
        || ports.split(',').any(|part| match part.split_once('-') {
            Some((first, last)) => {
                first.parse::<u16>().unwrap() <= port && port <= last.parse().unwrap()
            }
            None => part.parse::<u16>().unwrap() == port,
        })
}

fn has_host(pattern: &str, host: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return in_net(pattern, address);
    }
    let labels: Vec<&str> = host.split('.').collect();
    match pattern.strip_prefix("*.") {
        Some(name) => {
            let name: Vec<&str> = name.split('.').collect();
            labels.len() > name.len() && labels.ends_with(&name)
        }
        None => pattern == host,
    }
}

fn in_net(pattern: &str, address: IpAddr) -> bool {
    let bits = |address: IpAddr| -> Vec<bool> {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect()
    };
    let (net, length) = pattern.split_once('/').unzip();
    let Ok(net) = net.unwrap_or(pattern).parse::<IpAddr>() else { return false };
    let (net, address) = (bits(net), bits(address));
    let length = length.map_or(net.len(), |length| length.parse().unwrap());
    net.len() == address.len() && net[..length] == address[..length]
}
