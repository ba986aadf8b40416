//! `bare-fork`: the time for the guest's kernel to fork an interpreter, let it exit and wait for
//! it, measured by a program in the guest. It alternates with execs by zygote in that guest.

use crate::measure::error::MeasureError;
use crate::measure::programs::{Language, Program};
use crate::measure::rig::{Rig, WARM_UPS, started_word};

/// Forks and execs in one round.
const TURN: usize = 10;

/// Prints the microseconds of each fork, after one that does not count.
const FORKS: &str = "\
import os, time
def fork():
    started = time.perf_counter_ns()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return (time.perf_counter_ns() - started) // 1000
fork()
print(*[fork() for _ in range(TURN)])
";

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    if !rig.packs.iter().any(|pack| pack == "python") {
        return Err(MeasureError::NotHere("the scenario needs the pack python"));
    }
    let hello = Language::Python.hello();
    let forks = Program::succeeding(FORKS.replace("TURN", &TURN.to_string()));
    let fresh_forks = forks.clone().fresh();
    let (id, _) = rig.create("python")?;
    for _ in 0..WARM_UPS {
        rig.exec(&id, &hello)?;
        rig.exec(&id, &forks)?;
    }
    for _ in 0..rig.iterations.div_ceil(TURN) {
        for (series, program) in
            [("fork_exit_wait", &forks), ("fork_exit_wait_fresh", &fresh_forks)]
        {
            rig.settle()?;
            let (outcome, _) = rig.exec(&id, program)?;
            for value in numbers(&outcome.stdout)? {
                rig.record.sample(series, value);
            }
        }
        for _ in 0..TURN {
            rig.settle()?;
            let (outcome, ran) = rig.exec(&id, &hello)?;
            let word = started_word(outcome.exit.started_by);
            rig.record.time(&format!("{word}_exec"), ran.latency);
            rig.record.sample(&format!("{word}_exec_in_guest"), outcome.exit.duration_us);
        }
    }
    rig.delete(&id)?;
    Ok(())
}

fn numbers(text: &str) -> Result<Vec<u64>, MeasureError> {
    let numbers: Option<Vec<u64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
    numbers.filter(|numbers| numbers.len() == TURN).ok_or_else(|| MeasureError::Unexpected {
        what: "the program that forks".into(),
        expected: format!("{TURN} numbers"),
        seen: text.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_as_many_numbers_as_asked_for_are_taken() {
        assert_eq!(numbers("1 2 3 4 5 6 7 8 9 10\n").unwrap().len(), TURN);
        assert!(numbers("1 2").is_err() && numbers("1 2 3 4 5 6 7 8 9 x").is_err());
    }
}
