//! `run_code`: code in an interpreter that keeps its variables.

use emberd_api::{ContextRun, EgressDenials, ErrorCode, Forms, RunEvent};
use emberd_client::{Client, RunEvents};
use rmcp::model::CallToolResult;
use serde::Deserialize;

use super::sandboxes::{self, Created};
use crate::answer::{Answer, IMAGE_BYTES_MAX, IMAGES_MAX, Image, budget, link};
use crate::call::{Call, time};
use crate::contexts::DEFAULT;
use crate::failure::Failure;
use crate::outputs::{Output, run_name};
use crate::text::{Cleaner, Kept, clean, one_line};

/// Time limit of code whose call names none, in seconds: less than the time after which many
/// clients give up.
const TIMEOUT_S: u64 = 45;

/// Longest message of an exception in the first line, in characters.
const MESSAGE_CHARS_MAX: usize = 300;

/// Forms of a value that can be read as text, best first.
const TEXT_FORMS: [&str; 4] = ["text/plain", "text/markdown", "application/json", "text/html"];

/// Arguments of `run_code`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunCode {
    code: String,
    sandbox: Option<String>,
    language: Option<String>,
    context: Option<String>,
    timeout_s: Option<u64>,
    max_output: Option<usize>,
}

/// Where code runs.
struct Place {
    sandbox: String,
    context: String,
    /// Lines of the answer about it.
    notes: Vec<String>,
}

/// Runs code.
pub async fn run(call: &mut Call<'_>, wanted: RunCode) -> Result<CallToolResult, Failure> {
    let limit = time(wanted.timeout_s, TIMEOUT_S)?;
    let timeout_ms = u64::try_from(limit.as_millis()).ok();
    let max_image_bytes = u64::try_from(IMAGE_BYTES_MAX).ok();
    let run = ContextRun { code: wanted.code.clone(), timeout_ms, max_image_bytes };
    let mut place = place(call, &wanted).await?;
    let _turn = call.server.contexts.turn(&place.context).await;
    let mut ran = Ran::default();
    let mut events = begin(call, &mut place, &wanted, &run).await?;
    loop {
        let event = tokio::select! {
            event = events.next() => event?,
            never = call.progress.tell() => match never {},
        };
        let Some(event) = event else { break };
        if let RunEvent::Stdout { text } | RunEvent::Stderr { text } = &event {
            call.progress.note(text);
        }
        ran.take(event);
    }
    Ok(ran.into_result(call, &place, limit.as_secs(), budget(wanted.max_output)))
}

/// The sandbox and the context that a call names, or that are made for it.
async fn place(call: &Call<'_>, wanted: &RunCode) -> Result<Place, Failure> {
    let named = wanted.sandbox.clone().filter(|id| !id.is_empty());
    let (sandbox, mut notes) = match named.or_else(|| call.server.sandbox.clone()) {
        Some(id) => (id, Vec::new()),
        None => own_sandbox(call).await?,
    };
    let (language, name) = (wanted.language.as_deref(), wanted.context.as_deref());
    let client = &call.daemon.client;
    let name = name.filter(|name| !name.is_empty()).unwrap_or(DEFAULT);
    let context = call.server.contexts.find(client, &sandbox, language, name).await?;
    if name != DEFAULT {
        notes.push(format!("context {context}"));
    }
    Ok(Place { sandbox, context, notes })
}

/// A sandbox for code that names none. On standard input and output there is one for all such
/// code, else one for each call.
async fn own_sandbox(call: &Call<'_>) -> Result<(String, Vec<String>), Failure> {
    let is_shared = matches!(call.server.life, crate::life::Life::Leased(_));
    let mut own = call.server.own.lock().await;
    if is_shared && let Some(id) = own.as_ref() {
        match call.daemon.client.get(id).await.map_err(Failure::from) {
            Ok(_) => return Ok((id.clone(), vec![format!("sandbox {id}")])),
            Err(error) if error.is(ErrorCode::UnknownSandbox) => *own = None,
            Err(error) => return Err(error),
        }
    }
    if !is_shared {
        drop(own);
        let created = sandboxes::created(call, sandboxes::Create::default()).await?;
        return Ok(announced(created));
    }
    let created = sandboxes::created(call, sandboxes::Create::default()).await?;
    *own = Some(created.id.clone());
    Ok(announced(created))
}

fn announced(Created { id, expires_at }: Created) -> (String, Vec<String>) {
    let note = format!("sandbox {id} was created; it is deleted at {expires_at}");
    (id, vec![note])
}

