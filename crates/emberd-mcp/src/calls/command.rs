//! `run_command`: a command that goes on as a process when it takes long.

use std::collections::BTreeMap;

use emberd_api::{ExecExit, ProcessSpec};
use emberd_client::Client;
use rmcp::model::CallToolResult;
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::answer::{Answer, budget};
use crate::call::{Call, time};
use crate::failure::Failure;
use crate::follow::Followed;
use crate::text::{OUTPUT_CHARS_MAX, one_line};

/// Time that a call waits for its command, in seconds, unless it names one.
const TIMEOUT_S: u64 = 45;

/// Longest error of a program that was not started, in characters.
const ERROR_CHARS_MAX: usize = 300;

/// Arguments of `run_command`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunCommand {
    sandbox: Option<String>,
    command: Option<String>,
    #[serde(default)]
    argv: Vec<String>,
    cwd: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    user: Option<String>,
    timeout_s: Option<u64>,
    #[serde(default)]
    background: bool,
    max_output: Option<usize>,
}

/// Runs a command.
pub async fn run(call: &mut Call<'_>, wanted: RunCommand) -> Result<CallToolResult, Failure> {
    let sandbox = call.sandbox(wanted.sandbox)?;
    let limit = time(wanted.timeout_s, TIMEOUT_S)?;
    let argv = match (wanted.command, wanted.argv) {
        (Some(command), argv) if argv.is_empty() => vec!["/bin/sh".into(), "-c".into(), command],
        (None, argv) if !argv.is_empty() => argv,
        _ => return Err(Failure::invalid("a call has either `command` or `argv`")),
    };
    let (cwd, env, user) = (wanted.cwd, wanted.env, wanted.user);
    let spec = ProcessSpec { argv, cwd, env, user, ..ProcessSpec::default() };
    let client = call.daemon.client.clone();
    let mut started = Started::new(client.clone(), &sandbox, spec).await?;
    let process = started.process;
    if wanted.background {
        started.let_go();
        let text = format!("process {process} runs; read_process shows what it writes");
        call.server.has_read(&sandbox, process, 0);
        return Ok(Answer::of(text).into_result(1, None));
    }
    let mut followed = Followed::new(&client, &sandbox, process, 0);
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let more = tokio::select! {
            more = followed.more() => more?,
            () = tokio::time::sleep_until(deadline) => None,
            never = call.progress.tell() => match never {},
        };
        let Some(text) = more else { break };
        call.progress.note(&text);
    }
    // From here on it is the caller's.
    started.let_go();
    call.server.has_read(&sandbox, process, followed.next);
    let first = match &followed.exit {
        Some(exit) => ended(exit),
        None => format!(
            "process {process} still runs after {} s; read_process waits for it, write_process \
             sends it input or a signal",
            limit.as_secs()
        ),
    };
    Ok(shown(first, followed, budget(wanted.max_output)))
}

/// The answer that shows what was read of a process.
pub fn shown(first: String, followed: Followed, budget: usize) -> CallToolResult {
    let mut answer = Answer::of(first);
    if followed.has_gap {
        answer.line("earlier output is not kept any more");
    }
    let exit = followed.exit.clone();
    let process = followed.process();
    for (label, text) in followed.into_texts() {
        answer.text(label, text);
    }
    if let Some(exit) = exit {
        answer.denials(&exit.egress);
    }
    let rest = format!(
        "read_process {process} with `from` 0 and `max_output` up to {OUTPUT_CHARS_MAX}, which \
         keeps the last MiB"
    );
    answer.into_result(budget, Some(&rest))
}

/// The first line about a process that has ended.
pub fn ended(exit: &ExecExit) -> String {
    let signal = exit.signal.map(|signal| format!(", killed by signal {signal}"));
    let memory = exit.out_of_memory.then(|| ", out of memory".to_owned());
    let error = exit.error.as_ref().map(|error| format!(", {}", one_line(error, ERROR_CHARS_MAX)));
    let more: String = [signal, memory, error].into_iter().flatten().collect();
    format!("exit code {}{more}, {} ms", exit.exit_code, exit.duration_us / 1_000)
}

/// A process that ends when this is dropped, unless it was let go.
struct Started {
    client: Client,
    sandbox: String,
    process: u32,
    is_ours: bool,
}

impl Started {
    /// Starts a process. Dropping the future ends one that was started already.
    async fn new(client: Client, sandbox: &str, spec: ProcessSpec) -> Result<Self, Failure> {
        let (claim, claimed) = oneshot::channel();
        let sandbox = sandbox.to_owned();
        tokio::spawn(async move {
            let started = client.start_process(&sandbox, &spec).await;
            let started = started.map(|process| Self {
                process: process.pid,
                client,
                sandbox,
                is_ours: true,
            });
            // One that nobody waits for is dropped.
            drop(claim.send(started));
        });
        let lost = |_| Failure::new(emberd_api::ErrorCode::Internal, "the process was lost");
        Ok(claimed.await.map_err(lost)??)
    }

    /// Leaves the process alone from now on.
    fn let_go(&mut self) {
        self.is_ours = false;
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.is_ours {
            return;
        }
        let Self { client, sandbox, process, .. } = self;
        let (client, sandbox, process) = (client.clone(), std::mem::take(sandbox), *process);
        tokio::spawn(async move {
            if let Err(error) = client.delete_process(&sandbox, process).await {
                tracing::warn!(%error, sandbox, process, "a cancelled command was not ended");
            }
        });
    }
}
