//! How a request says that it is for a port inside a sandbox.

/// Request header that names a sandbox; together with [`PORT_HEADER`], the request goes to that
/// port inside the sandbox.
pub const SANDBOX_HEADER: &str = "x-emberd-sandbox";

/// Request header that names the port inside the sandbox of [`SANDBOX_HEADER`].
pub const PORT_HEADER: &str = "x-emberd-port";

/// Name of the protocol (`Upgrade`) of a connection to a port inside a sandbox: its bytes are
/// passed on unchanged.
pub const TUNNEL_PROTOCOL: &str = "tcp";

/// Begin of the id of a sandbox, as host names have it.
const ID_PREFIX: &str = "sb-";

/// Splits a host in the form of a port's, such as `8000-sb-0123456789ab.localhost:7777`, into the
/// digits of the port and what follows `sb-` in the id; `None` for other hosts. Case does not
/// matter. Host names have no `_`, so `-` may stand for the one in an id.
///
/// Neither part is checked further: there may be no such port and no such id.
pub fn split_port_host(host: &str) -> Option<(&str, &str)> {
    let label = host.split(['.', ':']).next().unwrap_or_default();
    let (port, id) = label.split_once('-')?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let (prefix, rest) = id.split_at_checked(ID_PREFIX.len())?;
    let is_id = prefix.replace('_', "-").eq_ignore_ascii_case(ID_PREFIX);
    (digits && is_id).then_some((port, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_ports_are_told_from_others() {
        for (host, parts) in [
            ("8000-sb-0123456789ab.localhost:7777", Some(("8000", "0123456789ab"))),
            ("8000-SB_0123.x", Some(("8000", "0123"))),
            ("0-sb-", Some(("0", ""))),
            ("x.8000-sb-0123456789ab.localhost", None),
            ("80-other.example.com", None),
            ("-sb-0123456789ab.localhost", None),
            ("a80-sb-0123456789ab.localhost", None),
            ("80-s\u{e9}", None),
            ("80-sb", None),
            ("", None),
        ] {
            assert_eq!(split_port_host(host), parts, "{host}");
        }
    }
}