/// Begins the run. A default context that was deleted is found again, and an interpreter that has
/// ended is started again.
async fn begin(
    call: &Call<'_>,
    place: &mut Place,
    wanted: &RunCode,
    run: &ContextRun,
) -> Result<RunEvents, Failure> {
    let client = &call.daemon.client;
    let is_default = wanted.context.as_deref().is_none_or(|name| name == DEFAULT);
    let error = match start(client, place, run).await {
        Err(error) if error.is(ErrorCode::ContextDead) || error.is(ErrorCode::NotFound) => error,
        other => return other,
    };
    if error.is(ErrorCode::ContextDead) {
        client.restart_context(&place.sandbox, &place.context).await?;
        place
            .notes
            .push("the interpreter had ended and was started again without its variables".into());
    } else if is_default {
        call.server.contexts.forget(&place.context);
        let language = wanted.language.as_deref();
        place.context =
            call.server.contexts.find(client, &place.sandbox, language, DEFAULT).await?;
    } else {
        return Err(error.hint("leave `context` out, or use \"new\""));
    }
    start(client, place, run).await
}

async fn start(client: &Client, place: &Place, run: &ContextRun) -> Result<RunEvents, Failure> {
    Ok(client.run_context(&place.sandbox, &place.context, run).await?)
}

/// The events of a run so far.
#[derive(Default)]
struct Ran {
    stdout: (Cleaner, Kept),
    stderr: (Cleaner, Kept),
    values: Kept,
    traceback: Kept,
    error: Option<String>,
    images: Vec<Image>,
    end: Option<(bool, bool, u64, EgressDenials)>,
}

impl Ran {
    fn take(&mut self, event: RunEvent) {
        match event {
            RunEvent::Stdout { text } => self.stdout.0.push(&text, &mut self.stdout.1),
            RunEvent::Stderr { text } => self.stderr.0.push(&text, &mut self.stderr.1),
            RunEvent::Display { data } | RunEvent::Result { data } => self.value(&data),
            RunEvent::Error { name, value, traceback } => {
                let error = format!("{}: {}", clean(&name), clean(&value));
                self.error = Some(one_line(&error, MESSAGE_CHARS_MAX));
                self.traceback.push(&clean(&traceback));
            }
            RunEvent::End { timed_out, truncated, duration_us, egress, .. } => {
                self.end = Some((timed_out, truncated, duration_us, egress));
            }
            RunEvent::Started { .. } | RunEvent::Gap { .. } | RunEvent::Other => {}
        }
    }

    fn value(&mut self, data: &Forms) {
        if let Some(image) = Image::of(data) {
            self.images.push(image);
            return;
        }
        let text = TEXT_FORMS.into_iter().find_map(|form| {
            let value: serde_json::Value = data.get(form)?;
            Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        });
        if let Some(text) = text {
            let mut text = clean(&text);
            if !text.ends_with('\n') {
                text.push('\n');
            }
            self.values.push(&text);
        }
    }

    fn into_result(
        self,
        call: &Call<'_>,
        place: &Place,
        limit_s: u64,
        budget: usize,
    ) -> CallToolResult {
        let Self { stdout, stderr, values, traceback, error, images, end } = self;
        let (timed_out, truncated, duration_us, denials) = end.unwrap_or_default();
        let mut answer = Answer::of(match &error {
            _ if timed_out => format!(
                "interrupted after {limit_s} s; raise timeout_s, or use run_command for long work"
            ),
            Some(error) => format!("failed after {} ms: {error}", duration_us / 1_000),
            None => format!("ok, {} ms", duration_us / 1_000),
        });
        place.notes.iter().for_each(|note| answer.line(note.as_str()));
        for (label, (cleaner, mut kept)) in [("stdout", stdout), ("stderr", stderr)] {
            cleaner.finish(&mut kept);
            answer.text(label, kept);
        }
        answer.text("result", values);
        answer.text("traceback", traceback);
        if truncated {
            answer.note("output beyond the limits of the daemon was dropped");
        }
        answer.denials(&denials);
        let run = run_name();
        let keep = |number, output| call.server.outputs.keep(&place.sandbox, &run, number, output);
        for (index, image) in images.into_iter().enumerate() {
            if index < IMAGES_MAX && image.bytes() <= IMAGE_BYTES_MAX {
                answer.block(image.into_block());
                continue;
            }
            let (bytes, mime_type) = (image.bytes() as u64, image.mime_type);
            let uri = keep(index + 1, Output::Image(image));
            answer.block(link(uri, "image", Some(mime_type), bytes));
        }
        let rest = (answer.left_out(budget) > 0).then(|| {
            let uri = keep(0, Output::Text(answer.texts()));
            format!("read_file takes {uri} as `path`")
        });
        answer.into_result(budget, rest.as_deref())
    }
}
