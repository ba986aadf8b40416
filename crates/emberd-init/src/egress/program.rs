//! The BPF program that decides which socket gets a connection or a datagram.
//!
//! ```text
//! to 127/8, ::/8 of links, an address of the guest ─▶ the guest's own sockets
//! to 198.18.0.1:53, or TCP and UDP port 53 of any other address ─▶ the resolver
//! TCP to any other address ─▶ the relay
//! anything else ─▶ the guest's own sockets, of which there are none: refused
//! ```
//! Instructions are those of the kernel's `Documentation/bpf/standardization/instruction-set.rst`,
//! fields those of `struct bpf_sk_lookup`.

use std::collections::HashMap;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use emberd_proto::egress::EGRESS_RESOLVER;
use nix::libc;

/// Port of name servers.
pub const DNS_PORT: u16 = 53;

/// Places of the sockets in their map; those of IPv6 follow those of IPv4.
pub const RELAY: u32 = 0;
/// The resolver's listener.
pub const RESOLVER_TCP: u32 = 1;
/// The resolver's socket for datagrams.
pub const RESOLVER_UDP: u32 = 2;
/// Number of sockets of one family.
pub const SOCKETS: u32 = 3;

// Fields of the program's argument.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;
const LOCAL_IP6: i16 = 44;
const LOCAL_PORT: i16 = 60;

// Functions of the kernel.
const MAP_LOOKUP: i32 = 1;
const RELEASE: i32 = 86;
const ASSIGN: i32 = 124;

/// Answer that leaves the choice to the kernel, unless a socket was assigned.
const PASS: i32 = 1;

/// Places on the stack: the address as 16 bytes, and the place of a socket.
const ADDRESS: i16 = -16;
const PLACE: i16 = -20;

// Operations.
const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const STORE_VALUE: u8 = 0x62;
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
const ADD: u8 = 0x07;
const AND: u8 = 0x57;
const JUMP: u8 = 0x05;
const JUMP_IF: u8 = 0x15;
const JUMP_UNLESS: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const LOAD_MAP: u8 = 0x18;

/// Mark of an operand that is a map's descriptor.
const MAP_FD: u8 = 1;

/// Register of the stack's end.
const FRAME: u8 = 10;

/// A program under construction. Registers: 6 the argument, 7 the place of the socket, 8 the
/// port, 9 the protocol.
#[derive(Default)]
struct Program {
    code: Vec<u64>,
    labels: HashMap<&'static str, usize>,
    jumps: Vec<(usize, &'static str)>,
}

impl Program {
    fn put(&mut self, operation: u8, to: u8, from: u8, offset: i16, value: i32) -> &mut Self {
        let registers = u64::from(to | from << 4) << 8;
        let offset = u64::from(offset.cast_unsigned()) << 16;
        let value = u64::from(value.cast_unsigned()) << 32;
        self.code.push(u64::from(operation) | registers | offset | value);
        self
    }

    fn load(&mut self, to: u8, field: i16) -> &mut Self {
        self.put(LOAD, to, 6, field, 0)
    }

    fn store(&mut self, place: i16, from: u8) -> &mut Self {
        self.put(STORE, FRAME, from, place, 0)
    }

    fn copy(&mut self, to: u8, from: u8) -> &mut Self {
        self.put(MOVE, to, from, 0, 0)
    }

    fn jump(&mut self, operation: u8, register: u8, value: i32, to: &'static str) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.put(operation, register, 0, 0, value)
    }

    fn label(&mut self, name: &'static str) -> &mut Self {
        self.labels.insert(name, self.code.len());
        self
    }

    /// Looks up the key at `place` of the stack; register 0 has what is found, or 0.
    fn look_up(&mut self, map: BorrowedFd<'_>, place: i16) -> &mut Self {
        self.put(LOAD_MAP, 1, MAP_FD, 0, map.as_raw_fd()).put(0, 0, 0, 0, 0);
        self.copy(2, FRAME).put(ADD, 2, 0, 0, place.into()).call(MAP_LOOKUP)
    }

    fn call(&mut self, function: i32) -> &mut Self {
        self.put(CALL, 0, 0, 0, function)
    }

