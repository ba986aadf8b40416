//! The log, in Firecracker's format: `<time> [<id>:main] <message>`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

/// Severity of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum Level {
    /// No messages.
    Off,
    /// An error.
    Error,
    /// A warning.
    Warn,
    /// Information.
    Info,
    /// Debugging information.
    Debug,
}

/// The text is not a level.
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

    /// Accepts any case, and `Warning`, as firecracker's `logger/logging.rs` does.
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

/// Destination of messages. `PUT /logger` changes it.
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

    /// Sends further messages to `path`, which is created if missing (since 1.14).
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn send_to(&self, path: &Path, create: bool) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(create).open(path)?;
        self.change(|settings| settings.file = Some(file));
        Ok(())
    }

    /// Changes the level.
    pub fn set_level(&self, level: Level) {
        self.change(|settings| settings.level = level);
    }

    /// Changes whether a line shows its level.
    pub fn set_show_level(&self, show: bool) {
        self.change(|settings| settings.show_level = show);
    }

    /// Logs an error.
    pub fn error(&self, message: &str) {
        self.write(Level::Error, message);
    }

    /// Logs information.
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
        // A full disk only loses lines. A standard output that nobody reads any more ends the
        // process, as Firecracker 1.17-dev does (seen: SIGABRT).
        if settings.file.is_none()
            && written.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
        {
            std::process::abort();
        }
    }
}
