//! Addresses that a sandbox never reaches, whatever its policy says.
//!
//! ```text
//! address ─▶ bare (v4-mapped, NAT64 unwrapped) ─┬─ loopback, metadata ── one exact address
//!                                               ├─ this host's own ───── of the operator only
//!                                               ├─ special purpose ───── operator's range + entry
//!                                               └─ public ────────────── allowed
//! ```
//! A name is looked up before it is dialled, and every address is checked at both times: what a
//! name resolves to may change in between.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use emberd_proto::EgressReason;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Blocks of the IANA IPv4 special-purpose address registry, multicast, and 240.0.0.0/4.
const SPECIAL_V4: [(Ipv4Addr, u8); 20] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 52, 193, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(192, 175, 48, 0), 24),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
    (Ipv4Addr::BROADCAST, 32),
    // Azure's platform service, outside of every registry.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
];

/// Blocks of the IANA IPv6 special-purpose address registry within the global unicast space.
/// All other space is refused as a whole; the rest of the registry lies there.
const SPECIAL_V6: [(Ipv6Addr, u8); 5] = [
    // IETF protocol assignments: Teredo, benchmarking, overlay hashes, AS112 and others.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    // Documentation.
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    // 6to4, which embeds IPv4 addresses.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    // Direct delegation of AS112.
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48),
    // Documentation.
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Global unicast space (RFC 4291).
const GLOBAL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Well-known prefix of NAT64 (RFC 6052); an IPv4 address follows.
const NAT64: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// Loopback, link-local addresses, forms that hide an IPv4 address, and addresses where clouds
/// serve credentials to the machine that asks: ranges of the operator do not reach them.
const NEVER: [(IpAddr, u8); 13] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8),
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)), 32),
    // Alibaba Cloud, Oracle Cloud.
    (IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), 32),
    (IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)), 32),
    // IPv4 addresses in other forms: compatible, Teredo, 6to4.
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 96),
    (IpAddr::V6(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0)), 32),
    (IpAddr::V6(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0)), 16),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    // Amazon, Google, Scaleway.
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), 128),
    (IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), 128),
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)), 128),
];

/// Names under which clouds serve credentials.
const METADATA_NAMES: [&str; 6] = [
    "metadata",
    "metadata.goog",
    "metadata.google.internal",
    "metadata.azure.internal",
    "metadata.tencentyun.com",
    "instance-data.ec2.internal",
];

/// Whether a name is one under which clouds serve credentials.
pub(crate) fn is_metadata_name(name: &str) -> bool {
    METADATA_NAMES.contains(&name)
}

/// Kind of an address, as far as the address shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Public,
    Special,
    Never,
}

/// The guard of one destination: what the operator permits, and whether the entry says so too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard<'a> {
    /// Ranges of private addresses that the operator permits.
    pub private: &'a [IpNet],
    /// Whether the entry that allows the destination may reach them.
    pub entry_private: bool,
}

impl Guard<'_> {
    /// Returns the address to dial, without an embedding.
    ///
    /// # Errors
    /// Why the address is refused.
    pub fn check(&self, address: IpAddr) -> Result<IpAddr, EgressReason> {
        let bare = bare(address);
        match class(bare) {
            Class::Never if !self.permits_exactly(bare) => {
                return Err(EgressReason::PrivateAddress);
            }
            Class::Special if !self.permits(bare) => return Err(EgressReason::PrivateAddress),
            Class::Public | Class::Special | Class::Never => {}
        }
        if !self.permits_exactly(bare) {
            match is_own(bare) {
                Ok(false) => {}
                Ok(true) => return Err(EgressReason::OwnAddress),
                // What cannot be told is not dialled.
                Err(_) => return Err(EgressReason::ConnectFailed),
            }
        }
        Ok(if is_nat64(address) { address } else { bare })
    }

    fn permits(&self, address: IpAddr) -> bool {
        self.entry_private && self.private.iter().any(|range| range.contains(&address))
    }

    fn permits_exactly(&self, address: IpAddr) -> bool {
        self.entry_private && self.private.contains(&IpNet::from(address))
    }
}

