//! Entries of a policy: `HOST[:PORTS]`, with options.
//!
//! ```text
//! api.example.com          a name, on ports 80 and 443
//! *.example.com:443        every name below it, but not itself
//! *:*                      everything public
//! 10.20.0.0/16:5432        addresses
//! [2001:db8::/32]:8000-8100,9000
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use emberd_proto::policy::{EgressProtocol, EntryFields, EntrySpec};
use ipnet::{IpNet, Ipv6Net};

use crate::name::{Name, NameError};
use crate::ports::{PortSet, PortsError};
use crate::requests::Requests;

/// Longest entry, in bytes: a wildcard of the longest name, and a list of ports.
pub const ENTRY_BYTES_MAX: usize = 640;

/// Most methods, and most paths, of one entry.
pub const ENTRY_OPTIONS_MAX: usize = 64;

/// Longest method, and longest path, in bytes.
const METHOD_BYTES_MAX: usize = 32;
const PATH_BYTES_MAX: usize = 1024;

/// IPv4 addresses in the form of IPv6.
const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);

/// Destinations, and what connections to them may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    host: Host,
    ports: Option<PortSet>,
    options: EntryOptions,
}

/// Options of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EntryOptions {
    /// How the content of connections is checked.
    pub protocol: EgressProtocol,
    /// Whether TLS connections may hide their server's name.
    pub ech: bool,
    /// Whether the host may have a private address.
    pub private: bool,
    /// The HTTP requests that are allowed.
    pub requests: Requests,
}

impl EntryOptions {
    /// Adds the options of another entry: together they permit what either does.
    pub fn add(&mut self, other: &Self) {
        self.protocol = self.protocol.max(other.protocol);
        self.ech |= other.ech;
        self.private |= other.private;
        self.requests.add(&other.requests);
    }
}

/// The hosts of an entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// `*`: everything public, by name or by address.
    Any,
    /// One name.
    Name(Name),
    /// `*.NAME`: every name below it, at any depth.
    Below(Name),
    /// Addresses. IPv4 addresses have their own form only.
    Net(IpNet),
}

/// A text that is not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The text is too long.
    #[error("an entry has at most {ENTRY_BYTES_MAX} bytes")]
    TooLong,
    /// The text is a URL.
    #[error("write the host alone, without `//` and what is around it: api.example.com:443")]
    Url,
    /// Brackets or colons are in the wrong places.
    #[error("IPv6 addresses with ports are written [2001:db8::1]:443")]
    Brackets,
    /// A star is not the first label.
    #[error("`*` stands alone, or for everything before a name: *.example.com")]
    Star,
    /// The host is not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The host is a range of addresses with bits beyond its prefix.
    #[error("the range begins at {0}")]
    Range(IpNet),
    /// The host is an IPv4 address in the form of IPv6.
    #[error("write an IPv4 address as 192.0.2.1")]
    Mapped,
    /// The ports are none.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// An option cannot be met.
    #[error("{0}")]
    Option(&'static str),
}

impl Entry {
    /// Parses an entry without options.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn parse(text: &str) -> Result<Self, EntryError> {
        if text.len() > ENTRY_BYTES_MAX {
            return Err(EntryError::TooLong);
        }
        if text.contains("//") {
            return Err(EntryError::Url);
        }
        let (host, ports) = split(text)?;
        let ports = ports.map(PortSet::parse).transpose()?;
        Ok(Self { host, ports, options: EntryOptions::default() })
    }

    /// Reads an entry as it stands in a policy.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn new(spec: &EntrySpec) -> Result<Self, EntryError> {
        match spec {
            EntrySpec::Text(text) => Self::parse(text),
            EntrySpec::Fields(fields) => Self::with_options(fields),
        }
    }

    fn with_options(fields: &EntryFields) -> Result<Self, EntryError> {
        let EntryFields { host, ports, methods, paths, private, protocol, ech } = fields;
        let Self { host, ports: None, .. } = Self::parse(host)? else {
            return Err(EntryError::Option("write the ports of an object in `ports`"));
        };
        let ports = ports.as_deref().map(PortSet::parse).transpose()?;
        check_requests(methods, paths)?;
        let requests = Requests::new(methods, paths);
        let is_http = ports.as_ref().is_some_and(|ports| ports.ranges() == [(80, 80)])
            && *protocol == EgressProtocol::Auto;
        if !requests.is_all() && !is_http {
            return Err(EntryError::Option(
                "`methods` and `paths` need \"ports\": \"80\" and no `protocol`, because requests \
                 cannot be seen elsewhere",
            ));
        }
        let options = EntryOptions { protocol: *protocol, ech: *ech, private: *private, requests };
        Ok(Self { host, ports, options })
    }

    /// Returns the hosts.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Returns the ports; none if the entry names none.
    pub fn ports(&self) -> Option<&PortSet> {
        self.ports.as_ref()
    }

    /// Returns the options.
    pub fn options(&self) -> &EntryOptions {
        &self.options
    }

    /// Whether the entry is a host and ports only.
    pub fn is_plain(&self) -> bool {
        self.options == EntryOptions::default()
    }

    /// Returns the ports that the entry allows.
    pub fn allowed_ports(&self) -> PortSet {
        self.ports.clone().unwrap_or_else(PortSet::web)
    }

    /// Returns the ports that the entry denies.
    pub fn denied_ports(&self) -> PortSet {
        self.ports.clone().unwrap_or_else(PortSet::all)
    }
}

