//! Errors as the user sees them: the chain of causes once, then what to try next.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::builder::styling::AnsiColor;
use emberd_api::{Address, ErrorCode, chain};
use emberd_client::{ClientError, TlsFault};
use serde::Serialize;

use crate::exit;
use crate::interrupt::Interrupted;
use crate::output::{Output, coloured, printable};

/// An error with a line that says what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Hinted {
    /// The error.
    pub message: String,
    /// The advice.
    pub hint: String,
}

/// The same shape as the API's error body; `code` only for errors the daemon reported.
#[derive(Serialize)]
struct ErrorDocument {
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<ErrorCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// Prints `error` on standard error and returns the exit code.
pub fn error(error: &anyhow::Error, output: Output) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    print(&document(error), output.json);
    match error.downcast_ref::<Interrupted>() {
        Some(interrupted) => exit::of_program(interrupted.exit_code()),
        None => exit::OWN_ERROR.into(),
    }
}

/// Prints clap's output: help and version on standard output, errors on standard error.
pub fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nobody is left to tell when standard output is closed.
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    let json = std::env::args().take_while(|arg| arg != "--").any(|arg| arg == "--json");
    if json {
        let rendered = error.render().to_string();
        let message = rendered.lines().next().unwrap_or_default();
        let message = message.strip_prefix("error: ").unwrap_or(message).to_owned();
        print(&ErrorDocument { error: message, code: None, hint: None }, true);
    } else {
        drop(error.print());
    }
    exit::OWN_ERROR.into()
}

fn document(error: &anyhow::Error) -> ErrorDocument {
    if let Some(ClientError::Api { body, .. }) = error.downcast_ref() {
        return ErrorDocument {
            error: body.error.clone(),
            code: Some(body.code),
            hint: body.hint.clone(),
        };
    }
    let hint = match error.downcast_ref::<ClientError>() {
        Some(error) if TlsFault::of(error).is_some() => TlsFault::of(error).map(unsecured),
        Some(ClientError::Connect { addr, source }) => Some(unconnected(addr, source)),
        Some(ClientError::Foreign { .. }) => Some(
            "name a daemon of this user with --addr, or run emberctl as the owner of the socket"
                .to_owned(),
        ),
        _ => error.downcast_ref::<Hinted>().map(|hinted| hinted.hint.clone()),
    };
    ErrorDocument { error: chain(error.as_ref()), code: None, hint }
}

/// Advice if the connection was not secured.
fn unsecured(fault: TlsFault) -> String {
    let advice = match fault {
        TlsFault::Time => "have the daemon's certificate renewed, or set this host's clock",
        TlsFault::Name => "use a name of the certificate in the address, or have it reissued",
        TlsFault::Issuer => "name the certificate of its issuer with --ca-cert",
        TlsFault::OfIssuer => {
            "the daemon shows the certificate of an issuer: have it issue one for the daemon, or \
                make one with basicConstraints=CA:FALSE"
        }
        TlsFault::Client => {
            "the daemon asks for a certificate of clients: name one with --client-cert and \
                --client-key"
        }
        TlsFault::Plain => "the daemon speaks no TLS there: begin the address with http://",
    };
    advice.to_owned()
}

/// Advice if no daemon answers.
fn unconnected(addr: &Address, source: &io::Error) -> String {
    match addr {
        // No port is tried instead: anybody may listen on one.
        Address::Unix(path) if source.kind() == io::ErrorKind::ConnectionRefused => format!(
            "the daemon was killed: start it again, or remove {} and name another daemon with --addr",
            path.display()
        ),
        _ => "start the daemon: scripts/serve.sh".to_owned(),
    }
}

/// Handles the fields of a request that the daemon does not know: prints a warning on standard
/// error, since a limit among them has no effect.
pub fn unknown_fields(output: Output) -> fn(&str) {
    let text = |fields: &str| {
        let word = coloured("warning:", AnsiColor::Yellow);
        let (fields, hint) = (printable(fields), coloured("hint:", AnsiColor::Cyan));
        let warning = format!("{word} the daemon ignored fields it does not know: {fields}");
        // A closed standard error has no reader.
        writeln!(anstream::stderr(), "{warning}\n{hint} update the daemon").ok();
    };
    let json = |fields: &str| {
        let fields = fields.split(", ").collect::<Vec<_>>();
        let warning = serde_json::json!({
            "warning": "the daemon ignored fields it does not know",
            "fields": fields,
        });
        writeln!(io::stderr(), "{warning}").ok();
    };
    if output.json { json } else { text }
}

fn print(document: &ErrorDocument, json: bool) {
    let printed = if json {
        let document = serde_json::to_string(document).expect("strings become JSON");
        writeln!(io::stderr(), "{document}")
    } else {
        let word = coloured("error:", AnsiColor::Red);
        let hint = document.hint.as_ref().map_or_else(String::new, |hint| {
            format!("\n{} {}", coloured("hint:", AnsiColor::Cyan), printable(hint))
        });
        writeln!(anstream::stderr(), "{word} {}{hint}", printable(&document.error))
    };
    // Nobody is left to tell when standard error is closed.
    drop(printed);
}

/// Whether the reader of standard output has closed it, as in `emberctl ls | head -1`.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
