//! Addresses and routes of the guest, over rtnetlink(7).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

/// Length of the header of a message (`struct nlmsghdr`), in bytes.
const HEADER_BYTES: usize = 16;

/// Length of `struct ifaddrmsg`, in bytes.
const ADDRESS_BYTES: usize = 8;

/// Largest message that the kernel sends, in bytes: it fills at most 32 KiB in one go
/// (`netlink_dump` in `net/netlink/af_netlink.c`).
const MESSAGE_BYTES_MAX: usize = 32 << 10;

/// Number of the interface that everything is routed to: the same in every network namespace
/// (`LOOPBACK_IFINDEX` in `include/net/flow.h`).
const LOOPBACK: u32 = 1;

/// Flags of a request that makes something: the kernel answers, and replaces what is there.
const MAKE: libc::c_int =
    libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;

/// A connection to the kernel's routing tables.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Connects.
    ///
    /// # Errors
    /// If the kernel has no networking.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkRoute;
        Ok(Self { socket: socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)? })
    }

    /// Gives the loopback interface the address `address`.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn add_address(&self, address: Ipv4Addr) -> io::Result<()> {
        let family = family_byte(libc::AF_INET);
        let mut body = vec![family, 32, 0, libc::RT_SCOPE_HOST];
        body.extend(LOOPBACK.to_ne_bytes());
        put_attribute(&mut body, libc::IFA_LOCAL, &address.octets());
        put_attribute(&mut body, libc::IFA_ADDRESS, &address.octets());
        self.ask(libc::RTM_NEWADDR, MAKE, &body)
    }

    /// Makes every address of a family that has no other route one of this machine. Connections
    /// to them come from `source`.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn route_everything_here(&self, source: IpAddr) -> io::Result<()> {
        let family = if source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let (scope, kind) = (libc::RT_SCOPE_HOST, libc::RTN_LOCAL);
        let (table, protocol) = (libc::RT_TABLE_MAIN, libc::RTPROT_BOOT);
        let mut body = vec![family_byte(family), 0, 0, 0, table, protocol, scope, kind];
        body.extend(0_u32.to_ne_bytes());
        put_attribute(&mut body, libc::RTA_OIF, &LOOPBACK.to_ne_bytes());
        match source {
            IpAddr::V4(v4) => put_attribute(&mut body, libc::RTA_PREFSRC, &v4.octets()),
            IpAddr::V6(v6) => put_attribute(&mut body, libc::RTA_PREFSRC, &v6.octets()),
        }
        self.ask(libc::RTM_NEWROUTE, MAKE, &body)
    }

    /// Returns the addresses of all interfaces.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        self.send(libc::RTM_GETADDR, libc::NLM_F_REQUEST | libc::NLM_F_DUMP, &[0; ADDRESS_BYTES])?;
        let mut found = Vec::new();
        loop {
            let answer = self.receive()?;
            for (kind, body) in messages(&answer) {
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(found),
                    libc::NLMSG_ERROR => return Err(error_in(body)),
                    _ if kind == libc::RTM_NEWADDR => found.extend(address_in(body)),
                    _ => {}
                }
            }
        }
    }

    /// Sends a request and returns the kernel's verdict.
    fn ask(&self, kind: u16, flags: libc::c_int, body: &[u8]) -> io::Result<()> {
        self.send(kind, flags, body)?;
        let answer = self.receive()?;
        for (kind, body) in messages(&answer) {
            if i32::from(kind) == libc::NLMSG_ERROR {
                let error = error_in(body);
                return if error.raw_os_error() == Some(0) { Ok(()) } else { Err(error) };
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    fn send(&self, kind: u16, flags: libc::c_int, body: &[u8]) -> io::Result<()> {
        let bytes = u32::try_from(HEADER_BYTES + body.len()).expect("requests are small");
        let flags = u16::try_from(flags).expect("flags have 16 bits");
        let mut message = Vec::new();
        message.extend(bytes.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut answer = vec![0; MESSAGE_BYTES_MAX];
        let bytes = loop {
            match recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                received => break received?,
            }
        };
        answer.truncate(bytes);
        Ok(answer)
    }
}

/// Subscribes to changes of addresses; the socket is readable after one.
///
/// # Errors
/// If the kernel has no networking.
pub fn subscribe_to_addresses() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    let groups = libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups.cast_unsigned()))?;
    Ok(socket)
}

/// Empties the queue of a subscription. An error means that it is empty or has overflowed, which
/// counts as a change.
pub fn drain(socket: &OwnedFd) {
    // Messages are cut to the buffer; their content is not used.
    let mut start = [0; 64];
    while recv(socket.as_raw_fd(), &mut start, MsgFlags::MSG_DONTWAIT).is_ok() {}
}

fn family_byte(family: libc::c_int) -> u8 {
    u8::try_from(family).expect("families of addresses are small")
}

/// Appends an attribute, padded to four bytes.
fn put_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let bytes = u16::try_from(4 + value.len()).expect("values are small");
    body.extend(bytes.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The messages in one answer: kind and body of each.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The error in an answer; number 0 is success.
fn error_in(body: &[u8]) -> io::Error {
    let number = body.first_chunk().map_or(libc::EPROTO, |bytes| -i32::from_ne_bytes(*bytes));
    io::Error::from_raw_os_error(number)
}

/// The address that an announcement is about: the interface's own rather than that of its peer.
fn address_in(body: &[u8]) -> Option<IpAddr> {
    let mut attributes = body.get(ADDRESS_BYTES..)?;
    let mut found = None;
    while let Some(length) = attributes.first_chunk() {
        let length = usize::from(u16::from_ne_bytes(*length));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        let value = attributes.get(4..length)?;
        if kind == libc::IFA_LOCAL || kind == libc::IFA_ADDRESS && found.is_none() {
            found = ip(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_address_is_found_rather_than_the_peers() {
        let mut body = vec![0; ADDRESS_BYTES];
        put_attribute(&mut body, libc::IFA_ADDRESS, &[192, 0, 2, 1]);
        assert_eq!(address_in(&body), Some("192.0.2.1".parse().unwrap()));
        put_attribute(&mut body, libc::IFA_LABEL, b"abc");
        put_attribute(&mut body, libc::IFA_LOCAL, &[192, 0, 2, 2]);
        assert_eq!(address_in(&body), Some("192.0.2.2".parse().unwrap()));
        for end in 0..body.len() {
            assert_ne!(address_in(&body[..end]), Some("192.0.2.2".parse().unwrap()), "{end}");
        }
    }

    #[test]
    fn loopback_has_its_address() {
        let found = Netlink::open().unwrap().addresses().unwrap();
        assert!(found.contains(&"127.0.0.1".parse().unwrap()), "{found:?}");
    }

    #[test]
    fn messages_end_where_their_bytes_do() {
        let mut bytes = 18_u32.to_ne_bytes().to_vec();
        bytes.extend([7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0]);
        bytes.extend(99_u32.to_ne_bytes());
        let found: Vec<_> = messages(&bytes).collect();
        assert_eq!(found, [(7, &[1, 2][..])]);
        let short = 0_u32.to_ne_bytes();
        assert_eq!(messages(&short).count(), 0, "a length of nothing");
    }
}
