//! Processor time of a sandbox: what its callers ask for, and what the host is told.

use emberd_vmm::{CpuLimits, LimitError};
use serde::{Deserialize, Serialize};

use crate::bounds::{ResourceError, bounded};

/// Most per cent of one processor that a virtual processor can take.
const PERCENT_PER_VCPU: u64 = 100;

/// Least, usual and most share of processor time (`cpu.weight` of cgroups, version 2).
const WEIGHTS: (u64, u64, u64) = (1, 100, 10_000);

/// Processor time of a sandbox, which its callers may change. What is none is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Most processor time, in per cent of one processor; by default 100 for each virtual
    /// processor.
    pub percent: Option<u64>,
    /// Share beside other sandboxes when processors are short: 1 to 10,000, by default 100.
    pub weight: Option<u64>,
}

/// A change of [`Cpu`]; what is none changes nothing, and none inside is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuChange {
    /// The new limit.
    pub percent: Option<Option<u64>>,
    /// The new share.
    pub weight: Option<Option<u64>>,
}

/// Why the processor time of a sandbox is not limited.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// A number is out of its bounds.
    #[error(transparent)]
    Bounds(#[from] ResourceError),
    /// The host does not do it.
    #[error(transparent)]
    Host(#[from] LimitError),
}

impl Cpu {
    /// The processor time after `change`.
    pub(crate) fn after(self, change: CpuChange) -> Self {
        Self {
            percent: change.percent.unwrap_or(self.percent),
            weight: change.weight.unwrap_or(self.weight),
        }
    }

    /// Limits for the host, of a sandbox with `vcpus`.
    pub(crate) fn limits(self, vcpus: u8) -> Result<CpuLimits, ResourceError> {
        let percent_max = u64::from(vcpus) * PERCENT_PER_VCPU;
        let percent = bounded("cpu_percent", self.percent, percent_max, 1, percent_max)?;
        let (least, usual, most) = WEIGHTS;
        let weight = bounded("cpu_weight", self.weight, usual, least, most)?;
        let narrow = |number| u32::try_from(number).expect("it is within its bounds");
        Ok(CpuLimits { percent: narrow(percent), weight: narrow(weight) })
    }

    /// Returns whether the host must limit more than it does anyway.
    pub(crate) fn is_asked_for(self) -> bool {
        self != Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_is_the_default() {
        let all = Cpu::default().limits(2).unwrap();
        assert_eq!(all, CpuLimits { percent: 200, weight: 100 });
        let half = Cpu { percent: Some(50), weight: None };
        assert_eq!(half.limits(1).unwrap(), CpuLimits { percent: 50, weight: 100 });
        let change = CpuChange { percent: Some(None), weight: Some(Some(10_000)) };
        let changed = half.after(change);
        assert_eq!(changed.limits(1).unwrap(), CpuLimits { percent: 100, weight: 10_000 });
        assert_eq!(changed.after(CpuChange::default()), changed);
    }

    #[test]
    fn bounds_are_those_of_the_virtual_processors() {
        for (cpu, expect) in [
            (Cpu { percent: Some(0), weight: None }, "cpu_percent: 0 is not from 1 to 200"),
            (Cpu { percent: Some(201), weight: None }, "cpu_percent: 201 is not from 1 to 200"),
            (Cpu { percent: None, weight: Some(0) }, "cpu_weight: 0 is not from 1 to 10000"),
            (Cpu { percent: None, weight: Some(10_001) }, "cpu_weight: 10001 is not from 1 to"),
        ] {
            let error = cpu.limits(2).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        }
    }
}
