//! `context`: a run in a context that lives, from the request to its last event. Beside it an
//! exec of the same pack and a request that the agent answers without any program, in turns.

use std::io;
use std::time::{Duration, Instant};

use emberd_api::{ContextRun, ContextSpec, RunEvent};
use emberd_client::{Client, ClientError, RunEvents};

use crate::measure::MeasureError;
use crate::measure::programs::Language;
use crate::measure::rig::{Rig, WARM_UPS};

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(&rig.address.to_string()).map_err(io::Error::other)?;
    let packs = rig.packs;
    for pack in packs {
        let language = Language::of(pack)?;
        let [begin, count] = language.counting();
        let hello = language.hello();
        let (id, _) = rig.create(pack)?;
        let asked = Instant::now();
        let opened = runtime.block_on(client.open_context(&id, &ContextSpec::default()));
        let context = opened.map_err(failed)?.id;
        rig.record.time(&format!("open_{pack}"), asked.elapsed());
        let room = Room { client: &client, id: &id, context: &context };
        runtime.block_on(room.run(begin)).map_err(failed)?;
        for iteration in 0..WARM_UPS + rig.iterations {
            rig.settle()?;
            let (said, stages) = runtime.block_on(room.run(count)).map_err(failed)?;
            expect(&said, iteration + 1)?;
            rig.settle()?;
            let (_, ran) = rig.exec(&id, &hello)?;
            rig.settle()?;
            let agent = rig.connection.stat(&id, "/")?;
            if iteration >= WARM_UPS {
                stages.record(rig, pack);
                rig.record.call(&format!("exec_{pack}"), &ran);
                rig.record.time(&format!("agent_{pack}_floor"), agent);
            }
        }
        rig.delete(&id)?;
    }
    Ok(())
}

/// A context, and a client of its daemon.
struct Room<'a> {
    client: &'a Client,
    id: &'a str,
    context: &'a str,
}

/// What a run took.
struct Stages {
    /// Until the answer's head: the request is understood, the run has its turn.
    accepted: Duration,
    /// From there until the interpreter had begun.
    begun: Duration,
    /// All of it.
    whole: Duration,
}

impl Stages {
    fn record(&self, rig: &mut Rig, pack: &str) {
        let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let rest = self.whole.saturating_sub(self.accepted).saturating_sub(self.begun);
        let stages = [("accept", self.accepted), ("begin", self.begun), ("run", rest)];
        let stages = stages.map(|(name, took)| (name.to_owned(), us(took)));
        rig.record.time_with_stages(&format!("run_{pack}"), self.whole, &stages);
    }
}

impl Room<'_> {
    /// Runs `code`; what it printed, or its result.
    async fn run(&self, code: &str) -> Result<(String, Stages), ClientError> {
        let run = ContextRun { code: code.to_owned(), timeout_ms: None };
        let asked = Instant::now();
        let mut events: RunEvents = self.client.run_context(self.id, self.context, &run).await?;
        let accepted = asked.elapsed();
        let (mut said, mut begun) = (String::new(), Duration::ZERO);
        while let Some(event) = events.next().await? {
            match event {
                RunEvent::Started { .. } => begun = asked.elapsed().saturating_sub(accepted),
                RunEvent::Stdout { text } => said += text.trim_end(),
                RunEvent::Result { data } => {
                    said += data.get("text/plain").and_then(|text| text.as_str()).unwrap_or("");
                }
                RunEvent::Error { traceback, .. } => said += &traceback,
                _ => {}
            }
        }
        Ok((said, Stages { accepted, begun, whole: asked.elapsed() }))
    }
}

fn expect(said: &str, count: usize) -> Result<(), MeasureError> {
    if said == count.to_string() {
        return Ok(());
    }
    let (what, seen) = ("a run in a context".to_owned(), said.to_owned());
    Err(MeasureError::Unexpected { what, expected: count.to_string(), seen })
}

fn failed(error: ClientError) -> MeasureError {
    io::Error::other(error).into()
}
