//! Events of runs, as they are shown.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use emberd_api::{ContextEvent, RunEvent};
use serde::Serialize;

use super::pictures::{Pictures, is_picture};
use crate::exit;
use crate::output::{Output, printable};
use crate::policy;

/// The JSON line that `context run --save` prints for a picture, among the run's events.
#[derive(Serialize)]
struct Saved {
    event: &'static str,
    path: PathBuf,
}

/// The part of a run that has been shown.
pub struct Shown {
    output: Output,
    failed: bool,
    timed_out: bool,
    pictures: Pictures,
}

impl Shown {
    /// Nothing yet.
    pub fn new(output: Output, pictures: Pictures) -> Self {
        Self { output, failed: false, timed_out: false, pictures }
    }

    /// How the last run went.
    pub fn exit(&self) -> ExitCode {
        match (self.timed_out, self.failed) {
            (true, _) => exit::TIMED_OUT.into(),
            (false, true) => exit::CHECK_FAILED.into(),
            (false, false) => ExitCode::SUCCESS,
        }
    }

    /// Shows an event.
    ///
    /// # Errors
    /// Standard output is closed or full, or a picture cannot be saved.
    pub fn event(&mut self, event: &ContextEvent) -> anyhow::Result<()> {
        if self.output.json {
            writeln!(io::stdout(), "{}", serde_json::to_string(event)?)?;
        } else {
            show(&event.event)?;
        }
        match &event.event {
            RunEvent::Started { execution_count } => {
                (self.failed, self.timed_out) = (false, false);
                self.pictures.of_run(*execution_count);
            }
            RunEvent::Display { data } | RunEvent::Result { data } => {
                for path in self.pictures.take(data)? {
                    if self.output.json {
                        let saved = serde_json::to_string(&Saved { event: "saved", path })?;
                        writeln!(io::stdout(), "{saved}")?;
                    } else {
                        writeln!(io::stdout(), "{}", path.display())?;
                    }
                }
            }
            RunEvent::Error { .. } => self.failed = true,
            RunEvent::End { egress, timed_out, .. } => {
                self.timed_out = *timed_out;
                if self.output.json {
                    return Ok(());
                }
                policy::say_denied(egress)?;
                if let Some(complaint) = self.pictures.complaint() {
                    writeln!(io::stderr(), "emberctl: {complaint}")?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// An event for people, but for its pictures.
fn show(event: &RunEvent) -> io::Result<()> {
    match event {
        RunEvent::Stdout { text } => {
            io::stdout().write_all(text.as_bytes())?;
            io::stdout().flush()
        }
        RunEvent::Stderr { text } => io::stderr().write_all(text.as_bytes()),
        RunEvent::Result { data } | RunEvent::Display { data } => {
            if let Some(plain) = data.get::<String>("text/plain") {
                writeln!(io::stdout(), "{}", printable(&plain))?;
            }
            for kind in
                data.kinds().iter().filter(|kind| *kind != "text/plain" && !is_picture(kind))
            {
                writeln!(io::stderr(), "emberctl: also as {}", printable(kind))?;
            }
            Ok(())
        }
        RunEvent::Error { traceback, .. } => {
            writeln!(io::stderr(), "{}", printable(traceback.trim_end()))
        }
        RunEvent::End { truncated: true, .. } => {
            writeln!(io::stderr(), "emberctl: the output of the run was cut at its limit")
        }
        RunEvent::Gap { .. } => {
            writeln!(io::stderr(), "emberctl: some output is missing here")
        }
        RunEvent::Started { .. } | RunEvent::End { .. } | RunEvent::Other => Ok(()),
    }
}
