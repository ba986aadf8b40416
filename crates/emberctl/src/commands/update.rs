//! `emberctl update ID`: what a sandbox may take of the host's processors.

use std::process::ExitCode;

use emberd_api::{UpdateResources, UpdateSandbox};
use emberd_client::Client;

use crate::output::Output;
use crate::resources::percent;

/// Arguments of `update`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub struct Args {
    /// The sandbox.
    id: String,
    /// Most processor time in per cent of one processor, such as 50%, or `default`.
    #[arg(long, value_parser = |text: &str| or_default(text, percent), value_name = "PERCENT",
        group = "change")]
    cpu: Option<Choice>,
    /// Share of processor time beside other sandboxes, 1 to 10000, or `default`.
    #[arg(long, value_parser = |text: &str| or_default(text, number), value_name = "NUMBER",
        group = "change")]
    cpu_weight: Option<Choice>,
}

/// A number, or the default.
#[derive(Debug, Clone, Copy)]
enum Choice {
    Number(u64),
    Default,
}

impl Choice {
    fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Default => None,
        }
    }
}

fn or_default(text: &str, parse: impl Fn(&str) -> Result<u64, String>) -> Result<Choice, String> {
    if text == "default" { Ok(Choice::Default) } else { parse(text).map(Choice::Number) }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a number".to_owned())
}

/// Changes the processor time of the sandbox.
///
/// # Errors
/// The daemon's refusal, or no daemon.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let resources = UpdateResources {
        cpu_percent: args.cpu.map(Choice::number),
        cpu_weight: args.cpu_weight.map(Choice::number),
    };
    let change = UpdateSandbox { resources: Some(resources), ..UpdateSandbox::default() };
    let sandbox = client.update(&args.id, &change).await?;
    output.print(&sandbox, || format!("{}\n", sandbox.id))?;
    Ok(ExitCode::SUCCESS)
}
