//! Questions of programs, and answers to them, as DNS messages (RFC 1035). No I/O happens here.
//!
//! A program may send anything, so what a message may hold is limited before it is parsed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use emberd_proto::egress::{EGRESS_LABEL_BYTES_MAX, EGRESS_NAME_BYTES_MAX, EgressFamily};
use simple_dns::rdata::{A, AAAA, OPT, OPTCode, PTR, RData};
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE,
};

/// Largest question, in bytes: a name, its type, and options.
pub const QUERY_BYTES_MAX: usize = 4096;

/// Size of a message's header, in bytes.
const HEADER_BYTES: usize = 12;

/// Most records besides the question in a query: its options and a signature.
const ADDITIONAL_MAX: u16 = 2;

/// Largest answer by datagram to a program that says nothing of its size, in bytes.
const DATAGRAM_BYTES: u16 = 512;

/// Largest answer by datagram, in bytes (the size that DNS flag day 2020 recommends).
const DATAGRAM_BYTES_MAX: u16 = 1232;

/// Option of an extended error, and the code in it for a name that a policy blocks (RFC 8914).
const EXTENDED_ERROR: u16 = 15;
/// "Blocked".
const BLOCKED: u16 = 15;

/// Seconds for which a program may keep what never changes.
const LOCAL_TTL_S: u32 = 60;

/// A program's query.
#[derive(Debug)]
pub struct Query<'a> {
    packet: Packet<'a>,
}

/// How a query came, and its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// In a datagram, which bounds the answer.
    Datagram,
    /// Over a connection.
    Connection,
}

/// The question of a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// The addresses of a name, in lower case and without a final dot.
    Addresses(String, EgressFamily),
    /// The name of an address.
    Name(IpAddr),
    /// A question with a known answer, which the host is not asked for.
    Known(Answer),
}

/// An answer to a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Addresses, which may be none, and for how many seconds they may be kept.
    Addresses(Vec<IpAddr>, u32),
    /// The name of an address.
    Name(String),
    /// The name exists, and has nothing of that type.
    Nothing,
    /// The name does not exist.
    NoSuchName,
    /// The policy blocks the name.
    Blocked,
    /// The lookup failed, and may be tried again.
    Failed,
}

impl<'a> Query<'a> {
    /// Parses a query.
    ///
    /// # Errors
    /// The answer to something that is not one, unless that is too short for any.
    pub fn parse(message: &'a [u8]) -> Result<Self, Option<Vec<u8>>> {
        let Some(header) = message.first_chunk::<HEADER_BYTES>() else { return Err(None) };
        let [_, _, flags, _, counts @ ..] = *header;
        if flags & 0x80 != 0 {
            // Two servers that answer each other's answers would never end.
            return Err(None);
        }
        if flags >> 3 & 0xf != 0 {
            return Err(Some(refusal(message, RCODE::NotImplemented)));
        }
        let [q0, q1, a0, a1, n0, n1, r0, r1] = counts;
        let counts = [[q0, q1], [a0, a1], [n0, n1], [r0, r1]].map(u16::from_be_bytes);
        let malformed = || Some(refusal(message, RCODE::FormatError));
        let [1, 0, 0, 0..=ADDITIONAL_MAX] = counts else { return Err(malformed()) };
        if message.len() > QUERY_BYTES_MAX {
            return Err(malformed());
        }
        match Packet::parse(message) {
            Ok(packet) => Ok(Self { packet }),
            // A type that the parser does not know: names have none of that.
            Err(simple_dns::SimpleDnsError::InvalidQType(_)) => {
                Err(Some(refusal(message, RCODE::NoError)))
            }
            Err(_) => Err(malformed()),
        }
    }

