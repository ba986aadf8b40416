//! `concurrency`: create, exec and delete by concurrent callers, whose number doubles from 1 to
//! 64. Beyond the pool's size, callers wait for restores.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use emberd_api::Address;
use emberd_proto::chain;

use crate::measure::connection::Connection;
use crate::measure::error::MeasureError;
use crate::measure::proc;
use crate::measure::programs::Language;
use crate::measure::rig::{Rig, body};

/// Numbers of concurrent callers.
const WIDTHS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Memory that the host needs for each caller, in bytes: the maximum that a guest of the measured
/// packs and its VMM use under emulation.
const BYTES_PER_CALLER: u64 = 160 << 20;

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let Some(pack) = rig.packs.first() else { return Ok(()) };
    let language = Language::of(pack)?;
    for width in WIDTHS {
        let needed = BYTES_PER_CALLER * width as u64;
        if proc::memory().is_none_or(|(_, available)| available < needed) {
            rig.record.doubt(format!("too little memory for {width} at once: skipped"));
            break;
        }
        let mut failures = Vec::new();
        for _ in 0..rig.iterations {
            rig.settle()?;
            let (lives, round) = race(&rig.address, pack, language, width);
            for life in lives {
                match life {
                    Ok(took) => rig.record.time(&format!("life_{pack}_{width:02}"), took),
                    Err(error) => failures.push(error),
                }
            }
            rig.record.time(&format!("all_{pack}_{width:02}"), round);
        }
        // Wider sweeps would only fail more slowly.
        if let Some(first) = failures.first() {
            let (count, of) = (failures.len(), width * rig.iterations);
            let seen = format!("{count} of {of} failed, the first with: {}", chain(first));
            rig.record.check(&format!("all {width} concurrent callers are answered"), false, seen);
            break;
        }
    }
    Ok(())
}

/// Runs `width` concurrent callers; returns the time of each, and the total time.
fn race(
    address: &Address,
    pack: &str,
    language: Language,
    width: usize,
) -> (Vec<Result<Duration, MeasureError>>, Duration) {
    let start = Barrier::new(width + 1);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..width)
            .map(|caller| {
                let start = &start;
                scope.spawn(move || {
                    let connection = Connection::open(address);
                    start.wait();
                    life(connection?, pack, language, &format!("caller_{caller}"))
                })
            })
            .collect();
        start.wait();
        let started = Instant::now();
        let lives = callers.into_iter().map(|caller| caller.join().expect("callers do not panic"));
        (lives.collect(), started.elapsed())
    })
}

fn life(
    mut connection: Connection,
    pack: &str,
    language: Language,
    word: &str,
) -> Result<Duration, MeasureError> {
    let program = language.saying(word);
    let (id, created) = connection.create(pack)?;
    let ran = connection.exec(&id, &body(&program));
    let deleted = connection.delete(&id)?;
    let (outcome, ran) = ran?;
    program.verify(&outcome)?;
    Ok(created.latency + ran.latency + deleted.latency)
}
