//! `emberctl setup kernel`: a kernel of Firecracker's tests, with everything built in.

use emberd_image::{Artifact, DataDir, Digest, KERNEL_BYTES_MAX, KernelSource, Outcome, Progress};

use super::Installed;
use super::source::{Published, SourceArgs};
use super::workshop::Workshop;

/// Where Firecracker's makers publish the kernels of their tests.
const BASE_URL: &str = "https://s3.amazonaws.com/spec.ccfc.min";

/// The kernel in that tree. It is published for one minor release of Firecracker and runs
/// under others.
const PATH: &str = "firecracker-ci/v1.15/x86_64/vmlinux-6.1.155";

const SHA256: &str = "e20e46d0c36c55c0d1014eb20576171b3f3d922260d9f792017aeff53af3d4f2";

/// Arguments of `setup kernel`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
}

/// Makes the kernel the one guests boot from, unless it is already.
pub(super) fn install(
    args: &Args,
    data_dir: &DataDir,
    progress: &mut dyn Progress,
) -> anyhow::Result<Installed> {
    let published = Published {
        base_url: BASE_URL,
        path: PATH.to_owned(),
        sha256: Some(SHA256.parse().expect("constants are digests")),
        bytes_max: KERNEL_BYTES_MAX,
    };
    let sha256 = args.source.digest(&published)?;
    if let Some(installed) = in_use(data_dir, sha256)? {
        return Ok(installed);
    }
    let workshop = Workshop::open(data_dir, progress)?;
    let file = args.source.fetch(&published, &workshop, progress)?;
    let kernel = file.path().to_owned();
    let source = KernelSource::File { kernel, modules: None, config: None };
    let build = emberd_image::build_kernel(data_dir, &source, false, progress)?;
    let up_to_date = build.outcome == Outcome::UpToDate;
    Ok(describe(&build.installed, sha256, up_to_date))
}

/// The kernel in use, if it is the one wanted: one that was ready to boot is stored as it came.
fn in_use(data_dir: &DataDir, sha256: Digest) -> anyhow::Result<Option<Installed>> {
    let all = emberd_image::installed(data_dir)?;
    let kernel = all.iter().find(|one| one.artifact == Artifact::Kernel && one.sha256 == sha256);
    let intact = |one: &&emberd_image::Installed| {
        let found = std::fs::File::open(&one.path).and_then(Digest::of_reader);
        found.is_ok_and(|(found, _)| found == sha256)
    };
    Ok(kernel.filter(intact).map(|kernel| describe(kernel, sha256, true)))
}

fn describe(kernel: &emberd_image::Installed, sha256: Digest, up_to_date: bool) -> Installed {
    Installed {
        what: kernel.summary.clone(),
        path: kernel.path.display().to_string(),
        sha256,
        up_to_date,
        // The initramfs of another kernel carries that one's modules.
        next: vec!["emberctl image build initramfs".to_owned(), "emberctl doctor".to_owned()],
    }
}
