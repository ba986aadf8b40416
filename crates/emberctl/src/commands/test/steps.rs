//! The steps of `emberctl test`, in the order of a sandbox's life.

use std::fmt::Debug;
use std::time::Duration;

use emberd_api::{ErrorCode, ExecBody, ExecOutcome, ExecSpec, Info, Sandbox, chain};
use emberd_client::{Client, ClientError};

use super::language::{Language, Programs};
use super::{Record, Seen, host};
use crate::program;

/// A well-formed id no sandbox has, but for a chance of one in 2^48.
const ID_UNKNOWN: &str = "sb_000000000000";
/// A well-formed name no pack should have.
const PACK_UNKNOWN: &str = "no-such-pack";
/// Time limit of the step that runs into it, in milliseconds.
const TIMEOUT_MS: u64 = 1000;

/// How long the daemon may take to remove what a deleted sandbox leaves, and the pause between
/// two questions.
const REMOVAL_MAX: Duration = Duration::from_secs(10);
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// Tries every step; what goes wrong is what a step saw. Sets `created` once there is a
/// sandbox, for a caller that drops this future halfway.
pub async fn all(
    client: &Client,
    info: &Info,
    language: Language,
    record: &mut Record,
    created: &mut Option<String>,
) {
    record.step("unknown pack is refused", unknown_pack(client)).await;
    record.step("create a sandbox", create(client, language, created)).await;
    let Some(id) = created.clone() else { return };
    // Looked up while it lives: afterwards nobody knows its process and its directory.
    let sandbox = client.get(&id).await;
    let seen_from_outside = |look: fn(&Info, &Sandbox) -> Seen| {
        let seen = sandbox.as_ref().map(|sandbox| look(info, sandbox));
        std::future::ready(seen.unwrap_or_else(failure))
    };
    record.step("VMM process runs", seen_from_outside(host::process_runs)).await;
    programs(client, &id, &language.programs(), record).await;
    record.step("exec in an unknown sandbox is refused", unknown_sandbox(client)).await;
    record.step("delete the sandbox", delete(client, &id)).await;
    removal(client).await;
    record.step("VMM process is gone", seen_from_outside(host::process_gone)).await;
    record.step("work directory is gone", seen_from_outside(host::directory_gone)).await;
    record.step("second delete is refused", second_delete(client, &id)).await;
}

async fn programs(client: &Client, id: &str, programs: &Programs, record: &mut Record) {
    let run = |code, expectation| run(client, id, ExecSpec::new(code), "", expectation);
    record.step("guest kernel booted", run(programs.kernel, own_kernel)).await;
    record.step("exec computes 42", run(programs.forty_two, forty_two)).await;
    record.step("exit code 7 is propagated", run(programs.exit_seven, exit_seven)).await;
    record.step("standard error is separate", run(programs.two_outputs, two_outputs)).await;
    let spec = ExecSpec::new(programs.upper_case_stdin);
    let stdin = self::run(client, id, spec, "ember\n", upper_case);
    record.step("standard input reaches the program", stdin).await;
    let spec = ExecSpec { timeout_ms: TIMEOUT_MS, ..ExecSpec::new(programs.endless) };
    let endless = self::run(client, id, spec, "", timed_out);
    record.step("time limit ends an endless program", endless).await;
}

async fn unknown_pack(client: &Client) -> Seen {
    refusal(client.create(Some(PACK_UNKNOWN)).await, 400, ErrorCode::UnknownPack)
}

async fn create(client: &Client, language: Language, id: &mut Option<String>) -> Seen {
    match client.create(Some(language.pack())).await {
        Ok(created) => Seen::Expected(id.insert(created.id).clone()),
        Err(error) => failure(&error),
    }
}

async fn unknown_sandbox(client: &Client) -> Seen {
    let ran = client.exec(ID_UNKNOWN, &program::body(ExecSpec::new(""), Vec::new())).await;
    refusal(ran, 404, ErrorCode::UnknownSandbox)
}

async fn delete(client: &Client, id: &str) -> Seen {
    match client.delete(id).await {
        Ok(()) => Seen::Expected(format!("{id} deleted")),
        Err(error) => failure(&error),
    }
}

/// Waits until the daemon has removed what deleted sandboxes leave, or gives up: the next
/// steps look.
async fn removal(client: &Client) {
    let removed = async {
        while client.info().await.is_ok_and(|info| info.reaping > 0) {
            tokio::time::sleep(REMOVAL_PAUSE).await;
        }
    };
    // What is left then is what the steps find.
    drop(tokio::time::timeout(REMOVAL_MAX, removed).await);
}

async fn second_delete(client: &Client, id: &str) -> Seen {
    refusal(client.delete(id).await, 404, ErrorCode::UnknownSandbox)
}

async fn run(
    client: &Client,
    id: &str,
    spec: ExecSpec,
    stdin: &str,
    expectation: fn(&ExecOutcome) -> Seen,
) -> Seen {
    let body: ExecBody = program::body(spec, stdin.into());
    match client.exec(id, &body).await {
        Ok(outcome) => expectation(&outcome),
        Err(error) => failure(&error),
    }
}

fn own_kernel(outcome: &ExecOutcome) -> Seen {
    host::kernel_is_another(&outcome.stdout)
}

fn forty_two(outcome: &ExecOutcome) -> Seen {
    equal((outcome.stdout.as_str(), outcome.exit.exit_code), ("42\n", 0))
}

fn exit_seven(outcome: &ExecOutcome) -> Seen {
    equal(outcome.exit.exit_code, 7)
}

fn two_outputs(outcome: &ExecOutcome) -> Seen {
    equal((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"))
}

fn upper_case(outcome: &ExecOutcome) -> Seen {
    equal(outcome.stdout.as_str(), "EMBER\n")
}

fn timed_out(outcome: &ExecOutcome) -> Seen {
    let exit = &outcome.exit;
    equal((exit.error.as_deref(), exit.exit_code), (Some("execution timed out"), -1))
}

fn equal<T: Copy + Debug + PartialEq>(seen: T, expected: T) -> Seen {
    if seen == expected {
        Seen::Expected(format!("{seen:?}"))
    } else {
        Seen::Unexpected(format!("expected {expected:?}, got {seen:?}"))
    }
}

fn refusal<T: Debug>(answer: Result<T, ClientError>, status: u16, code: ErrorCode) -> Seen {
    match answer {
        Err(ClientError::Api { status: seen, body }) if seen == status && body.code == code => {
            Seen::Expected(format!("{seen}: {}", body.error))
        }
        Err(error) => failure(&error),
        Ok(answer) => Seen::Unexpected(format!("expected a refusal, got {answer:?}")),
    }
}

fn failure(error: &ClientError) -> Seen {
    Seen::Unexpected(chain(error))
}