/// The address that packets to `address` end at: an embedded IPv4 address, if there is one.
fn bare(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if is_nat64(address) => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        canonical => canonical,
    }
}

fn is_nat64(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6_in(NAT64, v6))
}

fn class(address: IpAddr) -> Class {
    let within = |(base, length)| {
        IpNet::new(base, length).is_ok_and(|range: IpNet| range.contains(&address))
    };
    if NEVER.into_iter().any(within) {
        return Class::Never;
    }
    let special = match address {
        IpAddr::V4(v4) => SPECIAL_V4.into_iter().any(|block| v4_in(block, v4)),
        IpAddr::V6(v6) => {
            !v6_in(GLOBAL_V6, v6) || SPECIAL_V6.into_iter().any(|block| v6_in(block, v6))
        }
    };
    if special { Class::Special } else { Class::Public }
}

fn v4_in((base, length): (Ipv4Addr, u8), address: Ipv4Addr) -> bool {
    Ipv4Net::new(base, length).is_ok_and(|range| range.contains(&address))
}

fn v6_in((base, length): (Ipv6Addr, u8), address: Ipv6Addr) -> bool {
    Ipv6Net::new(base, length).is_ok_and(|range| range.contains(&address))
}

/// Whether the address belongs to this host: the kernel would send from an address to itself, or
/// lets a socket be bound to it. Sockets tell, without a list and without sending anything.
///
/// # Errors
/// When there are no sockets to be had.
fn is_own(address: IpAddr) -> io::Result<bool> {
    let (any, foreign): (IpAddr, IpAddr) = match address {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        IpAddr::V6(_) => {
            (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into())
        }
    };
    let binds = |address: IpAddr| UdpSocket::bind((address, 0));
    let socket = binds(any)?;
    // Any port does. Without a route the dial fails, too.
    let source = socket.connect((address, 9)).and_then(|()| socket.local_addr());
    if source.is_ok_and(|source| source.ip() == address) {
        return Ok(true);
    }
    // A route may name another source (127.0.0.0/8 does). A host that may bind to foreign
    // addresses (`ip_nonlocal_bind`) tells nothing that way.
    match binds(address) {
        Ok(_) => Ok(binds(foreign).is_err()),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STRICT: Guard<'static> = Guard { private: &[], entry_private: true };

    fn refused(address: IpAddr) -> bool {
        STRICT.check(address).is_err()
    }

    fn v4(bits: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(bits)
    }

    /// Every way to write an IPv4 address in an IPv6 one.
    fn embeddings(address: Ipv4Addr) -> [Ipv6Addr; 5] {
        let bits = u128::from(address.to_bits());
        [
            address.to_ipv6_mapped(),
            Ipv6Addr::from_bits(bits),
            Ipv6Addr::from_bits((0x64_ff9b << 96) | bits),
            Ipv6Addr::from_bits((0x2002 << 112) | (bits << 80) | 1),
            // Teredo keeps the client's address inverted.
            Ipv6Addr::from_bits((0x2001 << 112) | (bits ^ 0xffff_ffff)),
        ]
    }

    fn in_a_block(address: Ipv4Addr) -> bool {
        SPECIAL_V4.into_iter().any(|block| v4_in(block, address))
    }

    #[test]
    fn the_ends_of_every_block_are_refused_and_their_neighbours_are_not() {
        for (base, length) in SPECIAL_V4 {
            let range = Ipv4Net::new(base, length).unwrap();
            let (first, last) = (range.network().to_bits(), range.broadcast().to_bits());
            for address in [first, last] {
                assert!(refused(v4(address).into()), "{}", v4(address));
                for embedded in embeddings(v4(address)) {
                    assert!(refused(embedded.into()), "{embedded}");
                }
            }
            for neighbour in [first.checked_sub(1), last.checked_add(1)].into_iter().flatten() {
                let neighbour = v4(neighbour);
                assert_eq!(refused(neighbour.into()), in_a_block(neighbour), "{neighbour}");
            }
        }
        for (base, length) in SPECIAL_V6 {
            let range = Ipv6Net::new(base, length).unwrap();
            let (first, last) = (range.network().to_bits(), range.broadcast().to_bits());
            for address in [first, last].map(Ipv6Addr::from_bits) {
                assert!(refused(address.into()), "{address}");
            }
            for neighbour in [first - 1, last + 1].map(Ipv6Addr::from_bits) {
                let special = SPECIAL_V6.into_iter().any(|block| v6_in(block, neighbour));
                let outside = !v6_in(GLOBAL_V6, neighbour);
                assert_eq!(refused(neighbour.into()), special || outside, "{neighbour}");
            }
        }
    }

    #[test]
    fn ranges_of_the_registries_are_refused() {
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "100:0:0:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2620:4f:8000::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            let refusal = STRICT.check(address.parse().unwrap());
            assert_eq!(refusal, Err(EgressReason::PrivateAddress), "{address}");
        }
        for address in ["1.1.1.1", "151.101.0.223", "2606:4700::1111", "2a04:4e42::223"] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(STRICT.check(address), Ok(address));
        }
        let nat64: IpAddr = "64:ff9b::101:101".parse().unwrap();
        assert_eq!(STRICT.check(nat64), Ok(nat64));
        let mapped: IpAddr = "::ffff:1.1.1.1".parse().unwrap();
        assert_eq!(STRICT.check(mapped), Ok("1.1.1.1".parse().unwrap()));
    }

    #[test]
    fn private_ranges_need_the_operator_and_the_entry() {
        let private: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8", "0.0.0.0/0", "::/0"]
            .map(|range| range.parse().unwrap())
            .into();
        let both = Guard { private: &private, entry_private: true };
        let operator = Guard { private: &private, entry_private: false };
        for address in ["10.1.2.3", "fd12::1", "::ffff:10.1.2.3", "64:ff9b::a01:203"] {
            let address: IpAddr = address.parse().unwrap();
            assert!(both.check(address).is_ok(), "{address}");
            assert!(operator.check(address).is_err(), "{address}");
        }
        // Ranges, even of everything, never reach these.
        for address in ["127.0.0.1", "::1", "169.254.169.254", "fd00:ec2::254", "fe80::1", "::"] {
            assert!(both.check(address.parse().unwrap()).is_err(), "{address}");
        }
        let exact: Vec<IpNet> = vec!["127.0.0.1/32".parse().unwrap()];
        let exact = Guard { private: &exact, entry_private: true };
        assert!(exact.check("127.0.0.1".parse().unwrap()).is_ok());
        assert!(exact.check("127.0.0.2".parse().unwrap()).is_err());
    }

    #[test]
    fn own_addresses_are_told_without_a_list() {
        for (address, expect) in [("127.0.0.1", true), ("127.1.2.3", true), ("192.0.2.1", false)] {
            assert_eq!(is_own(address.parse().unwrap()).unwrap(), expect, "{address}");
        }
    }

    proptest! {
        #[test]
        fn an_embedded_address_is_at_most_as_free_as_itself(bits: u32) {
            let address = v4(bits);
            let itself = STRICT.check(address.into());
            for embedded in embeddings(address) {
                if let Ok(dialled) = STRICT.check(embedded.into()) {
                    prop_assert_eq!(itself, Ok(address.into()));
                    let forms = [IpAddr::from(address), IpAddr::from(embedded)];
                    prop_assert!(forms.contains(&dialled));
                }
            }
            prop_assert_eq!(itself.is_err(), in_a_block(address));
        }
    }
}
