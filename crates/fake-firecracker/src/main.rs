//! A test double of Firecracker. It has the API on a Unix socket, as strict as the real one, the
//! hybrid vsock and the exit codes. Its guest is the real agent as a host process.
//!
//! The double boots nothing and isolates nothing; its root image is a `pack.json`. In comments,
//! "reference §n" is the section of emberd's notes on driving Firecracker that states the fact
//! and its source. Status, messages and exit codes were compared with Firecracker 1.17-dev.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::runtime;
use tokio::sync::Mutex;

mod api;
mod cli;
mod config_file;
mod exits;
mod faults;
mod guest;
mod keeper;
mod log;
mod machine;
mod marks;
mod older;
mod process_tree;
mod resources;
mod snapshot;
mod version;
mod vsock;

use api::server::Api;
use cli::{Command, Config};
use exits::Exits;
use log::Log;
use machine::Machine;

/// Exit code of Firecracker's generic error. reference §1.5.
const EXIT_CODE_GENERIC: u8 = 1;
/// Maximum length of `--id`, in characters. reference §1.1.
const ID_CHARS_MAX: usize = 64;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == keeper::KEEPER_WORD) {
        return keeper::run(&words[1..]);
    }
    if words.first().is_some_and(|word| word == older::OLDER_WORD) {
        return older::run(&words[1..]);
    }
    let words = words.into_iter().map(|word| word.to_string_lossy().into_owned());
    match Command::parse(words, |name| std::env::var(name).ok()) {
        Ok(command) => obey(command),
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn obey(command: Command) -> ExitCode {
    match command {
        Command::Help => println!("{}", cli::help()),
        Command::Version(version) => println!("Firecracker v{version}\n"),
        Command::SnapshotVersion(version) => println!("v{}", version.snapshot_format()),
        Command::DescribeSnapshot(path) => match snapshot::format_of(&path) {
            Ok(format) => println!("v{format}"),
            Err(error) => {
                eprintln!("Error: {error}");
                return ExitCode::from(EXIT_CODE_GENERIC);
            }
        },
        Command::Run(config) => return be_vmm(*config),
    }
    ExitCode::SUCCESS
}

/// Runs until the guest ends, a call is fatal or a signal arrives. No signal is caught, so
/// SIGTERM and SIGINT end the process at once. reference §1.5.
fn be_vmm(config: Config) -> ExitCode {
    let is_id = |letter: char| letter.is_alphanumeric() || letter == '-';
    if config.id.is_empty() || config.id.len() > ID_CHARS_MAX || !config.id.chars().all(is_id) {
        eprintln!("Invalid instance ID");
        std::process::abort();
    }
    let log = Arc::new(Log::new(config.id.clone(), config.level, config.show_level));
    if let Some(path) = &config.log_path
        && let Err(error) = log.send_to(path, config.version.since(1, 14))
    {
        eprintln!("Error: Could not initialize logger: {error}");
        return ExitCode::from(EXIT_CODE_GENERIC);
    }
    log.info(&format!("Running Firecracker v{}", config.version));
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            log.error(&format!("no runtime: {error}"));
            return ExitCode::from(EXIT_CODE_GENERIC);
        }
    };
    let code = runtime.block_on(run(Arc::new(config), &log)).unwrap_or_else(|reason| {
        log.error(&reason);
        eprintln!("Error: {reason}");
        EXIT_CODE_GENERIC
    });
    // Dropping the runtime closes all connections and ends the guest.
    drop(runtime);
    log.info(&format!("Firecracker exiting. exit_code={code}"));
    ExitCode::from(code)
}

async fn run(config: Arc<Config>, log: &Arc<Log>) -> Result<u8, String> {
    // The API's socket is bound before anything is configured. reference §1.1.
    let listener = config.api_socket.as_ref().map(|path| {
        UnixListener::bind(path).map_err(|error| {
            let path = path.display();
            format!(
                "Failed to open the API socket at: {path}. Check that it is not already \
                     used: {error}"
            )
        })
    });
    let listener = listener.transpose()?;
    let (exits, mut code) = Exits::new();
    let mut machine = Machine::new(config.clone(), log.clone(), exits.clone())
        .map_err(|error| format!("no directory for the guest: {error}"))?;
    if let Some(path) = &config.config_file {
        let text = fs::read(path).unwrap_or_else(|error| {
            eprintln!("Unable to open or read from the configuration file: {error}");
            std::process::abort()
        });
        config_file::apply(&text, &mut machine)?;
    }
    let machine = Mutex::new(machine);
    let api = Arc::new(Api { machine, config, log: log.clone(), exits });
    if let Some(listener) = listener {
        tokio::spawn(api::server::serve(listener, api.clone()));
    }
    Ok(code.recv().await.unwrap_or(EXIT_CODE_GENERIC))
}
