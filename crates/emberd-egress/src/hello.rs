//! The first message of a TLS connection, for the name of its server.
//!
//! Only what is needed is read (RFC 8446 §4.1.2, RFC 6066 §3), and only where the message lies in
//! one record: a message that is spread over several could be put together in two ways.

use crate::name::Name;

/// Bytes of a record's header: type, version in two, length in two (RFC 8446 §5.1).
const RECORD_HEADER_BYTES: usize = 5;

/// Largest content of a record (RFC 8446 §5.1); with its header, the most that is read.
pub(crate) const RECORD_BYTES_MAX: usize = 1 << 14;

/// First byte of a record that holds handshake messages.
pub(crate) const HANDSHAKE: u8 = 0x16;

/// Type of the first handshake message.
const CLIENT_HELLO: u8 = 1;

/// Types of extensions: the server's name, and encrypted names (ECH and its forerunner).
const SERVER_NAME: u16 = 0;
const ENCRYPTED_HELLO: u16 = 0xfe0d;
const ENCRYPTED_SNI: u16 = 0xffce;

/// Type of a name in the extension: a host name.
const HOST_NAME: u8 = 0;

/// The first message of a TLS connection, as far as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The name of the server.
    pub server: ServerName,
    /// Whether the message has an encrypted part that may name another server.
    pub is_encrypted: bool,
}

/// The server that a TLS connection names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerName {
    /// None.
    Missing,
    /// This one.
    Name(Name),
    /// Something that is not one host name, as far as it can be shown.
    Invalid(String),
}

/// The beginning of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// A whole message.
    Whole(ClientHello),
    /// The beginning of one.
    Partial,
    /// A message that is spread over several records.
    Fragmented,
    /// Something else.
    Other,
}

/// Reads the first message of a TLS connection; `bytes` begin with the connection.
pub fn read(bytes: &[u8]) -> Hello {
    let header = &bytes[..bytes.len().min(RECORD_HEADER_BYTES)];
    // Old versions of TLS have 3 as their major version, and so has every later one here.
    let is_tls = [HANDSHAKE, 3].iter().zip(header).all(|(expected, byte)| expected == byte);
    if !is_tls {
        return Hello::Other;
    }
    let &[_, _, _, l0, l1] = header else { return Hello::Partial };
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if !(4..=RECORD_BYTES_MAX).contains(&length) {
        return Hello::Other;
    }
    let content = &bytes[RECORD_HEADER_BYTES..];
    if let Some(kind) = content.first()
        && *kind != CLIENT_HELLO
    {
        return Hello::Other;
    }
    let Some(&[_, m0, m1, m2]) = content.first_chunk::<4>() else { return Hello::Partial };
    let message_bytes = u32::from_be_bytes([0, m0, m1, m2]) as usize;
    if message_bytes > length - 4 {
        return Hello::Fragmented;
    }
    match content.get(4..4 + message_bytes) {
        Some(message) => hello(message).map_or(Hello::Other, Hello::Whole),
        None => Hello::Partial,
    }
}