    /// Returns the instructions, with every jump led to its label.
    fn finish(mut self) -> Vec<u64> {
        for (at, label) in self.jumps {
            let distance = i16::try_from(self.labels[label] - at - 1).expect("programs are short");
            self.code[at] |= u64::from(distance.cast_unsigned()) << 16;
        }
        self.code
    }
}

/// Returns the program. `own` has the guest's addresses as its keys, `sockets` the agent's
/// sockets. Connections over IPv6 are left to the kernel unless `v6`: a kernel without IPv6
/// refuses a program that reads an address of it.
pub fn program(own: BorrowedFd<'_>, sockets: BorrowedFd<'_>, v6: bool) -> Vec<u64> {
    let mut program = Program::default();
    let resolver = i32::from_le_bytes(EGRESS_RESOLVER.octets());
    let dns = i32::from(DNS_PORT);
    program.copy(6, 1).put(SET, 7, 0, 0, 0).load(8, LOCAL_PORT).load(9, PROTOCOL).load(2, FAMILY);
    if v6 {
        program.jump(JUMP_IF, 2, libc::AF_INET6, "v6");
    }
    program.jump(JUMP_UNLESS, 2, libc::AF_INET, "pass");

    // An IPv4 address has the form ::ffff:a.b.c.d there.
    program.load(3, LOCAL_IP4).copy(4, 3).put(AND, 4, 0, 0, 0xff).jump(JUMP_IF, 4, 127, "pass");
    program.put(STORE_VALUE, FRAME, 0, ADDRESS, 0).put(STORE_VALUE, FRAME, 0, ADDRESS + 4, 0);
    program.put(STORE_VALUE, FRAME, 0, ADDRESS + 8, i32::from_le_bytes([0, 0, 0xff, 0xff]));
    program.store(ADDRESS + 12, 3).jump(JUMP_UNLESS, 3, resolver, "own");
    program.jump(JUMP_IF, 8, dns, "pick").jump(JUMP, 0, 0, "own");

    if v6 {
        // Addresses of one link, ff00::/8 and fe80::/10, mean something on a link only.
        let v6_places = i32::try_from(SOCKETS).expect("a small number");
        program.label("v6").put(SET, 7, 0, 0, v6_places).load(3, LOCAL_IP6).store(ADDRESS, 3);
        program.copy(4, 3).put(AND, 4, 0, 0, 0xff).jump(JUMP_IF, 4, 0xff, "pass");
        program.copy(4, 3).put(AND, 4, 0, 0, 0xc0ff).jump(JUMP_IF, 4, 0x80fe, "pass");
        for word in [4, 8, 12] {
            program.load(3, LOCAL_IP6 + word).store(ADDRESS + word, 3);
        }
    }

    program.label("own").look_up(own, ADDRESS).jump(JUMP_UNLESS, 0, 0, "pass");

    program.label("pick").jump(JUMP_IF, 9, libc::IPPROTO_UDP, "datagram");
    program.jump(JUMP_UNLESS, 9, libc::IPPROTO_TCP, "pass").jump(JUMP_UNLESS, 8, dns, "find");
    program.put(ADD, 7, 0, 0, RESOLVER_TCP.cast_signed()).jump(JUMP, 0, 0, "find");
    program.label("datagram").jump(JUMP_UNLESS, 8, dns, "pass");
    program.put(ADD, 7, 0, 0, RESOLVER_UDP.cast_signed());

    program.label("find").store(PLACE, 7).look_up(sockets, PLACE).jump(JUMP_IF, 0, 0, "pass");
    program.copy(7, 0).copy(1, 6).copy(2, 7).put(SET, 3, 0, 0, 0).call(ASSIGN);
    program.copy(1, 7).call(RELEASE);
    program.label("pass").put(SET, 0, 0, 0, PASS).put(EXIT, 0, 0, 0, 0);
    program.finish()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::AsFd as _;

    use super::*;

    /// Instructions of the program that read a word of the IPv6 address.
    fn reads_of_ipv6(v6: bool) -> usize {
        let map = io::stdin();
        let words = [0, 4, 8, 12].map(|word| (LOCAL_IP6 + word).cast_unsigned());
        let reads = |instruction: &&u64| {
            let [operation, _, low, high, ..] = instruction.to_le_bytes();
            operation == LOAD && words.contains(&u16::from_le_bytes([low, high]))
        };
        program(map.as_fd(), map.as_fd(), v6).iter().filter(reads).count()
    }

    #[test]
    fn ipv6_addresses_are_read_only_where_there_are_some() {
        assert_eq!((reads_of_ipv6(true), reads_of_ipv6(false)), (4, 0));
    }
}
