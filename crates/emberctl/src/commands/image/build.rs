//! `emberctl image build`: makes what guests boot from; what is up to date is only verified.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use emberd_image::{
    Build, Compression, DataDir, KernelSource, Outcome, PackDefinition, PackName, PackOptions,
    Progress, RootPack, pack,
};
use serde::Serialize;

use super::ls::Image;
use super::progress;
use crate::output::{self, Output};
use crate::report::Hinted;

/// Where `rootfs/build.sh` leaves the agent in a work tree, and where an installation has it,
/// seen from the folder of the `emberctl` binary.
const AGENT_PATHS: [&str; 2] =
    ["../x86_64-unknown-linux-gnu/guest/emberd-init", "../lib/emberd/emberd-init"];

/// Arguments of `image build`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    root: RootArgs,
}

/// The image to build.
#[derive(Debug, clap::Subcommand)]
enum What {
    /// Build the guest kernel and its modules, from the distribution's package or from files.
    Kernel(KernelArgs),
    /// Build the initramfs: the agent and the kernel's modules.
    Initramfs(InitramfsArgs),
    /// Build language packs from the distribution's packages.
    Pack(PackArgs),
    /// Build the kernel, the initramfs and every built-in pack.
    All(AllArgs),
}

#[derive(Debug, clap::Args)]
struct KernelArgs {
    /// Kernel file, a vmlinux or a bzImage, instead of the distribution's kernel.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Module directory of the kernel, such as /lib/modules/6.1.0.
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
    /// Configuration of the kernel, if the kernel does not contain it.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    config: Option<PathBuf>,
    /// Rebuild images that are up to date.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct InitramfsArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Write the initramfs to a file instead of the data directory.
    #[arg(long, value_name = "FILE", conflicts_with = "force")]
    out: Option<PathBuf>,
    /// Rebuild images that are up to date.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct AgentArgs {
    /// Static agent binary [default: the one that `rootfs/build.sh` built].
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct PackArgs {
    /// Names of built-in packs (python, shell, node), or directories with a pack.toml.
    #[arg(required = true, value_name = "NAME|DIR")]
    packs: Vec<String>,
    #[command(flatten)]
    options: PackOptionArgs,
}

#[derive(Debug, clap::Args)]
struct AllArgs {
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    options: PackOptionArgs,
}

#[derive(Debug, clap::Args)]
struct PackOptionArgs {
    /// Compression of root images: zstd, lz4 or none.
    #[arg(long, default_value_t)]
    compression: Compression,
    /// Release of the distribution to build from, such as bookworm [default: the host's].
    #[arg(long)]
    suite: Option<String>,
    /// URL of a package mirror; can be repeated.
    #[arg(long, value_name = "URL")]
    mirror: Vec<String>,
    /// Rebuild images that are up to date.
    #[arg(long)]
    force: bool,
}

/// A pack from a root file system that exists.
#[derive(Debug, clap::Args)]
struct RootArgs {
    /// Build a pack from a root file system: a directory, or a tar archive.
    #[arg(long, required = true, value_name = "DIR|TAR")]
    from_rootfs: Option<PathBuf>,
    /// Name of the pack.
    #[arg(long, required = true)]
    name: Option<PackName>,
    /// Command that runs code, with spaces between words. `{file}` stands for the code's file, and
    /// is appended if absent.
    #[arg(long, required = true, value_name = "COMMAND")]
    run: Option<String>,
    /// Name of the file that holds the code.
    #[arg(long, default_value = "main")]
    file_name: String,
    /// Description of the pack, in one line.
    #[arg(long, default_value = "a root file system of the user's own")]
    description: String,
    #[command(flatten)]
    options: PackOptionArgs,
}

impl From<PackOptionArgs> for PackOptions {
    fn from(args: PackOptionArgs) -> Self {
        Self {
            force: args.force,
            compression: args.compression,
            suite: args.suite,
            mirrors: args.mirror,
        }
    }
}

/// One image and whether it had to be made, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Built {
    up_to_date: bool,
    #[serde(flatten)]
    image: Image,
}

impl From<Build> for Built {
    fn from(build: Build) -> Self {
        let up_to_date = build.outcome == Outcome::UpToDate;
        Self { up_to_date, image: Image::from(&build.installed) }
    }
}

