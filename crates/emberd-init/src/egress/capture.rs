//! The sockets that get what programs of the guest send to other machines, and the kernel's
//! instruction to give it to them.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use emberd_proto::egress::EGRESS_RESOLVER;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};

use super::netlink::Netlink;
use super::program::{self, DNS_PORT};
use crate::sys::{self, BpfMap};

/// Address of the agent's IPv6 sockets, which no packet has: connections are led to them. From
/// the range of RFC 6666, so that a guest's server on every address and the same port is the only
/// thing in the way.
const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1);

/// Port of the relay's listeners, which no program connects to by number. A server that is not
/// TCPMUX (RFC 1078) does not use it.
const RELAY_PORT: u16 = 1;

/// Connections that wait to be accepted: the kernel's own limit (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Maximum number of the guest's own addresses that are known.
const OWN_MAX: u32 = 256;

/// Network namespace of the agent.
const NAMESPACE: &str = "/proc/self/ns/net";

/// Why connections of the guest's programs cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The kernel was built without an option.
    #[error("the guest's kernel lacks the option {0}")]
    Option(&'static str),
    /// The kernel is older than the kind of program.
    #[error("the guest's kernel is older than Linux 5.9, or lacks the option CONFIG_NET")]
    Old,
    /// A step failed for another reason.
    #[error("cannot {step}")]
    Step {
        /// The step.
        step: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl CaptureError {
    /// Makes the error of a step.
    pub fn step(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Step { step, source }
    }
}

/// The sockets of one family.
#[derive(Debug)]
pub struct Sockets {
    /// Gets connections to other machines.
    pub relay: TcpListener,
    /// Gets connections to name servers.
    pub resolver_tcp: TcpListener,
    /// Gets datagrams to name servers.
    pub resolver_udp: UdpSocket,
}

/// The capture of connections, until it is dropped.
#[derive(Debug)]
pub struct Capture {
    own: Own,
    _link: OwnedFd,
}

impl Capture {
    /// Begins the capture in the agent's network namespace, and returns the sockets: those of
    /// IPv4, then those of IPv6 if the kernel has it.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn begin(netlink: &Netlink) -> Result<(Self, Vec<Sockets>), CaptureError> {
        let own = BpfMap::hash(size_of::<Ipv6Addr>(), OWN_MAX).map_err(no_bpf)?;
        let places = 2 * program::SOCKETS;
        let map = BpfMap::of_sockets(places).map_err(|error| match errno(&error) {
            Errno::EINVAL => CaptureError::Option("CONFIG_BPF_STREAM_PARSER"),
            _ => no_bpf(error),
        })?;
        let v4 = open(IpAddr::V4(EGRESS_RESOLVER));
        let mut sockets = vec![v4.map_err(CaptureError::step("open the sockets of egress"))?];
        // A kernel may lack IPv6, or have it switched off.
        sockets.extend(open(IpAddr::V6(ADDRESS_V6)));
        let program = program::program(own.as_fd(), map.as_fd(), sockets.len() == 2);
        let program = sys::load_lookup(&program).map_err(|error| match errno(&error) {
            Errno::EINVAL => CaptureError::Old,
            _ => no_bpf(error),
        })?;
        for (family, first) in sockets.iter().zip((0..).step_by(program::SOCKETS as usize)) {
            let fill = |place: u32, fd| map.set(&(first + place).to_ne_bytes(), fd);
            fill(program::RELAY, family.relay.as_raw_fd())
                .and_then(|()| fill(program::RESOLVER_TCP, family.resolver_tcp.as_raw_fd()))
                .and_then(|()| fill(program::RESOLVER_UDP, family.resolver_udp.as_raw_fd()))
                .map_err(CaptureError::step("name the sockets of egress to the kernel"))?;
        }
        let mut own = Own { map: own, known: HashSet::new() };
        own.update(netlink).map_err(CaptureError::step("find the guest's own addresses"))?;
        let link = File::open(NAMESPACE).and_then(|net| sys::attach_lookup(&program, net.as_fd()));
        let link = link.map_err(|source| match errno(&source) {
            Errno::ENOENT => CaptureError::Option("CONFIG_NET_NS"),
            _ => CaptureError::Step { step: "attach the program of egress", source },
        })?;
        Ok((Self { own, _link: link }, sockets))
    }

    /// Learns which addresses are the guest's own now.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn update(&mut self, netlink: &Netlink) -> io::Result<()> {
        self.own.update(netlink)
    }
}

/// The addresses of the guest's own interfaces.
#[derive(Debug)]
struct Own {
    map: BpfMap,
    known: HashSet<IpAddr>,
}

impl Own {
    fn update(&mut self, netlink: &Netlink) -> io::Result<()> {
        let found: HashSet<_> = netlink.addresses()?.into_iter().collect();
        for gone in self.known.difference(&found) {
            self.map.remove(&key(*gone)).ok();
        }
        for new in found.difference(&self.known) {
            // Connections to addresses beyond the map's size go to the host, which refuses them.
            self.map.set(&key(*new), 0).ok();
        }
        self.known = found;
        Ok(())
    }
}

fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Opens the sockets at `address`. They may answer from any address.
fn open(address: IpAddr) -> io::Result<Sockets> {
    let listener = |port| {
        let socket = transparent(SocketAddr::new(address, port), SockType::Stream)?;
        listen(&socket, Backlog::new(BACKLOG)?)?;
        io::Result::Ok(TcpListener::from(socket))
    };
    let resolver_udp = transparent(SocketAddr::new(address, DNS_PORT), SockType::Datagram)?;
    match address {
        IpAddr::V4(_) => setsockopt(&resolver_udp, sockopt::Ipv4PacketInfo, &true)?,
        IpAddr::V6(_) => setsockopt(&resolver_udp, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    Ok(Sockets {
        relay: listener(RELAY_PORT)?,
        resolver_tcp: listener(DNS_PORT)?,
        resolver_udp: UdpSocket::from(resolver_udp),
    })
}

fn transparent(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, kind, flags, None)?;
    // A guest's own server on every address may share the port, if it says so too.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

fn no_bpf(source: io::Error) -> CaptureError {
    match errno(&source) {
        Errno::ENOSYS => CaptureError::Option("CONFIG_BPF_SYSCALL"),
        _ => CaptureError::Step { step: "load the program of egress", source },
    }
}

/// Returns whether `address` is one that no other machine has: a program that connects to it
/// means the guest itself.
pub fn is_of_guest(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4 == EGRESS_RESOLVER || v4 == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(v6) => v6.is_loopback() || v6 == ADDRESS_V6 || v6 == Ipv6Addr::UNSPECIFIED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_option_is_named() {
        let without_bpf = no_bpf(Errno::ENOSYS.into());
        let expect = "the guest's kernel lacks the option CONFIG_BPF_SYSCALL";
        assert_eq!(without_bpf.to_string(), expect);
        let forbidden = no_bpf(Errno::EPERM.into());
        assert_eq!(forbidden.to_string(), "cannot load the program of egress");
    }

    #[test]
    fn guest_is_meant_by_its_own_addresses_only() {
        for own in ["127.0.0.1", "127.9.9.9", "198.18.0.1", "0.0.0.0", "::1", "::", "100::1"] {
            assert!(is_of_guest(own.parse().unwrap()), "{own}");
        }
        assert!(is_of_guest("::ffff:127.0.0.1".parse().unwrap()));
        for other in ["198.18.0.3", "128.0.0.1", "10.0.0.1", "100::2", "fe80::1", "2001:db8::1"] {
            assert!(!is_of_guest(other.parse().unwrap()), "{other}");
        }
    }
}
