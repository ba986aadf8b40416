//! `emberctl vmconfig PACK`: Firecracker's configuration file for a guest, to try a host by
//! hand: without a daemon, a jail or an API.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use emberd_image::{DataDir, Images, PackName};
use emberd_vmm::BootSpec;
use emberd_vmm::firecracker::vmconfig;

use crate::report::Hinted;

/// Overrides the driver's `quiet`: whoever boots by hand wants to see the kernel's messages.
const LOUD: &str = "loglevel=7";

/// Arguments of `vmconfig`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The language pack whose root image the guest gets.
    pack: PackName,
    /// Memory of the guest, in MiB.
    #[arg(long, env = "EMBERD_GUEST_RAM_MIB", value_name = "MIB", default_value_t = 256)]
    guest_ram_mib: u32,
    /// Virtual processors of the guest, at most 32.
    #[arg(long, env = "EMBERD_GUEST_VCPUS", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=32))]
    guest_vcpus: u8,
    /// Kernel (vmlinux) in place of the data directory's.
    #[arg(long, env = "EMBERD_KERNEL", value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initramfs in place of the data directory's.
    #[arg(long, env = "EMBERD_INITRAMFS", value_name = "FILE")]
    initramfs: Option<PathBuf>,
    /// Words added to the kernel's arguments, apart by spaces.
    #[arg(
        long = "kernel-args",
        env = "EMBERD_KERNEL_ARGS",
        value_name = "WORDS",
        allow_hyphen_values = true
    )]
    words: Option<String>,
}

/// Prints the configuration.
///
/// # Errors
/// An image is missing or damaged, or the kernel's arguments are too long.
pub fn run(args: Args, data_dir: &DataDir) -> anyhow::Result<ExitCode> {
    let mut images = Images::load(data_dir)?;
    let Some(pack) = images.packs.remove(&args.pack) else {
        let message = format!("unknown language pack `{}`", args.pack);
        let hint = format!("build it with `emberctl image build pack {}`", args.pack);
        return Err(Hinted { message, hint }.into());
    };
    let words = args.words.iter().flat_map(|words| words.split_whitespace());
    let spec = BootSpec {
        dir: PathBuf::new(),
        kernel: std::path::absolute(args.kernel.unwrap_or(images.kernel.path))?,
        kernel_hz: images.kernel.hz,
        initramfs: std::path::absolute(args.initramfs.unwrap_or(images.initramfs.path))?,
        rootfs: std::path::absolute(pack.rootfs)?,
        kernel_args: std::iter::once(LOUD).chain(words).map(str::to_owned).collect(),
        vcpu_count: args.guest_vcpus,
        mem_size_mib: args.guest_ram_mib,
        for_template: false,
    };
    writeln!(io::stdout(), "{}", vmconfig(&spec, true)?)?;
    Ok(ExitCode::SUCCESS)
}
