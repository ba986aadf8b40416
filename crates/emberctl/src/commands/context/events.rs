//! `emberctl context events`: what the runs of a context have told, and what they tell.

use std::process::ExitCode;

use emberd_api::{ContextState, RunEvent};
use emberd_client::Client;

use super::pictures::Pictures;
use super::shown::Shown;
use crate::output::Output;

/// Arguments of `context events`.
#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    /// The sandbox.
    sandbox: String,
    /// The context.
    context: String,
    /// Begin with the event of this number.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    from: u64,
    /// Wait for the runs that follow, until the context is deleted or the daemon stops.
    #[arg(short, long)]
    follow: bool,
}

/// Shows the events that the daemon has kept, and those of the run under way as they come. With
/// `--json`, each is a line of JSON. The exit code says how the last run went.
///
/// # Errors
/// The daemon's refusal, or no daemon.
pub async fn run(client: &Client, args: EventsArgs, output: Output) -> anyhow::Result<ExitCode> {
    let EventsArgs { sandbox, context, from, follow } = args;
    let mut events = client.context_events(&sandbox, &context, from).await?;
    let mut shown = Shown::new(output, Pictures::new(None)?);
    let mut next = from;
    // A run ends with an event, and so does what is missing.
    let mut may_be_all = true;
    loop {
        if may_be_all && !follow && has_all(client, &sandbox, &context, next).await? {
            return Ok(shown.exit());
        }
        let Some(event) = events.next().await? else { return Ok(shown.exit()) };
        shown.event(&event)?;
        next = event.id.saturating_add(1);
        may_be_all = matches!(event.event, RunEvent::End { .. } | RunEvent::Gap { .. });
    }
}

/// Whether nothing runs, and no event has number `next` or a higher one.
async fn has_all(client: &Client, sandbox: &str, context: &str, next: u64) -> anyhow::Result<bool> {
    let list = client.contexts(sandbox).await?;
    let context = list.contexts.iter().find(|other| other.id == context);
    Ok(context
        .is_none_or(|context| context.state != ContextState::Busy && context.next_event <= next))
}