    /// Returns what the program asks.
    pub fn asked(&self) -> Asked {
        let Question { qname, qtype, qclass, .. } = self.question();
        let family = match (qtype, qclass) {
            (QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN)) => EgressFamily::V4,
            (QTYPE::TYPE(TYPE::AAAA), QCLASS::CLASS(CLASS::IN)) => EgressFamily::V6,
            (QTYPE::TYPE(TYPE::PTR), QCLASS::CLASS(CLASS::IN)) => {
                return address_of(qname).map_or(Asked::Known(Answer::Nothing), Asked::Name);
            }
            // Among others SVCB and HTTPS: a program gets no keys to hide a server's name with.
            _ => return Asked::Known(Answer::Nothing),
        };
        match text(qname) {
            None => Asked::Known(Answer::NoSuchName),
            Some(name) if name.is_empty() => Asked::Known(Answer::Nothing),
            Some(name) if is_local(&name) => {
                let loopback = match family {
                    EgressFamily::V4 => Ipv4Addr::LOCALHOST.into(),
                    EgressFamily::V6 => Ipv6Addr::LOCALHOST.into(),
                };
                Asked::Known(Answer::Addresses(vec![loopback], LOCAL_TTL_S))
            }
            Some(name) => Asked::Addresses(name, family),
        }
    }

    /// Encodes `answer`, in a datagram with as many addresses as the program takes.
    pub fn encode(&self, answer: &Answer, over: Over) -> Vec<u8> {
        let limit = self.packet.opt().map_or(DATAGRAM_BYTES, |opt| opt.udp_packet_size);
        let limit = usize::from(limit.clamp(DATAGRAM_BYTES, DATAGRAM_BYTES_MAX));
        let mut reply = self.reply(answer);
        loop {
            let bytes = reply.build_bytes_vec_compressed().expect("writing to memory succeeds");
            let fits = over == Over::Connection || bytes.len() <= limit;
            if fits || reply.answers.pop().is_none() {
                return bytes;
            }
        }
    }

    fn question(&self) -> &Question<'a> {
        &self.packet.questions[0]
    }

    fn reply<'r>(&'r self, answer: &'r Answer) -> Packet<'r> {
        let mut reply = Packet::new_reply(self.packet.id());
        reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
        if self.packet.has_flags(PacketFlag::RECURSION_DESIRED) {
            reply.set_flags(PacketFlag::RECURSION_DESIRED);
        }
        let question = self.question();
        reply.questions.push(question.clone());
        let mut push = |ttl_s, data| {
            let owner = question.qname.clone();
            reply.answers.push(ResourceRecord::new(owner, CLASS::IN, ttl_s, data));
        };
        match answer {
            Answer::Addresses(addresses, ttl_s) => {
                for address in addresses {
                    push(
                        *ttl_s,
                        match *address {
                            IpAddr::V4(v4) => RData::A(A::from(v4)),
                            IpAddr::V6(v6) => RData::AAAA(AAAA::from(v6)),
                        },
                    );
                }
            }
            Answer::Name(name) => {
                push(LOCAL_TTL_S, RData::PTR(PTR(Name::new_unchecked(name))));
            }
            Answer::Nothing | Answer::NoSuchName | Answer::Blocked | Answer::Failed => {}
        }
        *reply.rcode_mut() = match answer {
            Answer::Addresses(..) | Answer::Name(_) | Answer::Nothing => RCODE::NoError,
            Answer::NoSuchName | Answer::Blocked => RCODE::NameError,
            Answer::Failed => RCODE::ServerFailure,
        };
        if self.packet.opt().is_some() {
            let code = BLOCKED.to_be_bytes().to_vec().into();
            let why = OPTCode { code: EXTENDED_ERROR, data: code };
            let opt_codes = if *answer == Answer::Blocked { vec![why] } else { Vec::new() };
            *reply.opt_mut() =
                Some(OPT { opt_codes, udp_packet_size: DATAGRAM_BYTES_MAX, version: 0 });
        }
        reply
    }
}

