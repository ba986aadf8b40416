//! Where the time of a command's requests went: the client's clock, the daemon's
//! `Server-Timing`, and the guest's own account.

use std::fmt::Write as _;
use std::time::Duration;

use emberd_api::{ExecOutcome, STAGE_TOTAL, ServerTiming, StartedBy};
use emberd_client::Traced;
use serde::Serialize;

use crate::output::{bold, milliseconds, printable};

/// Every request of a command, in order.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Trace(Vec<Call>);

/// One request.
#[derive(Debug, Serialize)]
struct Call {
    request: &'static str,
    /// From its first byte to its answer's last, by this program's clock.
    round_trip_us: u64,
    /// As the daemon told them.
    stages: ServerTiming,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_by: Option<StartedBy>,
}

impl Trace {
    /// Notes a request that was answered, and hands on the answer.
    pub fn note<T>(&mut self, request: &'static str, traced: Traced<T>) -> T {
        let round_trip_us = micros(traced.round_trip);
        self.0.push(Call { request, round_trip_us, stages: traced.timing, started_by: None });
        traced.answer
    }

    /// Notes an exec, as [`Self::note`].
    pub fn note_exec(&mut self, traced: Traced<ExecOutcome>) -> ExecOutcome {
        let outcome = self.note("exec", traced);
        if let Some(exec) = self.0.last_mut() {
            exec.started_by = outcome.exit.started_by;
        }
        outcome
    }

    /// A line for each request, and below it one for each stage.
    pub fn text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, call| {
            call.write(&mut text);
            text
        })
    }
}

impl Call {
    fn write(&self, text: &mut String) {
        let said = self.stages.stages.iter().filter_map(|stage| stage.description.clone());
        let started_by = self.started_by.map(|by| match by {
            StartedBy::Spawn => "a new interpreter".into(),
            StartedBy::Zygote => "a fork of the warm interpreter".into(),
        });
        let said: Vec<_> = said.chain(started_by).collect();
        let said = printable(&said.join(", "));
        line(text, &bold(&format!("{:<10}", self.request)), self.round_trip_us, &said);
        for (name, us) in self.parts() {
            line(text, &format!("  {:<8}", printable(name)), us, "");
        }
    }

    /// The parts of the round trip. Time that no stage accounts for is the daemon's own work. Time
    /// that the daemon did not see is the way to the daemon and back.
    fn parts(&self) -> Vec<(&str, u64)> {
        let Some(total) = self.stages.duration(STAGE_TOTAL).map(micros) else { return Vec::new() };
        let stages = self.stages.stages.iter().filter(|stage| stage.name != STAGE_TOTAL);
        let stages: Vec<_> =
            stages.filter_map(|stage| Some((&*stage.name, stage.duration_us?))).collect();
        let told = stages.iter().fold(0_u64, |told, (_, us)| told.saturating_add(*us));
        let way = self.round_trip_us.saturating_sub(total);
        let ours = [("way", way), ("daemon", total.saturating_sub(told))];
        ours.into_iter().chain(stages).collect()
    }
}

fn line(text: &mut String, label: &str, us: u64, said: &str) {
    let line = format!("{label}{:>14}  {said}", milliseconds(us));
    writeln!(text, "{}", line.trim_end()).expect("strings take everything");
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_stage_accounts_for_is_named() {
        let stages = "boot-path;desc=\"warm-pool\", load;dur=1.5, total;dur=2".parse().unwrap();
        let mut trace = Trace::default();
        let round_trip = Duration::from_millis(3);
        trace.note("create", Traced { answer: (), round_trip, timing: stages });
        let plain = anstream::adapter::strip_str(&trace.text()).to_string();
        let expect = "create          3.000 ms  warm-pool\n  \
            way           1.000 ms\n  daemon        0.500 ms\n  load          1.500 ms\n";
        assert_eq!(plain, expect);
    }
}
