//! `cold-boot`: create by a cold boot, until the guest has answered.

use emberd_api::BootTimes;

use crate::measure::error::MeasureError;
use crate::measure::rig::{COLD_BOOT, Rig};

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    for _ in 0..rig.iterations {
        for pack in packs {
            rig.settle()?;
            let (id, timing) = rig.create(pack)?;
            let sandbox = rig.inspect(&id, COLD_BOOT)?;
            let mut stages = timing.stages();
            if let Some(boot) = &sandbox.boot {
                split_guest(&mut stages, boot);
            }
            rig.record.time_with_stages(&format!("create_{pack}"), timing.latency, &stages);
            rig.delete(&id)?;
        }
    }
    Ok(())
}

/// Splits the stage `guest` by the guest's clock, if the agent reported it. The time before and
/// after kernel and init is the VMM's loading and the agent's first answer.
fn split_guest(stages: &mut Vec<(String, u64)>, boot: &BootTimes) {
    let (Some(kernel), Some(init)) = (boot.kernel_us, boot.init_us) else { return };
    let Some(at) = stages.iter().position(|(name, _)| name == "guest") else { return };
    stages[at].1 = stages[at].1.saturating_sub(kernel + init);
    stages.insert(at, ("kernel".into(), kernel));
    stages.insert(at + 1, ("init".into(), init));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_is_parted_where_its_clock_is_known() {
        let stages = || vec![("vmm".to_owned(), 50), ("guest".to_owned(), 2900)];
        let mut parted = stages();
        let kernel_us = Some(2000);
        let boot = BootTimes { kernel_us, init_us: Some(600), ..BootTimes::default() };
        split_guest(&mut parted, &boot);
        let expect = [("vmm", 50), ("kernel", 2000), ("init", 600), ("guest", 300)];
        assert_eq!(parted, expect.map(|(name, us)| (name.to_owned(), us)));
        let mut whole = stages();
        split_guest(&mut whole, &BootTimes::default());
        assert_eq!(whole, stages());
    }
}
