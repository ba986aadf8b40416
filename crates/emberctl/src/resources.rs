//! Size of a sandbox, as given on the command line.

use emberd_api::Resources;

/// Options that set the size of a sandbox.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct SizeArgs {
    /// Number of virtual processors [default: the daemon's].
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<u64>,
    /// Memory in MiB, or with a unit such as 512m or 2g [default: the daemon's].
    #[arg(long, value_parser = emberd_config::parse_mib, value_name = "SIZE")]
    memory: Option<u64>,
}

/// Options that limit a new sandbox.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct SandboxLimitArgs {
    /// Most processor time in per cent of one processor, such as 50% [default: all of its virtual
    /// processors].
    #[arg(long, value_parser = percent, value_name = "PERCENT")]
    cpu: Option<u64>,
    /// Share of processor time beside other sandboxes, 1 to 10000 [default: 100].
    #[arg(long, value_name = "NUMBER")]
    cpu_weight: Option<u64>,
    /// Size of its own disk in MiB, or with a unit such as 4g [default: the daemon's].
    #[arg(long, value_parser = emberd_config::parse_mib, value_name = "SIZE")]
    disk: Option<u64>,
    /// Most processes and threads of all programs together, 16 to 65536 [default: 4096].
    #[arg(long, value_name = "NUMBER")]
    pids: Option<u64>,
}

/// Resources of a new sandbox, from its options.
pub fn of(size: SizeArgs, limits: SandboxLimitArgs) -> Resources {
    let SandboxLimitArgs { cpu: cpu_percent, cpu_weight, disk: disk_mib, pids } = limits;
    Resources { cpu_percent, cpu_weight, disk_mib, pids, ..size.into() }
}

impl From<SizeArgs> for Resources {
    fn from(args: SizeArgs) -> Self {
        Self { vcpus: args.cpus, memory_mib: args.memory, ..Self::default() }
    }
}

/// Reads `50%` or `50`.
///
/// # Errors
/// Says what a number of per cent looks like.
pub fn percent(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse();
    number.map_err(|_| "expected a number of per cent, such as 50%".to_owned())
}

/// A size for people.
pub fn text(vcpus: u64, memory_mib: u64) -> String {
    format!("{memory_mib} MiB, {vcpus} vCPU")
}
