//! `emberctl kill ID PID`: sends a signal to a process and all it started.

use std::process::ExitCode;

use emberd_api::SignalName;
use emberd_client::Client;
use serde_json::Value;

/// Arguments of `kill`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sandbox.
    id: String,
    /// The process, as `ps` lists it.
    pid: u32,
    /// Name of the signal, such as TERM, SIGKILL or int.
    #[arg(short, long, default_value = "TERM", value_parser = named)]
    signal: SignalName,
}

/// Sends the signal.
///
/// # Errors
/// The daemon refuses the request, or no daemon answers.
pub async fn run(client: &Client, args: Args) -> anyhow::Result<ExitCode> {
    client.signal_process(&args.id, args.pid, args.signal).await?;
    Ok(ExitCode::SUCCESS)
}

fn named(text: &str) -> Result<SignalName, String> {
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    serde_json::from_value(Value::String(name)).map_err(|_| {
        "one of ABRT, ALRM, CONT, HUP, INT, KILL, QUIT, STOP, TERM, TSTP, USR1, USR2, WINCH"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_as_people_do() {
        for text in ["KILL", "SIGKILL", "kill", "sigkill"] {
            assert_eq!(named(text), Ok(SignalName::SigKill));
        }
        for text in ["", "9", "SEGV", "SIGSIGKILL"] {
            assert!(named(text).is_err(), "{text}");
        }
    }
}
