//! The command line as typed.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand};

use crate::commands::{
    attach, audit, completions, context, cp, create, daemon, doctor, egress, events, exec, files,
    forward, image, inspect, key, kill, logs, ls, mcp, metrics, ps, rm, run, setup, shell,
    template, test, timeout, update, url, usage, vmconfig,
};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default().bold());

const AFTER_HELP: &str = "\
EMBERD_API_KEY is sent to the daemon as the access key.

Exit codes: `run`, `exec`, `shell` and `attach` return the exit code of the program, 124 if it ran
into its time limit, 126 if it could not be started and 125 if emberctl failed. Other commands
return 0, 1 if a check failed and 125 if emberctl failed.";

/// Runs code in microVMs: the command line of emberd.
#[derive(Debug, Parser)]
#[command(name = "emberctl", version, styles = STYLES, after_help = AFTER_HELP)]
pub struct Cli {
    /// Address of the daemon: HOST:PORT, https://HOST:PORT or unix:PATH [default: this user's Unix
    /// socket if it exists, else 127.0.0.1:7777].
    #[arg(long, global = true, env = "EMBERD_ADDR", value_name = "ADDR")]
    pub addr: Option<String>,
    /// Certificates of issuers, in PEM, of which one must have issued that of an https:// daemon
    /// [default: those that this host trusts].
    #[arg(long, global = true, env = "EMBERD_CA_CERT", value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// Certificate of this client, in PEM, for an https:// daemon that asks for one.
    #[arg(
        long,
        global = true,
        env = "EMBERD_CLIENT_CERT",
        value_name = "FILE",
        requires = "client_key"
    )]
    pub client_cert: Option<PathBuf>,
    /// Private key of --client-cert, in PEM.
    #[arg(long, global = true, env = "EMBERD_CLIENT_KEY", value_name = "FILE")]
    pub client_key: Option<PathBuf>,
    /// Directory of kernel, initramfs and language packs [default: that of the configuration file,
    /// else /var/lib/emberd for root, ~/.local/share/emberd for others].
    #[arg(long, global = true, env = "EMBERD_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print JSON: one document on standard output, errors on standard error.
    #[arg(long, global = true)]
    pub json: bool,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command, in the order of `--help`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run code in a new sandbox and delete the sandbox.
    Run(run::Args),
    /// Create a sandbox and print its id.
    Create(create::Args),
    /// Run code in a sandbox.
    Exec(exec::Args),
    /// Copy files and directories into and out of a sandbox.
    Cp(cp::Args),
    /// List, inspect, move, remove and watch the files of a sandbox.
    #[command(subcommand)]
    Files(files::Command),
    /// Open a shell in a sandbox.
    Shell(shell::Args),
    /// List the processes of a sandbox.
    Ps(ps::Args),
    /// Send a signal to a process in a sandbox.
    Kill(kill::Args),
    /// Connect to a process in a sandbox: show its output and send it input. Ctrl-] detaches.
    Attach(attach::Args),
    /// Open contexts (interpreters that keep their variables) and run code in them.
    #[command(subcommand)]
    Context(context::Command),
    /// Show and change what a sandbox may reach, and what it reached.
    #[command(subcommand)]
    Egress(egress::Command),
    /// Delete sandboxes.
    Rm(rm::Args),
    /// List sandboxes.
    Ls(ls::Args),
    /// Set when a sandbox ends.
    Timeout(timeout::Args),
    /// Give a sandbox more time.
    Touch(timeout::TouchArgs),
    /// Change what a sandbox may take of the host's processors.
    Update(update::Args),
    /// Print what becomes of the sandboxes.
    Events(events::Args),
    /// Print the audit journal: who asked for what, and how it was answered.
    Audit(audit::Args),
    /// Show one sandbox.
    Inspect(inspect::Args),
    /// Forward a port of this host to a port inside a sandbox.
    Forward(forward::Args),
    /// Print a URL of a port inside a sandbox that a browser can open, or revoke all of them.
    Url(url::Args),
    /// Print the console log of a sandbox.
    Logs(logs::Args),
    /// Show the resource usage of a sandbox.
    Metrics(metrics::Args),
    /// Offer sandboxes to an agent as tools, over MCP on standard input and output.
    Mcp(mcp::Args),
    /// Check whether the daemon answers.
    Ping,
    /// Show the version, VMM, language packs and pools of the daemon.
    Info,
    /// Show what this key uses, and the most that it may use.
    Usage(usage::Args),
    /// Prepare the daemon for being stopped.
    #[command(subcommand)]
    Daemon(daemon::Command),
    /// Run a self-test: create, use and delete a sandbox on the daemon.
    Test(test::Args),
    /// List, build and remove templates, the snapshots that sandboxes are restored from.
    #[command(subcommand)]
    Template(template::Command),
    /// Create, list, limit, replace and remove access keys.
    #[command(subcommand)]
    Key(key::Command),
    /// Build, list and check the images that guests boot from.
    #[command(subcommand)]
    Image(image::Command),
    /// Download and verify Firecracker or a guest kernel.
    #[command(subcommand)]
    Setup(setup::Command),
    /// Check whether this host can run emberd as configured, and suggest fixes.
    Doctor(doctor::Args),
    /// Print the Firecracker configuration of a guest, for booting it by hand.
    Vmconfig(vmconfig::Args),
    /// Print a completion script for a shell.
    Completions(completions::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
