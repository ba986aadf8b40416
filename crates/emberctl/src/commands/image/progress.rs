//! A build's progress on standard error: one moving line on a terminal, else a line a stage.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use emberd_image::{Progress, Silent};
use indicatif::{ProgressBar, ProgressStyle};

use crate::output::{self, Output, printable};

/// How often the moving line is redrawn.
const TICK: Duration = Duration::from_millis(100);
/// Spinner, time since the build began, what it does.
const TEMPLATE: &str = "{spinner} {elapsed:>4} {wide_msg}";

/// The progress display for `output`: a moving line on a terminal, else one line a stage.
pub fn of(output: Output) -> Box<dyn Progress> {
    if output.json {
        Box::new(Silent)
    } else if io::stderr().is_terminal() {
        Box::new(Line::start())
    } else {
        Box::new(Stages)
    }
}

/// The same for work of one step; silent if standard error is not a terminal.
pub fn on_terminal(output: Output) -> Box<dyn Progress> {
    if !output.json && io::stderr().is_terminal() {
        Box::new(Line::start())
    } else {
        Box::new(Silent)
    }
}

/// One line that moves, gone when it is dropped.
struct Line {
    bar: ProgressBar,
    stage: String,
}

impl Line {
    fn start() -> Self {
        let style = ProgressStyle::with_template(TEMPLATE).expect("a constant");
        let bar = ProgressBar::new_spinner().with_style(style);
        bar.enable_steady_tick(TICK);
        Self { bar, stage: String::new() }
    }
}

impl Progress for Line {
    fn stage(&mut self, stage: &str) {
        stage.clone_into(&mut self.stage);
        self.bar.set_message(self.stage.clone());
    }

    fn bytes(&mut self, done: u64, total: Option<u64>) {
        let total = total.map_or_else(String::new, |total| format!(" of {}", output::bytes(total)));
        self.bar.set_message(format!("{}: {}{total}", self.stage, output::bytes(done)));
    }

    fn line(&mut self, line: &str) {
        self.bar.set_message(format!("{}: {}", self.stage, printable(line)));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// One line a stage.
struct Stages;

impl Progress for Stages {
    fn stage(&mut self, stage: &str) {
        // Nobody is left to tell when standard error is closed.
        drop(writeln!(io::stderr(), "{stage}"));
    }
}