impl Host {
    /// Whether each destination of `other` belongs to these hosts.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Name(own), Self::Name(name)) => own == name,
            (Self::Below(own), Self::Name(name)) => name.is_below(own),
            (Self::Below(own), Self::Below(name)) => own == name || name.is_below(own),
            (Self::Net(own), Self::Net(net)) => own.contains(net),
            _ => false,
        }
    }

    /// Whether a destination belongs to both. One of two hosts that have one in common always
    /// covers the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

fn split(text: &str) -> Result<(Host, Option<&str>), EntryError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (net, rest) = rest.split_once(']').ok_or(EntryError::Brackets)?;
        let ports = match rest.strip_prefix(':') {
            Some(ports) => Some(ports),
            None if rest.is_empty() => None,
            None => return Err(EntryError::Brackets),
        };
        let host = net_of(net)?.filter(|_| net.contains(':')).ok_or(EntryError::Brackets)?;
        return Ok((host, ports));
    }
    if let Some(host) = net_of(text)? {
        return Ok((host, None));
    }
    let (host, ports) = match text.split_once(':') {
        Some((_, ports)) if ports.contains(':') => return Err(EntryError::Brackets),
        Some((host, ports)) => (host, Some(ports)),
        None => (text, None),
    };
    Ok((host_of(host)?, ports))
}

fn host_of(text: &str) -> Result<Host, EntryError> {
    if text == "*" {
        return Ok(Host::Any);
    }
    if let Some(name) = text.strip_prefix("*.") {
        if name.contains('*') {
            return Err(EntryError::Star);
        }
        return Ok(Host::Below(Name::parse(name)?));
    }
    if text.contains('*') {
        return Err(EntryError::Star);
    }
    match net_of(text)? {
        Some(net) => Ok(net),
        None => Ok(Host::Name(Name::parse(text)?)),
    }
}

/// Reads an address or a range; nothing if the text is neither.
fn net_of(text: &str) -> Result<Option<Host>, EntryError> {
    let net = match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
        (Ok(address), _) => IpNet::from(address),
        (_, Ok(net)) => net,
        _ => return Ok(None),
    };
    if net.trunc() != net {
        return Err(EntryError::Range(net.trunc()));
    }
    match net {
        IpNet::V6(net) if MAPPED.contains(&net) => Err(EntryError::Mapped),
        _ => Ok(Some(Host::Net(net))),
    }
}

