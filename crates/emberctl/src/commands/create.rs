//! `emberctl create [PACK]`: a sandbox to keep.

use std::process::ExitCode;

use emberd_api::CreateSandbox;
use emberd_client::Client;

use crate::output::Output;
use crate::policy::PolicyArgs;

/// Arguments of `create`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Language pack.
    #[arg(default_value = emberd_api::LANGUAGE_PACK_DEFAULT)]
    pack: String,
    #[command(flatten)]
    policy: PolicyArgs,
}

/// Creates the sandbox and prints its id.
///
/// # Errors
/// The daemon's refusal, or no daemon.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let wanted = CreateSandbox { language_pack: Some(args.pack), egress: args.policy.into_spec() };
    let created = client.create_with(&wanted).await?.answer;
    output.print(&created, || format!("{}\n", created.id))?;
    Ok(ExitCode::SUCCESS)
}
