//! The command line of the daemon: its options, and the commands that look at them.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use emberd_config::{AllKeys, Flags};

const CONFIG_HELP: &str = "Configuration file: TOML, with one key for each flag [default: \
    /etc/emberd/emberd.toml for root, else $XDG_CONFIG_HOME/emberd/emberd.toml, if it exists]";

/// Runs code in microVMs, over HTTP.
#[derive(Debug, Parser)]
#[command(name = "emberd", version, about, long_about = None)]
pub struct Args {
    /// Configuration file: TOML, with options named as the flags are.
    #[arg(long, env = "EMBERD_CONFIG", value_name = "FILE", global = true, help = CONFIG_HELP)]
    pub config: Option<PathBuf>,
    /// The options.
    #[command(flatten)]
    pub flags: Flags<AllKeys>,
    /// The command to run instead of the daemon.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Commands that do not start the daemon.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show or check the configuration, without starting the daemon.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Hold the cgroup of VMMs, so that they outlive the daemon's service, until it is ended.
    ///
    /// Started as a service of its own, with a delegated cgroup (`Delegate=yes`), this moves to a
    /// cgroup `hold` below. The daemon gets that of the service as `--cgroup`. The VMMs end with
    /// the service.
    Hold,
}

/// Commands on the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every option, its value and where the value comes from.
    Print {
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Report everything that is wrong with the configuration, and exit with 1 if anything is.
    Check {
        /// Configuration file to check instead of that of `--config`.
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
}
