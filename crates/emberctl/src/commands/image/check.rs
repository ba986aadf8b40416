//! `emberctl image check [KERNEL]`: what a guest would miss under a kernel.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use emberd_image::DataDir;
use emberd_image::check::{self, ConfigSource, Need, OptionReport, Provision};
use emberd_image::pack::Compression;
use serde::Serialize;

use crate::exit;
use crate::output::{self, Output};
use crate::report::Hinted;

/// Arguments of `image check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kernel file, a vmlinux or a bzImage [default: the installed kernel].
    kernel: Option<PathBuf>,
    /// Configuration of the kernel, if neither the kernel nor its installation contains it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Compression of the packs that the kernel must read.
    #[arg(long, default_value_t)]
    compression: Compression,
}

/// The JSON output of `image check`.
#[derive(Serialize)]
struct Document<'a> {
    release: &'a str,
    hz: Option<u32>,
    options: Vec<OptionDocument>,
}

#[derive(Serialize)]
struct OptionDocument {
    option: &'static str,
    provision: String,
    need: String,
    purpose: &'static str,
}

/// Prints every option; the exit code says whether one is missing that a guest cannot do
/// without.
///
/// # Errors
/// The file is not a kernel, or its configuration is not known.
pub fn run(args: &Args, data_dir: &DataDir, output: Output) -> anyhow::Result<ExitCode> {
    let kernel = match &args.kernel {
        Some(kernel) => kernel.clone(),
        None => installed(data_dir)?,
    };
    let report = check::kernel(&kernel, args.config.as_deref(), args.compression, data_dir)
        .with_context(|| format!("cannot check {}", kernel.display()))?;
    if report.config == ConfigSource::Nowhere {
        let message = format!("the kernel {} contains no configuration", report.release);
        let hint = "give the configuration with --config FILE, such as /boot/config-*";
        return Err(Hinted { message, hint: hint.to_owned() }.into());
    }
    let options = report.options.iter().map(|option| OptionDocument {
        option: option.option,
        provision: option.provision.to_string(),
        need: option.need.to_string(),
        purpose: option.purpose,
    });
    let document = Document { release: &report.release, hz: report.hz, options: options.collect() };
    output.print(&document, || text(&document))?;
    let usable = !report.options.iter().any(is_fatal);
    Ok(if usable { ExitCode::SUCCESS } else { exit::CHECK_FAILED.into() })
}

/// The kernel guests boot from.
fn installed(data_dir: &DataDir) -> anyhow::Result<PathBuf> {
    let unreadable = || format!("cannot read the kernel of {}", data_dir.path().display());
    check::installed(data_dir).with_context(unreadable)?.ok_or_else(|| {
        let message = format!("no kernel is installed in {}", data_dir.path().display());
        let hint = "name a kernel, or install one: emberctl image build kernel".to_owned();
        Hinted { message, hint }.into()
    })
}

/// Whether guests of this version, all of them under QEMU, cannot run for want of the option.
fn is_fatal(option: &OptionReport) -> bool {
    let needed = matches!(option.need, Need::Required | Need::Qemu);
    needed && option.provision == Provision::Missing
}

fn text(document: &Document<'_>) -> String {
    let rows: Vec<_> = document
        .options
        .iter()
        .map(|row| {
            let option = format!("CONFIG_{}", row.option);
            [option, row.provision.clone(), row.need.clone(), row.purpose.to_owned()]
        })
        .collect();
    let table = output::table(["OPTION", "IS", "AND IS", "FOR"], &rows);
    format!("Linux {}\n{table}", document.release)
}