/// Builds what `args` name, in the order in which one needs the other.
///
/// # Errors
/// An image could not be built. Images that were built before it stay.
pub fn run(args: Args, data_dir: &DataDir, output: Output) -> anyhow::Result<ExitCode> {
    let mut progress = progress::of(output);
    let built = build(args, data_dir, progress.as_mut());
    drop(progress);
    let built = built?;
    output.print(&built, || {
        let rows: Vec<_> = built.iter().map(cells).collect();
        output::table(["IMAGE", "", "SIZE", "SHA256", "WHAT"], &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn cells(built: &Built) -> [String; 5] {
    let done = if built.up_to_date { "up to date" } else { "built" };
    let [name, size, digest, summary] = built.image.cells();
    [name, done.to_owned(), size, digest, summary]
}

fn build(
    args: Args,
    data_dir: &DataDir,
    progress: &mut dyn Progress,
) -> anyhow::Result<Vec<Built>> {
    match args.what {
        Some(What::Kernel(args)) => Ok(vec![kernel(args, data_dir, progress)?]),
        Some(What::Initramfs(args)) => Ok(vec![initramfs(args, data_dir, progress)?]),
        Some(What::Pack(args)) => packs(args, data_dir, progress),
        Some(What::All(args)) => all(args, data_dir, progress),
        None => Ok(vec![from_rootfs(args.root, data_dir, progress)?]),
    }
}

fn kernel(
    args: KernelArgs,
    data_dir: &DataDir,
    progress: &mut dyn Progress,
) -> anyhow::Result<Built> {
    let source = match args.kernel {
        None => KernelSource::Distribution,
        Some(kernel) => KernelSource::File { kernel, modules: args.modules, config: args.config },
    };
    Ok(emberd_image::build_kernel(data_dir, &source, args.force, progress)?.into())
}

fn initramfs(
    args: InitramfsArgs,
    data_dir: &DataDir,
    progress: &mut dyn Progress,
) -> anyhow::Result<Built> {
    let agent = args.agent.path()?;
    Ok(match args.out {
        Some(out) => {
            let written = emberd_image::write_initramfs(data_dir, &agent, &out)?;
            Built { up_to_date: false, image: Image::from(&written) }
        }
        None => emberd_image::build_initramfs(data_dir, &agent, args.force, progress)?.into(),
    })
}

fn packs(
    args: PackArgs,
    data_dir: &DataDir,
    progress: &mut dyn Progress,
) -> anyhow::Result<Vec<Built>> {
    let options = args.options.into();
    let build = |name: &String| {
        let pack = if name.contains('/') {
            PackDefinition::read(Path::new(name))?
        } else {
            PackDefinition::built_in(&name.parse()?)?
        };
        Ok(emberd_image::build_pack(data_dir, &pack, &options, progress)?.into())
    };
    args.packs.iter().map(build).collect()
}

fn all(
    args: AllArgs,
    data_dir: &DataDir,
    progress: &mut dyn Progress,
) -> anyhow::Result<Vec<Built>> {
    // Looked for first: nobody wants to hear of a missing agent after minutes of packs.
    let agent = args.agent.path()?;
    let force = args.options.force;
    let source = KernelSource::Distribution;
    let mut built = vec![emberd_image::build_kernel(data_dir, &source, force, progress)?.into()];
    built.push(emberd_image::build_initramfs(data_dir, &agent, force, progress)?.into());
    let packs = PackDefinition::built_in_names().map(|name| name.to_string()).collect();
    built.extend(self::packs(PackArgs { packs, options: args.options }, data_dir, progress)?);
    Ok(built)
}

fn from_rootfs(
    args: RootArgs,
    data_dir: &DataDir,
    progress: &mut dyn Progress,
) -> anyhow::Result<Built> {
    let (Some(root), Some(name), Some(run)) = (args.from_rootfs, args.name, args.run) else {
        unreachable!("clap wants all three");
    };
    let root = RootPack {
        name,
        description: args.description,
        root,
        run: pack::run_words(&run),
        file_name: args.file_name,
        env: std::collections::BTreeMap::new(),
    };
    let options = args.options.into();
    Ok(emberd_image::build_pack_from_rootfs(data_dir, &root, &options, progress)?.into())
}

impl AgentArgs {
    fn path(self) -> anyhow::Result<PathBuf> {
        if let Some(agent) = self.agent {
            return Ok(agent);
        }
        let binary = std::env::current_exe()?;
        let folder = binary.parent().unwrap_or(Path::new("/"));
        let mut candidates = AGENT_PATHS.iter().map(|path| folder.join(path));
        candidates.find(|path| path.is_file()).ok_or_else(|| {
            let message = "the guest agent has not been built".to_owned();
            let hint = "run rootfs/build.sh, or name the agent with --agent FILE".to_owned();
            Hinted { message, hint }.into()
        })
    }
}
