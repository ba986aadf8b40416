//! `metrics`: how long `GET /metrics` takes beside as many sandboxes as there are iterations.

use crate::measure::error::MeasureError;
use crate::measure::rig::{Rig, WARM_UPS};
use crate::statistics::{BYTES_SUFFIX, COUNT_SUFFIX};

/// Scrapes of the full table.
const SCRAPES: usize = 100;

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let alone = scrape(rig, "scrape_alone")?;
    let mut ids = Vec::with_capacity(rig.iterations);
    for _ in 0..rig.iterations {
        rig.interrupt.check()?;
        ids.push(rig.create("shell")?.0);
    }
    let crowded = scrape(rig, "scrape")?;
    rig.record.sample(&format!("sandboxes{COUNT_SUFFIX}"), ids.len() as u64);
    rig.record.sample(&format!("scrape{BYTES_SUFFIX}"), crowded.len() as u64);
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    // No label has an id: sandboxes of one pack add the series of one.
    let (before, after) = (series(&alone), series(&crowded));
    rig.record.check("few series", after < before + 64, format!("{before}, then {after}"));
    for id in ids {
        rig.delete(&id)?;
    }
    rig.settle()
}

/// Scrapes some times; returns the last text.
fn scrape(rig: &mut Rig, name: &str) -> Result<String, MeasureError> {
    let mut text = String::new();
    for scrape in 0..WARM_UPS + SCRAPES {
        rig.interrupt.check()?;
        let (scraped, took) = rig.connection.metrics()?;
        if scrape >= WARM_UPS {
            rig.record.time(name, took);
        }
        text = scraped;
    }
    Ok(text)
}
