//! `emberctl mcp config CLIENT`: what a client's configuration says of this server.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use emberd_api::Address;
use emberd_client::Client;
use serde_json::{Map, Value, json};

use crate::daemon_options::Globals;
use crate::report::Hinted;

/// Name of the server in configurations.
const NAME: &str = "emberd";

/// Variable with the access key.
const KEY_VARIABLE: &str = "EMBERD_API_KEY";

/// Arguments of `mcp config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The client.
    #[arg(value_enum)]
    client: ClientName,
    /// Have the client talk to the daemon over HTTP instead of starting `emberctl mcp`.
    #[arg(long)]
    http: bool,
}

/// A client whose configuration is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ClientName {
    ClaudeCode,
    ClaudeDesktop,
    Cursor,
    Vscode,
    Zed,
}

impl ClientName {
    /// Where the configuration goes.
    fn place(self) -> &'static str {
        match self {
            Self::ClaudeCode => ".mcp.json in the project, for Claude Code",
            Self::ClaudeDesktop => {
                "claude_desktop_config.json (Settings, Developer), for Claude Desktop"
            }
            Self::Cursor => "~/.cursor/mcp.json, for Cursor",
            Self::Vscode => ".vscode/mcp.json, for VS Code",
            Self::Zed => "settings.json, for Zed",
        }
    }

    /// How the configuration names the key of the environment.
    fn key(self) -> &'static str {
        match self {
            Self::ClaudeCode => "${EMBERD_API_KEY}",
            Self::Cursor => "${env:EMBERD_API_KEY}",
            Self::Vscode => "${input:emberd-key}",
            Self::ClaudeDesktop | Self::Zed => "YOUR KEY",
        }
    }
}

/// How the client reaches the server.
enum Reached {
    /// By this command.
    Command { program: String, addr: Option<String> },
    /// At this URL.
    Url(String),
}

/// Prints the configuration. Where it goes is said on standard error.
///
/// # Errors
/// The client does not take servers over HTTP.
pub fn print(globals: &Globals, client: &Client, args: &Args) -> anyhow::Result<ExitCode> {
    let has_key = std::env::var_os(KEY_VARIABLE).is_some_and(|key| !key.is_empty());
    let reached = if args.http {
        Reached::Url(url(client.address()))
    } else {
        let program = std::env::current_exe().context("cannot find this program")?;
        let program = program.display().to_string();
        Reached::Command { program, addr: globals.addr.clone() }
    };
    let document = document(args.client, &reached, has_key)?;
    let text = serde_json::to_string_pretty(&document)?;
    // A caller that redirects it knows the place.
    if std::io::stdout().is_terminal() {
        writeln!(std::io::stderr(), "Add this to {}:", args.client.place())?;
    }
    writeln!(std::io::stdout(), "{text}")?;
    Ok(ExitCode::SUCCESS)
}

fn url(address: &Address) -> String {
    match address {
        Address::Tcp(authority) => format!("http://{authority}/mcp"),
        Address::Tls(authority) => format!("https://{authority}/mcp"),
        // A daemon on this user's socket listens on the port too.
        Address::Unix(_) => format!("http://{}/mcp", emberd_api::ADDR_DEFAULT),
    }
}

fn document(client: ClientName, reached: &Reached, has_key: bool) -> Result<Value, Hinted> {
    let mut server = Map::new();
    match reached {
        Reached::Command { program, addr } => {
            if client == ClientName::Vscode || client == ClientName::ClaudeCode {
                server.insert("type".to_owned(), "stdio".into());
            }
            server.insert("command".to_owned(), program.as_str().into());
            server.insert("args".to_owned(), json!(["mcp"]));
            let addr = addr.as_ref().map(|addr| ("EMBERD_ADDR", addr.as_str()));
            let key = has_key.then_some((KEY_VARIABLE, client.key()));
            let env: Map<_, _> = addr.into_iter().chain(key).map(pair).collect();
            if !env.is_empty() || client == ClientName::Zed {
                server.insert("env".to_owned(), env.into());
            }
        }
        Reached::Url(_) if client == ClientName::ClaudeDesktop => {
            return Err(Hinted {
                message: "Claude Desktop takes no server of this host over HTTP".to_owned(),
                hint: "leave --http out: it then starts `emberctl mcp`".to_owned(),
            });
        }
        Reached::Url(url) => {
            if client == ClientName::Vscode || client == ClientName::ClaudeCode {
                server.insert("type".to_owned(), "http".into());
            }
            server.insert("url".to_owned(), url.as_str().into());
            if has_key {
                let bearer = format!("Bearer {}", client.key());
                server.insert("headers".to_owned(), json!({ "Authorization": bearer }));
            }
        }
    }
    let servers = match client {
        ClientName::Vscode => "servers",
        ClientName::Zed => "context_servers",
        ClientName::ClaudeCode | ClientName::ClaudeDesktop | ClientName::Cursor => "mcpServers",
    };
    let mut document = json!({ servers: { NAME: server } });
    if client == ClientName::Vscode && has_key {
        document["inputs"] = json!([{
            "type": "promptString",
            "id": "emberd-key",
            "description": "Access key of emberd",
            "password": true,
        }]);
    }
    Ok(document)
}

fn pair((name, value): (&str, &str)) -> (String, Value) {
    (name.to_owned(), value.into())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_client_is_told_in_its_own_words() {
        let command = || Reached::Command { program: "/bin/emberctl".to_owned(), addr: None };
        let url = || Reached::Url("http://127.0.0.1:7777/mcp".to_owned());
        let cursor = document(ClientName::Cursor, &command(), false).unwrap();
        let expect = json!({"command": "/bin/emberctl", "args": ["mcp"]});
        assert_eq!(cursor, json!({"mcpServers": {"emberd": expect}}));
        let vscode = document(ClientName::Vscode, &url(), true).unwrap();
        assert_eq!(vscode["servers"]["emberd"]["type"], "http");
        assert_eq!(vscode["inputs"][0]["id"], "emberd-key");
        let zed = document(ClientName::Zed, &command(), false).unwrap();
        assert!(zed["context_servers"]["emberd"]["env"].is_object());
        assert!(document(ClientName::ClaudeDesktop, &url(), false).is_err());
        for client in ClientName::value_variants() {
            let addr = Some("https://box:1".to_owned());
            let reached = Reached::Command { program: "e".to_owned(), addr };
            let text = document(*client, &reached, true).unwrap().to_string();
            assert!(text.contains("https://box:1") && text.contains("KEY") | text.contains("key"));
        }
    }
}
