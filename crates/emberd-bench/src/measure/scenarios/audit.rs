//! `audit`: what the audit journal costs a request that it records, beside a daemon without one.
//!
//! The request is refused at once (a deletion of an unknown sandbox), so that nothing else of it
//! counts. Processor time is that of the whole daemon, the journal's thread and its syncs included.
//! Each batch has a connection of its own: on which thread of the daemon one comes to lie is luck,
//! and makes a request twice as dear.

use std::time::Duration;

use crate::measure::connection::{CallError, Connection};
use crate::measure::error::MeasureError;
use crate::measure::proc::processor_time;
use crate::measure::rig::{Rig, WARM_UPS};

/// Requests in a row to one daemon. Each batch is one sample of processor time.
const BATCH: usize = 500;

/// A sandbox that does not exist.
const UNKNOWN: &str = "sb_000000000000";

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let Some(home) = rig.home.as_ref().map(|home| home.pid()) else {
        return Err(MeasureError::NotHere("the scenario needs a daemon of its own"));
    };
    let other = rig.another(&["--audit", "off"].map(Into::into))?;
    let mut both = [
        ("recorded", home, rig.address.clone()),
        ("unrecorded", other.pid(), other.address.clone()),
    ];
    let batches = rig.iterations.div_ceil(BATCH);
    let batch = rig.iterations.min(BATCH);
    for round in 0..WARM_UPS + batches {
        both.reverse();
        for (which, pid, address) in &both {
            let mut connection = Connection::open(address)?;
            let before = processor_time(*pid).unwrap_or_default();
            let mut latencies = Vec::with_capacity(batch);
            for _ in 0..batch {
                rig.interrupt.check()?;
                latencies.push(refused(&mut connection)?);
            }
            let taken = processor_time(*pid).unwrap_or_default().saturating_sub(before);
            if round < WARM_UPS {
                continue;
            }
            for latency in latencies {
                rig.record.time(&format!("request_{which}"), latency);
            }
            let each = taken / u32::try_from(batch).unwrap_or(u32::MAX);
            rig.record.time(&format!("cpu_{which}"), each);
        }
    }
    rig.stop(other)
}

/// How long the refusal takes.
fn refused(connection: &mut Connection) -> Result<Duration, MeasureError> {
    let asked = std::time::Instant::now();
    match connection.delete(UNKNOWN) {
        Err(CallError::Refused { status: 404, .. }) => Ok(asked.elapsed()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(MeasureError::Unexpected {
            what: format!("DELETE {UNKNOWN}"),
            expected: "404".to_owned(),
            seen: "a success".to_owned(),
        }),
    }
}