fn check_requests(methods: &[String], paths: &[String]) -> Result<(), EntryError> {
    if methods.len() > ENTRY_OPTIONS_MAX || paths.len() > ENTRY_OPTIONS_MAX {
        return Err(EntryError::Option("an entry has at most 64 methods and 64 paths"));
    }
    let is_method = |method: &String| {
        let size = 1..=METHOD_BYTES_MAX;
        size.contains(&method.len()) && method.bytes().all(|byte| byte.is_ascii_uppercase())
    };
    if !methods.iter().all(is_method) {
        return Err(EntryError::Option("methods are words in capitals, such as GET"));
    }
    let is_path = |path: &String| {
        path.len() <= PATH_BYTES_MAX
            && path.starts_with(['/', '*'])
            && path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'))
    };
    if !paths.iter().all(is_path) {
        return Err(EntryError::Option(
            "paths begin with `/` or `*`, have no query and at most 1,024 printable characters",
        ));
    }
    Ok(())
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Name(name) => write!(f, "{name}"),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => {
                write!(f, "{}", net.addr())
            }
            Self::Net(net) => write!(f, "{net}"),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, &self.ports) {
            (host, None) => write!(f, "{host}"),
            (host @ Host::Net(IpNet::V6(_)), Some(ports)) => write!(f, "[{host}]:{ports}"),
            (host, Some(ports)) => write!(f, "{host}:{ports}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_printed_in_one_form() {
        for (text, printed) in [
            ("API.Example.com.", "api.example.com"),
            ("github.com:443,22,80", "github.com:22,80,443"),
            ("*.Example.com:*", "*.example.com:*"),
            ("*", "*"),
            ("*:*", "*:*"),
            ("10.20.0.0/16:5432", "10.20.0.0/16:5432"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:db8:0::/32", "2001:db8::/32"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:DB8::/32]:443", "[2001:db8::/32]:443"),
            ("::/0", "::/0"),
            ("nexus:8081", "nexus:8081"),
        ] {
            assert_eq!(Entry::parse(text).unwrap().to_string(), printed, "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let star = EntryError::Star;
        for (text, error) in [
            ("", EntryError::Name(NameError::Empty)),
            (":443", EntryError::Name(NameError::Empty)),
            ("a.example:", EntryError::Ports(PortsError::Form)),
            ("https://a.example/x", EntryError::Url),
            ("a.example/x", EntryError::Name(NameError::Character)),
            ("a.example:443/x", EntryError::Ports(PortsError::Form)),
            ("*.", EntryError::Name(NameError::Empty)),
            ("*a.example", star.clone()),
            ("a.*.example", star.clone()),
            ("*.*.example", star),
            ("10.20.0.5/16", EntryError::Range("10.20.0.0/16".parse().unwrap())),
            ("0x7f.1", EntryError::Name(NameError::Number)),
            ("127.1:80", EntryError::Name(NameError::Number)),
            ("010.0.0.1", EntryError::Name(NameError::Number)),
            ("::ffff:192.0.2.1", EntryError::Mapped),
            ("[::ffff:0:0/96]:80", EntryError::Mapped),
            ("[2001:db8::1", EntryError::Brackets),
            ("[2001:db8::1]443", EntryError::Brackets),
            ("[192.0.2.1]:443", EntryError::Brackets),
            ("[a.example]:443", EntryError::Brackets),
            ("a:b:c", EntryError::Brackets),
            ("a b", EntryError::Name(NameError::Character)),
        ] {
            assert_eq!(Entry::parse(text), Err(error), "{text}");
        }
        assert_eq!(Entry::parse(&"a".repeat(ENTRY_BYTES_MAX + 1)), Err(EntryError::TooLong));
    }

    fn fields(host: &str, ports: Option<&str>) -> EntryFields {
        EntryFields {
            host: host.to_owned(),
            ports: ports.map(str::to_owned),
            ..EntryFields::default()
        }
    }

    #[test]
    fn options_that_cannot_be_met_are_refused() {
        let get = || vec!["GET".to_owned()];
        let http = EntryFields { methods: get(), ..fields("a.example", Some("80")) };
        let read = Entry::new(&EntrySpec::Fields(http.clone())).unwrap();
        assert!(read.options().requests.permit("GET", "/").is_ok());
        assert!(!read.is_plain());
        for fields in [
            EntryFields { ports: None, ..http.clone() },
            EntryFields { ports: Some("80,443".to_owned()), ..http.clone() },
            EntryFields { protocol: EgressProtocol::Tcp, ..http.clone() },
            EntryFields { methods: vec!["get".to_owned()], ..http.clone() },
            EntryFields { methods: vec![String::new()], ..http.clone() },
            EntryFields { methods: vec!["GET".to_owned(); 65], ..http.clone() },
            EntryFields { paths: vec!["a".to_owned()], ..http.clone() },
            EntryFields { paths: vec!["/a?b".to_owned()], ..http.clone() },
            EntryFields { host: "a.example:80".to_owned(), ..http },
        ] {
            let refused = Entry::new(&EntrySpec::Fields(fields));
            assert!(matches!(refused, Err(EntryError::Option(_))), "{refused:?}");
        }
    }

    #[test]
    fn a_wildcard_covers_what_is_below_it() {
        let host = |text| Entry::parse(text).unwrap().host;
        for (own, other, expected) in [
            ("*", "*", true),
            ("*", "a.example", true),
            ("*", "10.0.0.0/8", true),
            ("*.example", "*", false),
            ("*.example", "a.example", true),
            ("*.example", "a.b.example", true),
            ("*.example", "*.a.example", true),
            ("*.example", "example", false),
            ("*.example", "evil-example", false),
            ("*.a.example", "evil-a.example", false),
            ("a.example", "*.example", false),
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.1.0.0/16", "10.0.0.0/8", false),
            ("::/0", "10.0.0.0/8", false),
        ] {
            assert_eq!(host(own).covers(&host(other)), expected, "{own} {other}");
        }
    }
}
