//! `burst`: more concurrent creates than the pool holds. The others wait for restores, which
//! compete for the host's processors.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use emberd_api::Address;

use crate::measure::connection::Connection;
use crate::measure::error::MeasureError;
use crate::measure::rig::Rig;

/// Number of concurrent creates: three times the default size of a pool.
const WIDTH: usize = 6;

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    for pack in packs {
        for _ in 0..rig.iterations {
            rig.settle()?;
            let (created, all) = create_at_once(&rig.address, pack);
            rig.record.time(&format!("all_{pack}"), all);
            let mut ids = Vec::new();
            for each in created {
                let (id, took) = each?;
                rig.record.time(&format!("each_{pack}"), took);
                ids.push(id);
            }
            for id in ids {
                rig.delete(&id)?;
            }
        }
    }
    Ok(())
}

/// Returns each id with the time of its creation, and the time until all were created.
type Burst = (Vec<Result<(String, Duration), MeasureError>>, Duration);

fn create_at_once(address: &Address, pack: &str) -> Burst {
    let start = Barrier::new(WIDTH + 1);
    thread::scope(|scope| {
        let create = || {
            let connection = Connection::open(address);
            start.wait();
            let (id, created) = connection?.create(pack)?;
            Ok((id, created.latency))
        };
        let callers: Vec<_> = (0..WIDTH).map(|_| scope.spawn(create)).collect();
        start.wait();
        let started = Instant::now();
        let created = callers.into_iter().map(|caller| caller.join().expect("no caller panics"));
        (created.collect(), started.elapsed())
    })
}
