//! The command line as typed.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand};

use crate::commands::{
    attach, completions, context, cp, create, doctor, exec, files, forward, image, inspect, kill,
    logs, metrics, ps, rm, run, setup, shell, template, test, vmconfig,
};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default().bold());

const AFTER_HELP: &str = "\
Exit codes: `run`, `exec`, `shell` and `attach` exit with the program's own; 124 when it ran into
its time limit, 126 when it could not be started, 125 when emberctl itself failed. Other commands:
0, 1 when a check said no, 125 when emberctl itself failed.";

/// Runs code in microVMs: the command line of emberd.
#[derive(Debug, Parser)]
#[command(name = "emberctl", version, styles = STYLES, after_help = AFTER_HELP)]
pub struct Cli {
    /// Where the daemon listens: HOST:PORT or unix:PATH [default: this user's Unix socket if there
    /// is one, else 127.0.0.1:7777].
    #[arg(long, global = true, env = "EMBERD_ADDR", value_name = "ADDR")]
    pub addr: Option<String>,
    /// Where the images guests boot from are: /var/lib/emberd for root if absent,
    /// ~/.local/share/emberd for others.
    #[arg(long, global = true, env = "EMBERD_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print one JSON document on standard output, and errors as JSON on standard error.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command, in the order of `--help`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run code in a new sandbox and throw the sandbox away.
    Run(run::Args),
    /// Create a sandbox and print its id.
    Create(create::Args),
    /// Run code in a sandbox.
    Exec(exec::Args),
    /// Copy files and directories into a sandbox, and out of it.
    Cp(cp::Args),
    /// Look at the files of a sandbox, move, remove and watch them.
    #[command(subcommand)]
    Files(files::Command),
    /// Open a shell in a sandbox.
    Shell(shell::Args),
    /// List the processes of a sandbox.
    Ps(ps::Args),
    /// Send a signal to a process in a sandbox.
    Kill(kill::Args),
    /// Come to a process in a sandbox: see what it wrote, and speak to it. Ctrl-] leaves it.
    Attach(attach::Args),
    /// Open contexts, interpreters that keep their variables, and run code in them.
    #[command(subcommand)]
    Context(context::Command),
    /// Delete sandboxes.
    Rm(rm::Args),
    /// List sandboxes.
    Ls,
    /// Show one sandbox.
    Inspect(inspect::Args),
    /// Listen on a port of this host that leads to one inside a sandbox.
    Forward(forward::Args),
    /// Print the console log of a sandbox.
    Logs(logs::Args),
    /// Show what a sandbox uses.
    Metrics(metrics::Args),
    /// Ask whether the daemon is up.
    Ping,
    /// Show what the daemon is and has.
    Info,
    /// Try the whole life of a sandbox against the daemon.
    Test(test::Args),
    /// List, build and remove templates: what sandboxes are restored from.
    #[command(subcommand)]
    Template(template::Command),
    /// Build, list and check what guests boot from.
    #[command(subcommand)]
    Image(image::Command),
    /// Fetch Firecracker or a guest kernel, verified.
    #[command(subcommand)]
    Setup(setup::Command),
    /// Find out whether this host can run emberd, and what to do if not.
    Doctor(doctor::Args),
    /// Print Firecracker's configuration of a guest, to try a host by hand.
    Vmconfig(vmconfig::Args),
    /// Print the completion script of a shell.
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
