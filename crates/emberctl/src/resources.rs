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

impl From<SizeArgs> for Resources {
    fn from(args: SizeArgs) -> Self {
        Self { vcpus: args.cpus, memory_mib: args.memory }
    }
}

/// A size for people.
pub fn text(vcpus: u64, memory_mib: u64) -> String {
    format!("{memory_mib} MiB, {vcpus} vCPU")
}
