//! `emberctl create [PACK]`: a sandbox to keep.

use std::process::ExitCode;

use emberd_api::CreateSandbox;
use emberd_client::Client;

use super::timeout::{self, Timeout};
use crate::output::Output;
use crate::policy::PolicyArgs;
use crate::program::variable;
use crate::resources::SizeArgs;

/// Arguments of `create`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Language pack.
    #[arg(default_value = emberd_api::LANGUAGE_PACK_DEFAULT)]
    pack: String,
    /// Delete the sandbox after this time, such as 90s, 10m or 2h; `never` by default.
    #[arg(long, value_parser = timeout::parse, value_name = "TIME", default_value = "never")]
    timeout: Timeout,
    /// Give the sandbox a name and a value that `ls` can filter by. Repeat the option for more.
    #[arg(long, value_parser = variable, value_name = "NAME=VALUE")]
    metadata: Vec<(String, String)>,
    /// Set an environment variable of everything that runs in the sandbox. Repeat the option for
    /// more.
    #[arg(short, long, value_parser = variable, value_name = "NAME=VALUE")]
    env: Vec<(String, String)>,
    #[command(flatten)]
    size: SizeArgs,
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
        timeout_ms: args.timeout.as_ms(),
        on_timeout: None,
        metadata: args.metadata.into_iter().collect(),
        resources: args.size.into(),
        env: args.env.into_iter().collect(),
    };
    let created = client.create_with(&wanted).await?.answer;
    output.print(&created, || format!("{}\n", created.id))?;
    Ok(ExitCode::SUCCESS)
}
