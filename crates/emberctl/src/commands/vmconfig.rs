//! `emberctl vmconfig PACK`: Firecracker's configuration file for a guest, to try a host by
//! hand: without a daemon, a jail or an API.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use emberd_config::Flags;
use emberd_image::{Images, PackName};
use emberd_vmm::BootSpec;
use emberd_vmm::firecracker::vmconfig;

use crate::daemon_options::{FileArg, Globals, GuestKeys, hinted};
use crate::report::Hinted;

/// Overrides the driver's `quiet`: a guest booted by hand shows the kernel's messages.
const LOUD: &str = "loglevel=7";

/// Arguments of `vmconfig`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Language pack of the guest's root image.
    pack: PackName,
    #[command(flatten)]
    file: FileArg,
    #[command(flatten)]
    flags: Flags<GuestKeys>,
}

/// Prints the configuration.
///
/// # Errors
/// An image is missing or damaged, or the kernel's arguments are too long.
pub fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let config =
        globals.with(args.file).load(args.flags.given).map_err(|problems| hinted(&problems))?;
    let mut images = Images::load(&config.data_dir)?;
    let Some(pack) = images.packs.remove(&args.pack) else {
        let message = format!("unknown language pack `{}`", args.pack);
        let hint = format!("build the pack: emberctl image build pack {}", args.pack);
        return Err(Hinted { message, hint }.into());
    };
    let words = config.kernel_args.iter().cloned();
    let spec = BootSpec {
        dir: PathBuf::new(),
        kernel: config.kernel.unwrap_or(std::path::absolute(images.kernel.path)?),
        kernel_hz: images.kernel.hz,
        initramfs: config.initramfs.unwrap_or(std::path::absolute(images.initramfs.path)?),
        rootfs: std::path::absolute(pack.rootfs)?,
        disk: None,
        kernel_args: std::iter::once(LOUD.to_owned()).chain(words).collect(),
        vcpu_count: config.guest_vcpus,
        mem_size_mib: config.guest_ram_mib,
        for_template: false,
    };
    writeln!(io::stdout(), "{}", vmconfig(&spec, true)?)?;
    Ok(ExitCode::SUCCESS)
}
