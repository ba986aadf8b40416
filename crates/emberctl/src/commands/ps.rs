//! `emberctl ps ID`: the processes of a sandbox.

use std::process::ExitCode;

use emberd_api::Process;
use emberd_client::Client;

use crate::output::{self, Clock, Output, printable};

/// Arguments of `ps`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sandbox.
    id: String,
}

/// Prints the table.
///
/// # Errors
/// No daemon, or its refusal.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let list = client.processes(&args.id).await?;
    output.print(&list, || {
        let clock = Clock::now();
        let rows: Vec<_> = list.processes.iter().map(|process| row(process, clock)).collect();
        output::table(["PID", "STATE", "USER", "TTY", "AGE", "COMMAND"], &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn row(process: &Process, clock: Clock) -> [String; 6] {
    let command = match process.argv.as_slice() {
        [] => "(code)".to_owned(),
        argv => printable(&argv.join(" ")).replace(['\n', '\t'], " "),
    };
    [
        process.pid.to_string(),
        state(process),
        process.user.as_deref().map_or_else(|| "-".into(), printable),
        if process.tty { "yes" } else { "no" }.to_owned(),
        clock.age(process.started_at_ms),
        command,
    ]
}

fn state(process: &Process) -> String {
    match &process.exit {
        None => "running".to_owned(),
        Some(exit) => match exit.signal {
            Some(signal) => format!("signal {signal}"),
            None => format!("exit {}", exit.exit_code),
        },
    }
}

#[cfg(test)]
mod tests {
    use emberd_api::ExecExit;

    use super::*;

    #[test]
    fn rows_say_how_a_process_is() {
        let running = Process {
            pid: 7,
            argv: vec!["sleep".into(), "1\n".into()],
            user: None,
            tty: true,
            started_at_ms: 1000,
            next_event: 1,
            exit: None,
        };
        let row = row(&running, Clock::at_ms(4000));
        assert_eq!(row[..5], ["7", "running", "-", "yes", "3s"]);
        assert!(!row[5].contains('\n'));
        let killed = ExecExit { signal: Some(9), exit_code: 137, ..ExecExit::default() };
        assert_eq!(state(&Process { exit: Some(killed), ..running.clone() }), "signal 9");
        let ended = Process { exit: Some(ExecExit::default()), ..running };
        assert_eq!(state(&ended), "exit 0");
    }
}
