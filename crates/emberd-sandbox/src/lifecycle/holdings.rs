//! What sandboxes come to together, and the most that those of one owner may.

use std::fmt;
use std::time::Duration;

use emberd_proto::GuestLimits;

use crate::shape::Size;

/// Resources of some sandboxes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Sandboxes, of which some may be gone.
    pub sandboxes: u64,
    /// Virtual processors.
    pub vcpus: u64,
    /// Memory of the guests, in MiB, each counted with all it may use.
    pub memory_mib: u64,
    /// Disks of the guests, in MiB, likewise.
    pub disk_mib: u64,
}

/// The most that the sandboxes of one owner may have together. What is none is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Most sandboxes.
    pub sandboxes: Option<u64>,
    /// Most virtual processors.
    pub vcpus: Option<u64>,
    /// Most memory of the guests, in MiB.
    pub memory_mib: Option<u64>,
    /// Most disk of the guests, in MiB.
    pub disk_mib: Option<u64>,
}

/// Kind of resource that a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Sandboxes.
    Sandboxes,
    /// Virtual processors.
    Vcpus,
    /// Memory, in MiB.
    MemoryMib,
    /// Disk, in MiB.
    DiskMib,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sandboxes => "sandboxes",
            Self::Vcpus => "virtual processors",
            Self::MemoryMib => "MiB of memory",
            Self::DiskMib => "MiB of disk",
        })
    }
}

/// The sandboxes of the owner would come to more than its quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the caller may have {most} {held}, has {used}, and asks for {asked} more")]
pub struct QuotaExceeded {
    /// Of what.
    pub held: Held,
    /// How much the creation asks for.
    pub asked: u64,
    /// How much the sandboxes of the owner have.
    pub used: u64,
    /// How much they may have.
    pub most: u64,
    /// When the first of them ends by its timeout, at the latest; none if none has one.
    pub ends_in: Option<Duration>,
}

impl Holdings {
    /// Resources of one sandbox of that size, with `limits` held by its guest.
    pub(crate) fn of(size: Size, limits: &GuestLimits) -> Self {
        Self {
            sandboxes: 1,
            vcpus: size.vcpus.into(),
            memory_mib: size.memory_mib.into(),
            disk_mib: limits.disk_mib.unwrap_or_default(),
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.sandboxes += other.sandboxes;
        self.vcpus += other.vcpus;
        self.memory_mib += other.memory_mib;
        self.disk_mib += other.disk_mib;
    }

    /// The same for a sandbox that is gone: it has only its place.
    pub(crate) fn of_gone(self) -> Self {
        Self { sandboxes: self.sandboxes, ..Self::default() }
    }
}

impl Quota {
    /// Whether nothing is limited.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Checks that `asked` fits beside `used`.
    ///
    /// # Errors
    /// The first of what does not fit.
    pub(crate) fn check(&self, used: Holdings, asked: Holdings) -> Result<(), QuotaExceeded> {
        let all = [
            (Held::Sandboxes, self.sandboxes, used.sandboxes, asked.sandboxes),
            (Held::Vcpus, self.vcpus, used.vcpus, asked.vcpus),
            (Held::MemoryMib, self.memory_mib, used.memory_mib, asked.memory_mib),
            (Held::DiskMib, self.disk_mib, used.disk_mib, asked.disk_mib),
        ];
        for (held, most, used, asked) in all {
            if let Some(most) = most.filter(|most| used.saturating_add(asked) > *most) {
                return Err(QuotaExceeded { held, asked, used, most, ends_in: None });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_quota_is_checked_alone() {
        let one = Holdings { sandboxes: 1, vcpus: 2, memory_mib: 512, disk_mib: 1024 };
        let mut used = one;
        used.add(one);
        Quota::default().check(used, one).unwrap();
        let quota = |sandboxes, vcpus, memory_mib, disk_mib| Quota {
            sandboxes: Some(sandboxes),
            vcpus: Some(vcpus),
            memory_mib: Some(memory_mib),
            disk_mib: Some(disk_mib),
        };
        quota(3, 6, 1536, 3072).check(used, one).unwrap();
        for (quota, held) in [
            (quota(2, 6, 1536, 3072), Held::Sandboxes),
            (quota(3, 5, 1536, 3072), Held::Vcpus),
            (quota(3, 6, 1535, 3072), Held::MemoryMib),
            (quota(3, 6, 1536, 3071), Held::DiskMib),
        ] {
            assert_eq!(quota.check(used, one).unwrap_err().held, held);
        }
        // One that is gone has its place only.
        assert_eq!(one.of_gone(), Holdings { sandboxes: 1, ..Holdings::default() });
    }
}
