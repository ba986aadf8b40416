//! Gives the memory of the pools back while the host is short of memory.
//!
//! Linux counts the time in which some task waited for memory. While that is more than a fifth of
//! the time, what was made ahead is ended and nothing is made ahead; sandboxes are left alone.

use std::path::Path;
use std::sync::Arc;

use tokio::time::sleep;

use super::sources::Sources;

/// Share of the time in which some task may wait for memory, in per cent.
const WAITING_PERCENT_MAX: u128 = 20;

/// Empties the pools whenever the host is short of memory. Returns only if the host does not
/// measure that.
pub(crate) async fn yield_memory(sources: Arc<Sources>) {
    let Some(config) = &sources.base.config.pool else { return };
    let period = config.pace.pressure_period;
    let allowed_us = period.as_micros() * WAITING_PERCENT_MAX / 100;
    let Some(mut before_us) = waited_us(&config.pressure) else {
        tracing::debug!(path = %config.pressure.display(), "no measure of memory pressure");
        return;
    };
    loop {
        sleep(period).await;
        let Some(now_us) = waited_us(&config.pressure) else { continue };
        let is_short = u128::from(now_us.saturating_sub(before_us)) > allowed_us;
        before_us = now_us;
        if sources.pools.set_short(is_short, &sources.reaper) {
            if is_short {
                tracing::warn!("the host is short of memory: the warm pools are emptied");
            } else {
                tracing::info!("the host has memory again: the warm pools are filled");
            }
        }
    }
}

/// Reads for how long some task has waited for memory since the host started, in microseconds.
fn waited_us(path: &Path) -> Option<u64> {
    total_us(&std::fs::read_to_string(path).ok()?)
}

/// The total of the line `some` of a pressure file; see the kernel's `accounting/psi.rst`.
fn total_us(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_that_of_some() {
        let text = "some avg10=0.00 avg60=0.12 avg300=0.00 total=4711\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=12\n";
        assert_eq!(total_us(text), Some(4711));
        for other in ["", "full avg10=0.00 total=12", "some avg10=0.00", "some total=x"] {
            assert_eq!(total_us(other), None, "{other}");
        }
    }
}
