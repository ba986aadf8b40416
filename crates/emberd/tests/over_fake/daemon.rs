//! The daemon over fake microVMs, for tests of what only a process has: signals, exit
//! codes, a crash. All but driver and images is the real one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use emberd::daemon;
use emberd_image::{Digest, Images, KernelImage, PackImage, PackName};
use emberd_vmm::fake::{FakeVmm, Fault};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => daemon::report(&error, None),
    }
}

async fn run() -> anyhow::Result<()> {
    let config = daemon::configure()?;
    let images = images(config.data_dir.path())?;
    let vmm = FakeVmm::beside_current_exe();
    if std::env::var_os("FAKE_NEVER_READY").is_some() {
        vmm.set_fault(Fault::NeverReady);
    }
    daemon::run(config, images, vmm).await?;
    Ok(())
}

/// Every `<name>.json` in `dir` as the pack of that name.
fn images(dir: &Path) -> anyhow::Result<Images> {
    let mut packs = BTreeMap::new();
    for entry in dir.read_dir()? {
        let rootfs = entry?.path();
        let name = rootfs.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let name: PackName = name.parse()?;
        let image = PackImage { rootfs, sha256: Digest::of(b""), description: String::new() };
        packs.insert(name, image);
    }
    let kernel = KernelImage { path: PathBuf::new(), release: "none".to_owned(), hz: None };
    Ok(Images { kernel, initramfs: PathBuf::new(), packs })
}
