//! `read_process` and `write_process`.

use emberd_api::SignalName;
use rmcp::model::{CallToolResult, ContentBlock};
use serde::Deserialize;

use super::command::{ended, shown};
use crate::answer::budget;
use crate::call::{Call, time};
use crate::failure::Failure;
use crate::follow::Followed;

/// Time that a call waits, in seconds, unless it names one.
const TIMEOUT_S: u64 = 30;

/// Longest text that can be waited for, in bytes.
const WAIT_BYTES_MAX: usize = 4 << 10;

/// Arguments of `read_process`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadProcess {
    sandbox: Option<String>,
    process: u32,
    from: Option<u64>,
    wait_for: Option<String>,
    timeout_s: Option<u64>,
    max_output: Option<usize>,
}

/// Arguments of `write_process`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteProcess {
    sandbox: Option<String>,
    process: u32,
    input: Option<String>,
    #[serde(default)]
    end: bool,
    signal: Option<String>,
}

/// The event that ends a read.
enum Wait {
    /// Nothing: what is there already.
    Until(u64),
    /// The end of the process.
    Exit,
    /// A text, of which the end of what was read may have the beginning.
    Text(String, String),
}

impl Wait {
    /// Whether the wait is over, after `text` was read and event `next` is the next.
    fn is_over(&mut self, text: &str, next: u64) -> bool {
        match self {
            Self::Until(end) => next >= *end,
            Self::Exit => false,
            Self::Text(wanted, tail) => {
                tail.push_str(text);
                if tail.contains(wanted.as_str()) {
                    return true;
                }
                let keep = tail.len().saturating_sub(wanted.len());
                let start = (keep..=tail.len()).find(|at| tail.is_char_boundary(*at));
                tail.drain(..start.unwrap_or_default());
                false
            }
        }
    }
}

/// Reads what a process has written.
pub async fn read(call: &mut Call<'_>, wanted: ReadProcess) -> Result<CallToolResult, Failure> {
    let sandbox = call.sandbox(wanted.sandbox)?;
    let (process, limit) = (wanted.process, time(wanted.timeout_s, TIMEOUT_S)?);
    let client = call.daemon.client.clone();
    let view = client.process(&sandbox, process).await?;
    let last = call.server.reads.lock().get(&(sandbox.clone(), process)).copied();
    let from = wanted.from.or(last).unwrap_or_default();
    let mut wait = match wanted.wait_for {
        None => Wait::Until(view.next_event),
        Some(wanted) if wanted == "exit" => Wait::Exit,
        Some(wanted) if (1..=WAIT_BYTES_MAX).contains(&wanted.len()) => {
            Wait::Text(wanted, String::new())
        }
        Some(_) => {
            let error = format!("`wait_for` is \"exit\", or a text of 1 to {WAIT_BYTES_MAX} bytes");
            return Err(Failure::invalid(error));
        }
    };
    let mut followed = Followed::new(&client, &sandbox, process, from);
    let deadline = tokio::time::Instant::now() + limit;
    let mut is_met = matches!(&wait, Wait::Until(end) if from >= *end);
    // An event that is the last one is asked for again, so that the end is always told.
    is_met &= view.exit.is_none();
    if view.exit.is_some() && from >= view.next_event {
        followed.exit = view.exit;
    }
    while !is_met {
        let more = tokio::select! {
            more = followed.more() => more?,
            () = tokio::time::sleep_until(deadline) => break,
            never = call.progress.tell() => match never {},
        };
        let Some(text) = more else { break };
        call.progress.note(&text);
        is_met = wait.is_over(&text, followed.next) && !matches!(wait, Wait::Exit);
    }
    call.server.has_read(&sandbox, process, followed.next);
    let state = match &followed.exit {
        Some(exit) => ended(exit),
        None => format!("process {process} runs"),
    };
    let missed = match &wait {
        Wait::Exit | Wait::Text(..) if !is_met && followed.exit.is_none() => {
            format!("; `wait_for` was not met within {} s", limit.as_secs())
        }
        Wait::Text(..) if !is_met => "; it never wrote what `wait_for` names".to_owned(),
        _ => String::new(),
    };
    let first = format!("{state}{missed}; next event: {}", followed.next);
    Ok(shown(first, followed, budget(wanted.max_output)))
}

/// Writes to a process, ends its standard input, or sends it a signal.
pub async fn write(call: &mut Call<'_>, wanted: WriteProcess) -> Result<CallToolResult, Failure> {
    let WriteProcess { sandbox, process, input, end, signal } = wanted;
    let sandbox = call.sandbox(sandbox)?;
    let client = &call.daemon.client;
    let signal = signal.as_deref().map(signal_name).transpose()?;
    let mut done = Vec::new();
    let bytes = input.as_ref().map_or(0, String::len);
    if input.is_some() || end {
        client.write_stdin(&sandbox, process, input.unwrap_or_default(), end).await?;
        done.push(format!("wrote {bytes} bytes"));
        if end {
            done.push("ended its standard input".to_owned());
        }
    }
    if let Some((name, signal)) = signal {
        client.signal_process(&sandbox, process, signal).await?;
        done.push(format!("sent {name}"));
    }
    if done.is_empty() {
        return Err(Failure::invalid("a call has `input`, `end` or `signal`"));
    }
    let text = format!("process {process}: {}", done.join(", "));
    Ok(CallToolResult::success(vec![ContentBlock::text(text)]))
}

/// A signal by its name, with or without `SIG`.
fn signal_name(text: &str) -> Result<(String, SignalName), Failure> {
    let upper = text.trim().to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    match serde_json::from_value(serde_json::Value::String(name.clone())) {
        Ok(signal) => Ok((name, signal)),
        Err(error) => Err(Failure::invalid(format!("unknown signal: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_seen_across_pieces() {
        let mut wait = Wait::Text("ready é!".to_owned(), String::new());
        for (piece, is_over) in [("not", false), (" rea", false), ("dy é", false), ("!", true)] {
            assert_eq!(wait.is_over(piece, 0), is_over, "{piece}");
        }
        let mut wait = Wait::Until(3);
        assert!(!wait.is_over("", 2) && wait.is_over("", 3));
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(signal_name("int").unwrap().1, SignalName::SigInt);
        assert_eq!(signal_name("SIGTERM").unwrap().1, SignalName::SigTerm);
        assert!(signal_name("9").is_err());
    }
}
