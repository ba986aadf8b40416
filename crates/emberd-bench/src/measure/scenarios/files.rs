//! `files`: transfers of a large file, and of small ones, which cost about as much as a request.
//! For comparison, a program in the guest writes and reads as much, and the host's loopback
//! interface carries as many bytes.

use std::time::Duration;

use crate::measure::error::MeasureError;
use crate::measure::floors;
use crate::measure::rig::{Rig, WARM_UPS};

/// Size of the large file, in bytes (128 MiB), which makes the start and end negligible.
const LARGE_BYTES: usize = 128 << 20;

/// Size of the small file, in bytes (4 KiB).
const SMALL_BYTES: usize = 4 << 10;

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let large = content(LARGE_BYTES);
    let packs = rig.packs;
    for pack in packs {
        let (id, _) = rig.create(pack)?;
        // In a guest the file is created; over the double it exists, and is removed with the
        // sandbox.
        let dir = rig.connection.sandbox(&id)?.dir;
        for iteration in 0..WARM_UPS + rig.iterations {
            for (size, content) in [("128m", &large[..]), ("4k", &large[..SMALL_BYTES])] {
                rig.interrupt.check()?;
                let path = format!("{dir}/{size}");
                // Freeing the old file must not count as part of writing the new one.
                rig.connection.remove(&id, &path)?;
                let pushed = rig.connection.write(&id, &path, content)?;
                let (read, pulled) = rig.connection.read(&id, &path)?;
                if read != content {
                    return Err(MeasureError::Unexpected {
                        what: format!("read {size}"),
                        expected: "what was written".to_owned(),
                        seen: format!("{} other bytes", read.len()),
                    });
                }
                if iteration < WARM_UPS {
                    continue;
                }
                for (way, took) in [("push", pushed), ("pull", pulled)] {
                    let series = format!("{way}_{size}_{pack}");
                    if content.len() == LARGE_BYTES {
                        rig.record.transfer(&series, LARGE_BYTES, took);
                    } else {
                        rig.record.time(&series, took);
                    }
                }
            }
            let asked = rig.connection.stat(&id, &dir)?;
            let written = write_floor(rig, &id, &format!("{dir}/128m"))?;
            let read = read_floor(rig, &id, &format!("{dir}/128m"))?;
            let loopback = floors::loopback(LARGE_BYTES)?;
            if iteration >= WARM_UPS {
                rig.record.time(&format!("stat_{pack}"), asked);
                for (floor, took) in [("write", written), ("read", read)] {
                    rig.record.transfer(&format!("{floor}_128m_{pack}_floor"), LARGE_BYTES, took);
                }
                rig.record.transfer("loopback_128m_floor", LARGE_BYTES, loopback);
            }
        }
        rig.delete(&id)?;
    }
    Ok(())
}

/// Measures a program in the guest that writes as much to a new file in place of `path`.
fn write_floor(rig: &mut Rig, id: &str, path: &str) -> Result<Duration, MeasureError> {
    rig.connection.remove(id, path)?;
    let (into, count) = (format!("of={path}"), format!("count={}", LARGE_BYTES >> 16));
    rig.in_guest(id, ["dd", "if=/dev/zero", &into, "bs=64k", &count, "status=none"])
}

/// Measures a program in the guest that reads the file.
fn read_floor(rig: &mut Rig, id: &str, path: &str) -> Result<Duration, MeasureError> {
    let from = format!("if={path}");
    rig.in_guest(id, ["dd", &from, "of=/dev/null", "bs=64k", "status=none"])
}

/// Returns pseudo-random bytes (a linear congruence), which cannot be compressed.
fn content(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()
    });
    let mut content: Vec<u8> = words.take(bytes.div_ceil(8)).flatten().collect();
    content.truncate(bytes);
    content
}
