//! `context`: a run in an existing context, from the request to its last event. It alternates
//! with an exec of the same pack and a request that the agent answers without a program.

use std::io;
use std::time::{Duration, Instant};

use emberd_api::{ContextRun, ContextSpec, RunEvent};
use emberd_client::{Client, ClientError};

use crate::measure::error::MeasureError;
use crate::measure::programs::Language;
use crate::measure::rig::{Rig, WARM_UPS};

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(&rig.address.to_string()).map_err(io::Error::other)?;
    let packs = rig.packs;
    for pack in packs {
        let hello = Language::of(pack)?.hello();
        let (id, _) = rig.create(pack)?;
        let asked = Instant::now();
        let mut counter = runtime.block_on(Counter::open(&client, &id, pack))?;
        rig.record.time(&format!("open_{pack}"), asked.elapsed());
        for iteration in 0..WARM_UPS + rig.iterations {
            rig.settle()?;
            let stages = runtime.block_on(counter.count())?;
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

/// A context that counts its runs.
pub struct Counter<'a> {
    client: &'a Client,
    id: &'a str,
    context: String,
    code: &'static str,
    counted: usize,
}

/// The times of a run.
pub struct Stages {
    /// Until the answer's head: the request was parsed and the run was admitted.
    accepted: Duration,
    /// From there until the interpreter began.
    begun: Duration,
    /// Total.
    pub whole: Duration,
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

impl<'a> Counter<'a> {
    /// Opens a context of `pack` in a sandbox, and starts the count.
    pub async fn open(client: &'a Client, id: &'a str, pack: &str) -> Result<Self, MeasureError> {
        let [begin, code] = Language::of(pack)?.counting();
        let opened = client.open_context(id, &ContextSpec::default()).await.map_err(failed)?;
        let counter = Self { client, id, context: opened.id, code, counted: 0 };
        counter.run(begin).await.map_err(failed)?;
        Ok(counter)
    }

    /// Notes that somebody else has counted.
    pub fn skip(&mut self) {
        self.counted += 1;
    }

    /// Increments the count, and checks the result.
    pub async fn count(&mut self) -> Result<Stages, MeasureError> {
        let (said, stages) = self.run(self.code).await.map_err(failed)?;
        self.counted += 1;
        let expected = self.counted.to_string();
        if said == expected {
            return Ok(stages);
        }
        let what = "a run in a context".to_owned();
        Err(MeasureError::Unexpected { what, expected, seen: said })
    }

    async fn run(&self, code: &str) -> Result<(String, Stages), ClientError> {
        run_code(self.client, self.id, &self.context, code).await
    }
}

/// Runs `code` in a context; returns its output and its result or error, without white space at
/// the end.
pub async fn run_code(
    client: &Client,
    id: &str,
    context: &str,
    code: &str,
) -> Result<(String, Stages), ClientError> {
    let run = ContextRun { code: code.to_owned(), ..ContextRun::default() };
    let asked = Instant::now();
    let mut events = client.run_context(id, context, &run).await?;
    let accepted = asked.elapsed();
    let (mut said, mut begun) = (String::new(), Duration::ZERO);
    while let Some(event) = events.next().await? {
        match event {
            RunEvent::Started { .. } => begun = asked.elapsed().saturating_sub(accepted),
            RunEvent::Stdout { text } => said += &text,
            RunEvent::Result { data } => {
                said += &data.get::<String>("text/plain").unwrap_or_default();
            }
            RunEvent::Error { traceback, .. } => said += &traceback,
            _ => {}
        }
    }
    let stages = Stages { accepted, begun, whole: asked.elapsed() };
    Ok((said.trim_end().to_owned(), stages))
}

fn failed(error: ClientError) -> MeasureError {
    io::Error::other(error).into()
}
