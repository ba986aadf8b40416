//! The guest's own disk, which can grow while it is mounted.
//!
//! ```text
//! host: larger device ─▶ kernel: capacity ─▶ limit ─▶ file system
//! ```

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::fstatvfs;
use tokio::time::{Instant, sleep};

use crate::sys;

/// Longest wait until the kernel knows of a larger device. It is told before the agent.
const DEVICE_WAIT: Duration = Duration::from_secs(30);

/// Pause between two looks at the device.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The guest's own disk.
#[derive(Debug)]
pub struct OwnDisk {
    /// Root of the file system, which no path leads to.
    root: File,
    /// File with the size of the device, in sectors.
    sectors: String,
}

impl OwnDisk {
    /// The disk `node`, which is mounted at `root`.
    ///
    /// # Errors
    /// If `root` cannot be opened.
    pub fn open(root: &str, node: &str) -> io::Result<Self> {
        let name = node.trim_start_matches("/dev/");
        Ok(Self { root: File::open(root)?, sectors: format!("/sys/block/{name}/size") })
    }

    /// Makes the file system `mib` MiB large, once the device is. Of a larger one, nothing is made
    /// smaller.
    ///
    /// # Errors
    /// If the device stays smaller, or the kernel refuses.
    pub async fn grow(&self, mib: u64) -> io::Result<()> {
        let deadline = Instant::now() + DEVICE_WAIT;
        while self.device_mib()? < mib {
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            sleep(LOOK_AGAIN).await;
        }
        let block = fstatvfs(&self.root)?.block_size();
        // Otherwise the kernel writes the zeros of all new tables of inodes, which the file of the
        // host reads as anyway, before it returns; so it is to do that later, and then never.
        self.remount("init_itable")?;
        let grown = sys::resize_ext4(&self.root, (mib << 20) / block);
        self.remount("noinit_itable")?;
        grown
    }

    fn device_mib(&self) -> io::Result<u64> {
        let sectors = fs::read_to_string(&self.sectors)?;
        Ok(sectors.trim_end().parse::<u64>().unwrap_or(0) >> 11)
    }

    fn remount(&self, option: &str) -> io::Result<()> {
        let (root, none) = (format!("/proc/self/fd/{}", self.root.as_raw_fd()), None::<&str>);
        Ok(mount(none, root.as_str(), none, MsFlags::MS_REMOUNT, Some(option))?)
    }
}