/// Reads the message itself; none if it is malformed.
fn hello(message: &[u8]) -> Option<ClientHello> {
    let mut rest = Reader(message);
    // Version and random.
    rest.take(2 + 32)?;
    let _session = rest.vector8()?;
    let _ciphers = rest.vector16()?;
    let _compressions = rest.vector8()?;
    let mut hello = ClientHello { server: ServerName::Missing, is_encrypted: false };
    if rest.0.is_empty() {
        // A message of TLS 1.2 without extensions.
        return Some(hello);
    }
    let mut extensions = Reader(rest.vector16()?);
    if !rest.0.is_empty() {
        return None;
    }
    let mut seen_name = false;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.vector16()?;
        match kind {
            SERVER_NAME if seen_name => return None,
            SERVER_NAME => {
                seen_name = true;
                hello.server = server_name(content)?;
            }
            ENCRYPTED_HELLO | ENCRYPTED_SNI => hello.is_encrypted = true,
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(content: &[u8]) -> Option<ServerName> {
    let mut rest = Reader(content);
    let mut names = Reader(rest.vector16()?);
    let kind = names.take(1)?[0];
    let name = names.vector16()?;
    let text = String::from_utf8_lossy(name);
    if kind != HOST_NAME || !names.0.is_empty() || !rest.0.is_empty() {
        return Some(ServerName::Invalid(text.into_owned()));
    }
    Some(match Name::parse(&text) {
        Ok(name) => ServerName::Name(name),
        Err(_) => ServerName::Invalid(text.into_owned()),
    })
}

/// Bytes that are not read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Bytes behind their length in one byte.
    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    /// Bytes behind their length in two bytes.
    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector16(content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap();
        [&length.to_be_bytes()[..], content].concat()
    }

    fn sni(names: &[&[u8]]) -> Vec<u8> {
        let names: Vec<_> =
            names.iter().map(|name| [&[HOST_NAME][..], &vector16(name)].concat()).collect();
        let extension = vector16(&vector16(&names.concat()));
        [&SERVER_NAME.to_be_bytes()[..], &extension].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector16(content)].concat()
    }

    /// A message in one record.
    fn record(extensions: &[u8]) -> Vec<u8> {
        let fixed = [&[3, 3][..], &[7; 32], &[0], &vector16(&[0x13, 1]), &[1, 0]].concat();
        let message = [&fixed[..], &vector16(extensions)].concat();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let message = [&[CLIENT_HELLO][..], &length[1..], &message].concat();
        [&[HANDSHAKE, 3, 1][..], &vector16(&message)].concat()
    }

    /// A message that names a server.
    pub fn naming(name: &str) -> Vec<u8> {
        record(&[extension(43, &[2, 3, 4]), sni(&[name.as_bytes()])].concat())
    }

    /// A message with an encrypted part.
    pub fn encrypted(name: &str) -> Vec<u8> {
        record(&[sni(&[name.as_bytes()]), extension(ENCRYPTED_HELLO, &[0; 32])].concat())
    }

    fn server(bytes: &[u8]) -> Option<ServerName> {
        match read(bytes) {
            Hello::Whole(hello) => Some(hello.server),
            _ => None,
        }
    }

    fn name(text: &str) -> ServerName {
        ServerName::Name(Name::parse(text).unwrap())
    }

    #[test]
    fn the_name_is_read_and_compared_in_one_form() {
        assert_eq!(server(&naming("a.example")), Some(name("a.example")));
        assert_eq!(server(&naming("A.Example.")), Some(name("a.example")));
        assert_eq!(server(&record(&[])), Some(ServerName::Missing));
        for text in ["a\0.example", "127.0.0.1", "", "a b", "bücher.example"] {
            let read = server(&naming(text));
            assert_eq!(read, Some(ServerName::Invalid(text.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn several_names_are_none() {
        let two = record(&sni(&[b"a.example", b"b.example"]));
        assert!(matches!(server(&two), Some(ServerName::Invalid(_))));
        let twice = record(&[sni(&[b"a.example"]), sni(&[b"b.example"])].concat());
        assert_eq!(read(&twice), Hello::Other);
    }

    #[test]
    fn encrypted_names_are_seen() {
        let is_encrypted = |bytes: &[u8]| {
            matches!(read(bytes), Hello::Whole(ClientHello { is_encrypted: true, .. }))
        };
        assert!(is_encrypted(&encrypted("a.example")));
        assert!(is_encrypted(&record(&extension(ENCRYPTED_SNI, &[]))));
        assert!(!is_encrypted(&naming("a.example")));
    }

    #[test]
    fn a_message_may_come_in_pieces_and_in_one_record_only() {
        let whole = naming("a.example");
        for bytes in 0..whole.len() {
            assert_eq!(read(&whole[..bytes]), Hello::Partial, "{bytes}");
        }
        let message = &whole[RECORD_HEADER_BYTES..];
        let (one, other) = message.split_at(20);
        let records = [one, other].map(|part| [&[HANDSHAKE, 3, 1][..], &vector16(part)].concat());
        assert_eq!(read(&records.concat()), Hello::Fragmented);
        // What follows the message is not looked at.
        assert_eq!(server(&[&whole[..], b"more"].concat()), Some(name("a.example")));
    }

    #[test]
    fn other_bytes_are_something_else() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            &[HANDSHAKE, 2],
            &[HANDSHAKE, 3, 1, 0xff, 0xff],
            &[HANDSHAKE, 3, 1, 0, 3],
            // A server's answer.
            &[HANDSHAKE, 3, 3, 0, 10, 2],
        ] {
            assert_eq!(read(bytes), Hello::Other, "{bytes:?}");
        }
        assert_eq!(read(b""), Hello::Partial);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read(&bytes);
            read(&[&[HANDSHAKE, 3, 1][..], &bytes].concat());
        }

        #[test]
        fn a_message_with_a_wrong_byte_is_read_or_refused(at in 0_usize..200, byte: u8) {
            let mut bytes = naming("a.example");
            let at = at % bytes.len();
            bytes[at] = byte;
            read(&bytes);
        }
    }
}
