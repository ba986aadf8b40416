//! `exec`: one program repeatedly in an existing sandbox, by zygote where the pack has one and in
//! a new interpreter, with pauses, without pauses, and three in a row. Each variant has its own
//! sandbox, so that it does not affect the caches of the others.

use crate::measure::error::MeasureError;
use crate::measure::programs::{Language, Program};
use crate::measure::rig::{Rig, WARM_UPS, started_word};

/// Programs in a row, before a pause.
const IN_A_ROW: usize = 3;

/// A variant of running the program.
struct Way {
    series: String,
    id: String,
    program: Program,
}

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    let mut ways = Vec::new();
    for pack in packs {
        let hello = Language::of(pack)?.hello();
        let (id, _) = rig.create(pack)?;
        let (outcome, _) = rig.exec(&id, &hello)?;
        let word = started_word(outcome.exit.started_by);
        if word == "zygote" {
            let (series, program) = (format!("{pack}_fresh"), hello.clone().fresh());
            ways.push(Way { series, id: rig.create(pack)?.0, program });
        } else if pack == "python" {
            rig.record.doubt("python programs are not forked from a zygote");
        }
        ways.push(Way { series: format!("{pack}_{word}"), id, program: hello });
    }
    for way in &ways {
        for _ in 0..WARM_UPS {
            rig.exec(&way.id, &way.program)?;
        }
    }
    for _ in 0..rig.iterations {
        for way in &ways {
            rig.settle()?;
            let (_, ran) = rig.exec(&way.id, &way.program)?;
            rig.record.call(&way.series, &ran);
        }
    }
    for way in &ways {
        let series = format!("{}_back_to_back", way.series);
        for _ in 0..rig.iterations {
            rig.interrupt.check()?;
            let (_, ran) = rig.exec(&way.id, &way.program)?;
            rig.record.time(&series, ran.latency);
        }
    }
    for _ in 0..rig.iterations.div_ceil(IN_A_ROW) {
        for way in &ways {
            rig.settle()?;
            for _ in 0..IN_A_ROW {
                let (_, ran) = rig.exec(&way.id, &way.program)?;
                rig.record.time(&format!("{}_in_a_row", way.series), ran.latency);
            }
        }
    }
    ways.iter().try_for_each(|way| rig.delete(&way.id).map(drop))
}
