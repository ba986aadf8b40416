//! `emberctl create [PACK]`: a sandbox to keep.

use std::process::ExitCode;

use emberd_api::{CreateSandbox, IdleOptions};
use emberd_client::Client;

use super::timeout::{self, Timeout};
use crate::output::Output;
use crate::policy::PolicyArgs;
use crate::program::variable;
use crate::resources::{self, SandboxLimitArgs, SizeArgs};

/// Arguments of `create`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Language pack.
    #[arg(default_value = emberd_api::LANGUAGE_PACK_DEFAULT)]
    pack: String,
    /// Delete the sandbox after this time, such as 90s, 10m or 2h, or `never`; the daemon's default
    /// unless given.
    #[arg(long, value_parser = timeout::parse, value_name = "TIME")]
    timeout: Option<Timeout>,
    /// Freeze the sandbox when it was not used for this time, or `never`; the daemon's default
    /// unless given.
    #[arg(long, value_parser = timeout::parse, value_name = "TIME")]
    idle_freeze: Option<Timeout>,
    /// Freeze the sandbox although programs run in it.
    #[arg(long)]
    idle_ignore_programs: bool,
    /// Refuse requests while the sandbox is frozen; `touch` thaws it.
    #[arg(long)]
    no_auto_resume: bool,
    /// Give the sandbox a name and a value that `ls` can filter by. Repeat the option for more.
    #[arg(long, value_parser = variable, value_name = "NAME=VALUE")]
    metadata: Vec<(String, String)>,
    /// Set an environment variable of everything that runs in the sandbox. Repeat the option for
    /// more.
    #[arg(short, long, value_parser = variable, value_name = "NAME=VALUE")]
    env: Vec<(String, String)>,
    /// Create the sandbox at most once: another command with the same key and options within 24
    /// hours prints its id.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    size: SizeArgs,
    #[command(flatten)]
    limits: SandboxLimitArgs,
    #[command(flatten)]
    policy: PolicyArgs,
}

/// Creates the sandbox and prints its id.
///
/// # Errors
/// The daemon's refusal, or no daemon.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let wanted = CreateSandbox {
        language_pack: Some(args.pack),
        egress: args.policy.into_spec(),
        timeout_ms: args.timeout.map(Timeout::as_ms),
        on_timeout: None,
        idle: Some(IdleOptions {
            freeze_ms: args.idle_freeze.map(Timeout::as_ms),
            ignore_programs: args.idle_ignore_programs.then_some(true),
            ..IdleOptions::default()
        })
        .filter(|idle| *idle != IdleOptions::default()),
        auto_resume: args.no_auto_resume.then_some(false),
        metadata: args.metadata.into_iter().collect(),
        resources: resources::of(args.size, args.limits),
        env: args.env.into_iter().collect(),
    };
    let created = client.create_once(&wanted, args.idempotency_key.as_deref()).await?.answer;
    output.print(&created, || format!("{}\n", created.id))?;
    Ok(ExitCode::SUCCESS)
}
