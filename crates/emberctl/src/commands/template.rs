//! `emberctl template`: what sandboxes are restored from, one for each language pack and size.

use std::process::ExitCode;

use emberd_api::{BuildTemplate, Resources, Template, TemplateState};
use emberd_client::Client;
use serde::Serialize;

use super::image::progress;
use crate::output::{self, Clock, Output};
use crate::resources::SizeArgs;

/// Commands on templates.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the templates.
    Ls,
    /// Build templates that are missing, and wait until they are ready.
    Build(BuildArgs),
    /// Remove templates and empty their pools; sandboxes boot cold until they are built again.
    Rm(Args),
}

/// Arguments of `template build`.
#[derive(Debug, clap::Args)]
pub struct BuildArgs {
    #[command(flatten)]
    of: Args,
    /// Keep this many microVMs of the size ready.
    #[arg(long, value_name = "NUMBER")]
    pool: Option<u64>,
}

/// Language packs and a size.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Language packs.
    #[arg(required = true, value_name = "PACK")]
    packs: Vec<String>,
    #[command(flatten)]
    size: SizeArgs,
}

/// The JSON output of `template rm`.
#[derive(Serialize)]
struct Deleted {
    deleted: Vec<String>,
}

/// Carries out `command`.
///
/// # Errors
/// The daemon's refusal, or no daemon.
pub async fn run(client: &Client, command: Command, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Ls => {
            let list = client.templates().await?;
            output.print(&list, || text(&list.templates))?;
        }
        Command::Build(args) => {
            let built = build(client, args, output).await?;
            output.print(&built, || text(&built))?;
        }
        Command::Rm(args) => {
            for pack in &args.packs {
                client.delete_template_of(pack, &args.size.into()).await?;
            }
            let document = Deleted { deleted: args.packs };
            output
                .print(&document, || document.deleted.iter().flat_map(|id| [id, "\n"]).collect())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds one after the other, which is also what the daemon does. Interrupting this does not
/// end the build.
async fn build(client: &Client, args: BuildArgs, output: Output) -> anyhow::Result<Vec<Template>> {
    let Resources { vcpus, memory_mib, .. } = args.of.size.into();
    let wanted = BuildTemplate { vcpus, memory_mib, pool_size: args.pool };
    let mut progress = progress::on_terminal(output);
    let mut built = Vec::new();
    for pack in &args.of.packs {
        progress.stage(&format!("template of {pack}"));
        built.push(client.build_template_of(pack, &wanted).await?);
    }
    Ok(built)
}

fn text(templates: &[Template]) -> String {
    let clock = Clock::now();
    let rows: Vec<_> = templates.iter().map(|template| row(template, clock)).collect();
    output::table(["PACK", "STATE", "CPUS", "MEMORY", "AGE", "DISK", "WHERE, OR WHY NOT"], &rows)
}

fn row(template: &Template, clock: Clock) -> [String; 7] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    [
        template.language_pack.clone(),
        state(template.state).to_owned(),
        template.vcpus.to_string(),
        format!("{} MiB", template.memory_mib),
        or_dash(template.made_at_ms.map(|made_at_ms| clock.age(made_at_ms))),
        or_dash(template.disk_bytes.map(output::bytes)),
        or_dash(template.dir.clone().or_else(|| template.error.clone())),
    ]
}

/// The word for a state.
fn state(state: TemplateState) -> &'static str {
    match state {
        TemplateState::Absent => "absent",
        TemplateState::Building => "building",
        TemplateState::Ready => "ready",
        TemplateState::Failed => "failed",
    }
}