/// An answer without records to `message`, which has a header and may be no query. It repeats the
/// question if there is one.
fn refusal(message: &[u8], rcode: RCODE) -> Vec<u8> {
    let question = question_end(message).and_then(|end| message.get(HEADER_BYTES..end));
    let mut reply = message[..2].to_vec();
    let code = rcode as u8;
    // An answer, to the same operation, with the same wish for recursion, which is available.
    reply.extend([0x80 | message[2] & 0x79, 0x80 | code]);
    reply.extend([0, u8::from(question.is_some()), 0, 0, 0, 0, 0, 0]);
    reply.extend(question.unwrap_or_default());
    reply
}

/// Where the question of `message` ends, if it has one in plain form.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER_BYTES;
    loop {
        let label = usize::from(*message.get(at)?);
        if label > EGRESS_LABEL_BYTES_MAX || at - HEADER_BYTES > EGRESS_NAME_BYTES_MAX {
            return None;
        }
        at += 1 + label;
        if label == 0 {
            let type_and_class = 4;
            return Some(at + type_and_class).filter(|end| *end <= message.len());
        }
    }
}

/// The name as text; `None` if no host has such a name.
fn text(name: &Name<'_>) -> Option<String> {
    let mut text = String::new();
    for label in name.as_bytes() {
        let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'.' | b'\\');
        if label.is_empty() || label.len() > EGRESS_LABEL_BYTES_MAX || !label.iter().all(plain) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    (text.len() <= EGRESS_NAME_BYTES_MAX).then_some(text)
}

