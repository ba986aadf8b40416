//! The daemon's binary: the only place that names a driver.

use std::process::ExitCode;

use emberd::args::{AccelChoice, VmmChoice};
use emberd::config::Config;
use emberd::daemon;
use emberd_vmm::{self as vmm, FindQemuError, Qemu, QemuConfig};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => daemon::report(&error, error.downcast_ref().and_then(FindQemuError::hint)),
    }
}

async fn run() -> anyhow::Result<()> {
    let config = daemon::configure()?;
    match config.vmm {
        VmmChoice::Auto | VmmChoice::Qemu => {
            let qemu = Qemu::find(qemu_config(&config))?;
            let images = config.images()?;
            daemon::run(config, images, qemu).await?;
        }
    }
    Ok(())
}

fn qemu_config(config: &Config) -> QemuConfig {
    let accel = match config.accel {
        AccelChoice::Auto => vmm::AccelChoice::Auto,
        AccelChoice::Kvm => vmm::AccelChoice::Kvm,
        AccelChoice::Tcg => vmm::AccelChoice::Tcg,
    };
    // The console is what tells why a guest did not boot.
    QemuConfig { binary: config.qemu.clone(), accel, console: true }
}
