//! The log, in Firecracker's form: `<time> [<id>:main] <message>`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

/// How grave a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum Level {
    /// Nothing is as grave.
    Off,
    /// Something failed.
    Error,
    /// Something is odd.
    Warn,
    /// What happens.
    Info,
    /// More of it.
    Debug,
}

/// Why a text is no level.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid LevelFilter")]
pub struct LevelError;

impl TryFrom<String> for Level {
    type Error = LevelError;

    fn try_from(text: String) -> Result<Self, LevelError> {
        text.parse()
    }
}

impl FromStr for Level {
    type Err = LevelError;

    /// Any case, and `Warning`, as firecracker's `logger/logging.rs` takes them.
    fn from_str(text: &str) -> Result<Self, LevelError> {
        match text.to_ascii_lowercase().as_str() {
            "off" => Ok(Self::Off),
            "error" => Ok(Self::Error),
            "warn" | "warning" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" | "trace" => Ok(Self::Debug),
            _ => Err(LevelError),
        }
    }
}

/// Where messages go. `PUT /logger` changes it.
#[derive(Debug)]
pub struct Log {
    id: String,
    settings: Mutex<Settings>,
}

#[derive(Debug)]
struct Settings {
    file: Option<File>,
    level: Level,
    show_level: bool,
}

impl Log {
    /// A log on standard output.
    pub fn new(id: String, level: Level, show_level: bool) -> Self {
        Self { id, settings: Mutex::new(Settings { file: None, level, show_level }) }
    }

    /// Sends what follows to `path`, made when absent (since 1.14).
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn send_to(&self, path: &Path, create: bool) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(create).open(path)?;
        self.change(|settings| settings.file = Some(file));
        Ok(())
    }

    /// Changes how much is logged.
    pub fn set_level(&self, level: Level) {
        self.change(|settings| settings.level = level);
    }

    /// Changes whether a line names its level.
    pub fn set_show_level(&self, show: bool) {
        self.change(|settings| settings.show_level = show);
    }

    /// Something failed.
    pub fn error(&self, message: &str) {
        self.write(Level::Error, message);
    }

    /// Something happened.
    pub fn info(&self, message: &str) {
        self.write(Level::Info, message);
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings.lock().expect("no holder panics"));
    }

    fn write(&self, level: Level, message: &str) {
        let mut settings = self.settings.lock().expect("no holder panics");
        if level > settings.level {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let shown = match (settings.show_level, level) {
            (false, _) => "",
            (true, Level::Error) => ":ERROR",
            (true, _) => ":INFO",
        };
        let line = format!(
            "{}.{:09} [{}:main{shown}] {message}\n",
            now.as_secs(),
            now.subsec_nanos(),
            self.id
        );
        let written = match &mut settings.file {
            Some(file) => file.write_all(line.as_bytes()),
            None => io::stdout().write_all(line.as_bytes()),
        };
        // A full disk or a closed pipe loses lines and nothing else, as in Firecracker.
        drop(written);
    }
}