/// Returns whether a name means the guest itself (RFC 6761).
fn is_local(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// The address that a name under `in-addr.arpa` or `ip6.arpa` stands for.
fn address_of(name: &Name<'_>) -> Option<IpAddr> {
    let name = text(name)?;
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let parts: Vec<_> = digits.split('.').rev().collect();
        return parts.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut number = 0;
    let mut count = 0;
    for digit in digits.split('.').rev() {
        let one_digit = digit.len() == 1;
        number =
            number << 4 | u128::from(u8::from_str_radix(digit, 16).ok().filter(|_| one_digit)?);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(number).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for `name`, whose labels are divided by `/`.
    fn query(name: &str, kind: u16, with_options: bool) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(with_options)];
        for label in name.split('/').filter(|label| !label.is_empty()) {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        if with_options {
            message.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
        }
        message
    }

    fn asked(name: &str, kind: u16) -> Asked {
        Query::parse(&query(name, kind, false)).unwrap().asked()
    }

    #[test]
    fn what_is_asked() {
        let addresses = |name: &str, family| Asked::Addresses(name.to_owned(), family);
        assert_eq!(asked("WWW/Example", 1), addresses("www.example", EgressFamily::V4));
        assert_eq!(asked("www/example", 28), addresses("www.example", EgressFamily::V6));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let local = |address| Asked::Known(Answer::Addresses(vec![ip(address)], LOCAL_TTL_S));
        assert_eq!(asked("localhost", 1), local("127.0.0.1"));
        assert_eq!(asked("a/LocalHost", 28), local("::1"));
        assert_eq!(asked("1/2/0/192/in-addr/arpa", 12), Asked::Name(ip("192.0.2.1")));
        let v6 = format!("1{}/8/b/d/0/1/0/0/2/ip6/arpa", "/0".repeat(23));
        assert_eq!(asked(&v6, 12), Asked::Name(ip("2001:db8::1")));
        let nothing = Asked::Known(Answer::Nothing);
        for (name, kind) in [
            ("", 1),
            ("www/example", 16),
            ("www/example", 64),
            ("www/example", 65),
            ("www/example", 255),
            ("2/0/192/in-addr/arpa", 12),
            ("12/ip6/arpa", 12),
            ("www/example", 12),
        ] {
            assert_eq!(asked(name, kind), nothing, "{name} {kind}");
        }
        for name in ["a.b/example", "a b", "a\\b", "\u{e9}", "nul\0"] {
            assert_eq!(asked(name, 1), Asked::Known(Answer::NoSuchName), "{name}");
        }
    }

    #[test]
    fn blocked_name_does_not_exist_and_the_answer_says_why() {
        let message = query("www/example", 1, true);
        let reply = Query::parse(&message).unwrap().encode(&Answer::Blocked, Over::Datagram);
        let reply = Packet::parse(&reply).unwrap();
        assert_eq!((reply.id(), reply.rcode()), (0xabcd, RCODE::NameError));
        let [why] = &reply.opt().unwrap().opt_codes[..] else { panic!("one option") };
        assert_eq!((why.code, &*why.data), (15, &[0, 15][..]));
        // A program that knows no options gets none.
        let message = query("www/example", 1, false);
        let reply = Query::parse(&message).unwrap().encode(&Answer::Blocked, Over::Datagram);
        assert_eq!(Packet::parse(&reply).unwrap().opt(), None);
    }

    #[test]
    fn datagram_has_as_many_addresses_as_it_may() {
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63)].join("/");
        let addresses: Vec<_> =
            (0..16).map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n).into()).collect();
        let answer = Answer::Addresses(addresses, 5);
        for (with_options, expect) in [(false, 10), (true, 16)] {
            let message = query(&long, 28, with_options);
            let query = Query::parse(&message).unwrap();
            let reply = query.encode(&answer, Over::Datagram);
            assert_eq!(Packet::parse(&reply).unwrap().answers.len(), expect);
            assert_eq!(
                Packet::parse(&query.encode(&answer, Over::Connection)).unwrap().answers.len(),
                16
            );
        }
    }

    #[test]
    fn what_is_no_query_gets_an_error_or_nothing() {
        let whole = query("www/example", 1, true);
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut message = whole.clone();
            change(&mut message);
            let answer = Query::parse(&message).expect_err("no query");
            answer.map(|bytes| Packet::parse(&bytes).unwrap().rcode())
        };
        assert_eq!(refused(&|message| message[2] |= 0x80), None, "an answer");
        assert_eq!(refused(&|message| message.truncate(11)), None, "no header");
        assert_eq!(refused(&|message| message[2] |= 0x28), Some(RCODE::NotImplemented));
        for (at, count) in [(5, 0), (5, 2), (4, 0xff), (7, 1), (9, 1), (11, 3), (10, 0xff)] {
            let code = refused(&|message| message[at] = count);
            assert_eq!(code, Some(RCODE::FormatError), "count {count} at {at}");
        }
        for end in HEADER_BYTES..whole.len() {
            let code = refused(&|message| message.truncate(end));
            assert_eq!(code, Some(RCODE::FormatError), "cut at {end}");
        }
        let large = refused(&|message| message.resize(QUERY_BYTES_MAX + 1, 0));
        assert_eq!(large, Some(RCODE::FormatError));
        let loops = refused(&|message| message[12..14].copy_from_slice(&[0xc0, 12]));
        assert_eq!(loops, Some(RCODE::FormatError), "a name that refers to itself");
        let unknown = query("www/example", 0xfff0, false);
        let answer = Query::parse(&unknown).unwrap_err().unwrap();
        assert_eq!(answer[HEADER_BYTES..], unknown[HEADER_BYTES..]);
        assert_eq!(answer[3] & 0xf, 0, "the name has nothing of that type");
    }

    #[test]
    fn noise_never_panics() {
        let whole = query("www/example", 1, true);
        let mut state = 1_u32;
        for _ in 0..20_000 {
            let mut message = whole.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let [at, byte, ..] = state.to_le_bytes();
                let place = usize::from(at ^ state.to_le_bytes()[3]) % message.len();
                message[place] = byte ^ state.to_le_bytes()[2];
            }
            if let Ok(query) = Query::parse(&message) {
                query.asked();
                for answer in [Answer::Blocked, Answer::Name("a.example".to_owned())] {
                    assert!(
                        query.encode(&answer, Over::Datagram).len() <= DATAGRAM_BYTES_MAX.into()
                    );
                }
            }
        }
    }
}
