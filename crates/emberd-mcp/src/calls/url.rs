//! `get_url`: where a server inside a sandbox is found.

use std::path::Path;

use emberd_client::{Client, FileOptions, FileSpan};
use rmcp::model::{CallToolResult, ContentBlock};
use serde::Deserialize;

use crate::call::Call;
use crate::failure::Failure;

/// Largest table of sockets that is read, in bytes (1 MiB).
const TABLE_BYTES_MAX: usize = 1 << 20;

/// State of a listening socket in the table (`proc_pid_net(5)`, `TCP_LISTEN`).
const LISTENS: &str = "0A";

/// Arguments of `get_url`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetUrl {
    sandbox: Option<String>,
    port: u16,
}

/// Tells the URL of a port, and whether something listens there.
pub async fn get(call: &mut Call<'_>, wanted: GetUrl) -> Result<CallToolResult, Failure> {
    let sandbox = call.sandbox(wanted.sandbox)?;
    let port = wanted.port;
    if port == 0 {
        return Err(Failure::invalid("`port` is 1 to 65535"));
    }
    let client = &call.daemon.client;
    let mut listens = false;
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        listens = listens || listens_in(&read(client, &sandbox, table).await?, port);
    }
    let url = url(&call.daemon.origin, &sandbox, port);
    let text = if listens {
        format!("{url}\nsomething listens on port {port}")
    } else {
        format!(
            "{url}\nnothing listens on port {port} yet: start a server with run_command and \
             `background`"
        )
    };
    Ok(CallToolResult::success(vec![ContentBlock::text(text)]))
}

async fn read(client: &Client, sandbox: &str, path: &str) -> Result<String, Failure> {
    let (span, options) = (FileSpan::default(), FileOptions::default());
    let mut download = client.file_read(sandbox, Path::new(path), span, &options).await?;
    let mut bytes = Vec::new();
    while bytes.len() < TABLE_BYTES_MAX
        && let Some(piece) = download.next().await?
    {
        bytes.extend_from_slice(&piece);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a socket in a table of the kernel listens on `port`.
fn listens_in(table: &str, port: u16) -> bool {
    let port = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default());
        local.ends_with(&port) && state == LISTENS
    })
}

/// The URL of a port: names of hosts have no `_`, and only `localhost` needs no entry in DNS.
fn url(origin: &str, sandbox: &str, port: u16) -> String {
    let (scheme, authority) = origin.split_once("://").unwrap_or(("http", origin));
    let (host, of_daemon) = match authority.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, format!(":{port}")),
        _ => (authority, String::new()),
    };
    let is_address = host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok();
    let host = if is_address { "localhost" } else { host };
    format!("{scheme}://{port}-{}.{host}{of_daemon}/", sandbox.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_names_that_browsers_find() {
        let url = |origin| url(origin, "sb_0123456789ab", 3000);
        let expect = "http://3000-sb-0123456789ab.localhost:7777/";
        assert_eq!(url("http://127.0.0.1:7777"), expect);
        assert_eq!(url("http://localhost:7777"), expect);
        assert_eq!(url("http://[::1]:7777"), expect);
        let expect = "https://3000-sb-0123456789ab.sandboxes.example/";
        assert_eq!(url("https://sandboxes.example"), expect);
    }

    #[test]
    fn only_listening_sockets_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
            0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000\n   \
            1: 0100007F:0050 0100007F:1F90 01 00000000:00000000 00:00000000\n";
        assert!(listens_in(table, 3000));
        assert!(!listens_in(table, 80) && !listens_in(table, 8080) && !listens_in("", 80));
    }
}
