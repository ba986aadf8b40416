//! One module per command.

use std::process::ExitCode;

use emberd_client::TlsFiles;

use crate::args::{Cli, Command};
use crate::daemon_options::Globals;
use crate::output::Output;
use crate::report;

pub mod attach;
pub mod audit;
pub mod completions;
pub mod context;
pub mod cp;
pub mod create;
pub mod daemon;
pub mod doctor;
pub mod egress;
pub mod events;
pub mod exec;
pub mod files;
pub mod forward;
pub mod image;
pub mod info;
pub mod inspect;
pub mod key;
pub mod kill;
pub mod logs;
pub mod ls;
pub mod mcp;
pub mod metrics;
pub mod ping;
pub mod ps;
pub mod rm;
pub mod run;
pub mod setup;
pub mod shell;
pub mod template;
pub mod test;
pub mod timeout;
pub mod update;
pub mod url;
pub mod usage;
pub mod vmconfig;

/// Carries out the command of `cli`.
///
/// # Errors
/// The command could not be carried out. The result of a program or a check is an exit code.
pub async fn run(cli: Cli, output: Output) -> anyhow::Result<ExitCode> {
    let identity = cli.client_cert.zip(cli.client_key);
    let tls = TlsFiles { ca_cert: cli.ca_cert, identity };
    let globals = Globals::new(cli.addr, cli.data_dir, tls);
    let client = || anyhow::Ok(globals.client()?.on_unknown_fields(report::unknown_fields(output)));
    match cli.command {
        Command::Run(args) => run::run(&client()?, args, output).await,
        Command::Create(args) => create::run(&client()?, args, output).await,
        Command::Exec(args) => exec::run(&client()?, args, output).await,
        Command::Cp(args) => cp::run(&client()?, args, output).await,
        Command::Files(command) => files::run(&client()?, command, output).await,
        Command::Shell(args) => shell::run(&client()?, args).await,
        Command::Ps(args) => ps::run(&client()?, args, output).await,
        Command::Kill(args) => kill::run(&client()?, args).await,
        Command::Attach(args) => attach::run(&client()?, args).await,
        Command::Context(command) => context::run(&client()?, command, output).await,
        Command::Egress(command) => egress::run(&client()?, command, output).await,
        Command::Rm(args) => rm::run(&client()?, args, output).await,
        Command::Ls(args) => ls::run(&client()?, args, output).await,
        Command::Timeout(args) => timeout::run(&client()?, args, output).await,
        Command::Update(args) => update::run(&client()?, args, output).await,
        Command::Touch(args) => timeout::touch(&client()?, args, output).await,
        Command::Events(args) => events::run(&client()?, args, output).await,
        Command::Audit(args) => audit::run(&globals, args, output).await,
        Command::Inspect(args) => inspect::run(&client()?, args, output).await,
        Command::Forward(args) => forward::run(&client()?, args, output).await,
        Command::Url(args) => url::run(&client()?, args, output).await,
        Command::Logs(args) => logs::run(&client()?, args, output).await,
        Command::Metrics(args) => metrics::run(&client()?, args, output).await,
        Command::Mcp(args) => mcp::run(&globals, client()?, args).await,
        Command::Ping => ping::run(&client()?, output).await,
        Command::Daemon(command) => daemon::run(&client()?, command, output).await,
        Command::Info => info::run(&client()?, output).await,
        Command::Test(args) => test::run(&client()?, args, output).await,
        Command::Usage(args) => usage::run(&client()?, args, output).await,
        Command::Template(command) => template::run(&client()?, command, output).await,
        Command::Key(command) => key::run(command, &globals.data_dir()?, output),
        Command::Image(command) => image::run(command, &globals.data_dir()?, output),
        Command::Setup(command) => setup::run(command, &globals.data_dir()?, output),
        Command::Doctor(args) => doctor::run(&globals, args, output).await,
        Command::Vmconfig(args) => vmconfig::run(args, &globals),
        Command::Completions(args) => completions::run(&args),
    }
}
