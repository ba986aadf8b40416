//! The command line: Firecracker's flags, and three of the double.
//!
//! `--fake-version`, `--fake-agent` and `--fault` (repeatable) are alternatives to
//! `FAKE_FIRECRACKER_VERSION`, `_AGENT` and `_FAULTS`, for callers that clear the environment.
//! Arguments are parsed as in firecracker's `utils/src/arg_parser.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::faults::{FaultError, Faults};
use crate::log::Level;
use crate::version::{VERSION_DEFAULT, Version, VersionError};

/// Default maximum of a request body, in bytes; `--http-api-max-payload-size` changes it.
const BODY_BYTES_MAX: usize = 51_200;

/// The task of the process.
#[derive(Debug)]
pub enum Command {
    /// Prints the flags.
    Help,
    /// Prints the version.
    Version(Version),
    /// Prints the format of the snapshots that it writes.
    SnapshotVersion(Version),
    /// Prints the format of a snapshot's state file.
    DescribeSnapshot(PathBuf),
    /// Runs a VMM.
    Run(Box<Config>),
}

/// Options of a VMM.
#[allow(clippy::struct_field_names, reason = "named like the flag")]
#[derive(Debug)]
pub struct Config {
    /// Socket of the API; absent with `--no-api`.
    pub api_socket: Option<PathBuf>,
    /// Id of the instance.
    pub id: String,
    /// File with the whole configuration, which also starts the guest.
    pub config_file: Option<PathBuf>,
    /// Path of the log; standard output by default.
    pub log_path: Option<PathBuf>,
    /// Level of the log.
    pub level: Level,
    /// Whether each line of the log shows its level.
    pub show_level: bool,
    /// Maximum size of a request body, in bytes.
    pub body_bytes_max: usize,
    /// The emulated version.
    pub version: Version,
    /// The agent's binary.
    pub agent: PathBuf,
    /// Faults to inject.
    pub faults: Faults,
}

/// Why the command line is invalid; each error has Firecracker's exit code.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A word is not a flag, a value is missing, or flags exclude each other.
    #[error("Arguments parsing error: {0}\n\nFor more information try --help.")]
    Words(String),
    /// There is no such level.
    #[error("Invalid value for logger level: {0}.Possible values: [Error, Warning, Info, Debug]")]
    Level(String),
    /// A flag of the double is invalid.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// A flag of the double is invalid.
    #[error(transparent)]
    Version(#[from] VersionError),
}

impl CliError {
    /// Returns the exit code, as in firecracker's `FcExitCode`. reference §1.5.
    pub fn exit_code(&self) -> u8 {
        if let Self::Level(_) = self { 152 } else { 153 }
    }
}

const FLAGS_WITH_VALUE: [&str; 17] = [
    "api-sock",
    "config-file",
    "describe-snapshot",
    "fake-agent",
    "fake-version",
    "http-api-max-payload-size",
    "id",
    "level",
    "log-path",
    "metadata",
    "metrics-path",
    "mmds-size-limit",
    "module",
    "parent-cpu-time-us",
    "seccomp-filter",
    "start-time-cpu-us",
    "start-time-us",
];
const FLAGS_ALONE: [&str; 8] = [
    "boot-timer",
    "enable-pci",
    "no-api",
    "no-seccomp",
    "show-level",
    "show-log-origin",
    "snapshot-version",
    "version",
];

#[derive(Default)]
struct Words {
    values: BTreeMap<String, String>,
    alone: Vec<String>,
    faults: Vec<String>,
}

impl Words {
    fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, CliError> {
        let mut parsed = Self::default();
        let mut words = words.into_iter().take_while(|word| word != "--");
        while let Some(word) = words.next() {
            let unexpected = || {
                CliError::Words(format!(
                    "Found argument '{}' which wasn't expected, or isn't valid in this context.",
                    word.trim_start_matches('-')
                ))
            };
            let name = word.strip_prefix("--").ok_or_else(unexpected)?;
            let twice =
                || CliError::Words(format!("The argument '{name}' was provided more than once."));
            if FLAGS_ALONE.contains(&name) {
                if parsed.has(name) {
                    return Err(twice());
                }
                parsed.alone.push(name.to_owned());
                continue;
            }
            if !FLAGS_WITH_VALUE.contains(&name) && name != "fault" {
                return Err(unexpected());
            }
            let value = words.next().filter(|value| !value.starts_with("--"));
            let value = value.ok_or_else(|| {
                CliError::Words(format!(
                    "The argument '{name}' requires a value, but none was supplied."
                ))
            })?;
            if name == "fault" {
                parsed.faults.push(value);
            } else if parsed.values.insert(name.to_owned(), value).is_some() {
                return Err(twice());
            }
        }
        Ok(parsed)
    }

    fn has(&self, name: &str) -> bool {
        self.alone.iter().any(|alone| alone == name)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.values.get(name).map(PathBuf::from)
    }
}

impl Command {
    /// Parses the arguments after the program's name.
    ///
    /// # Errors
    /// [`CliError`], with Firecracker's exit code.
    pub fn parse(
        words: impl IntoIterator<Item = String>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, CliError> {
        let words: Vec<String> = words.into_iter().collect();
        let from_environment = environment("FAKE_FIRECRACKER_VERSION");
        let version = |text: Option<&String>| {
            text.or(from_environment.as_ref()).map_or(VERSION_DEFAULT, |text| text).parse()
        };
        if words.iter().any(|word| word == "--help" || word == "-h") {
            return Ok(Self::Help);
        }
        // `--version` takes precedence over any error in the arguments.
        if words.iter().any(|word| word == "--version") {
            let named = words.iter().position(|word| word == "--fake-version");
            return Ok(Self::Version(version(named.and_then(|at| words.get(at + 1)))?));
        }
        let words = Words::parse(words)?;
        let version = version(words.values.get("fake-version"))?;
        if words.has("no-api") && !words.values.contains_key("config-file") {
            let missing = "Argument 'config-file' required, but not found.";
            return Err(CliError::Words(missing.to_owned()));
        }
        if words.has("no-seccomp") && words.values.contains_key("seccomp-filter") {
            let both = "Argument 'seccomp-filter' cannot be used together with argument \
                        'no-seccomp'.";
            return Err(CliError::Words(both.to_owned()));
        }
        if words.has("snapshot-version") {
            return Ok(Self::SnapshotVersion(version));
        }
        if let Some(state_file) = words.path("describe-snapshot") {
            return Ok(Self::DescribeSnapshot(state_file));
        }
        Config::new(&words, version, environment).map(|config| Self::Run(Box::new(config)))
    }
}

impl Config {
    fn new(
        words: &Words,
        version: Version,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, CliError> {
        let mut faults = Faults::default();
        faults.add(&environment("FAKE_FIRECRACKER_FAULTS").unwrap_or_default())?;
        for list in &words.faults {
            faults.add(list)?;
        }
        let level = words.values.get("level").map_or(Ok(Level::Info), |text| {
            text.parse().map_err(|_| CliError::Level(text.clone()))
        })?;
        let agent = words.path("fake-agent");
        let agent = agent.or_else(|| environment("FAKE_FIRECRACKER_AGENT").map(PathBuf::from));
        let body_bytes_max = words.values.get("http-api-max-payload-size");
        let body_bytes_max = body_bytes_max.map_or(Ok(BODY_BYTES_MAX), |text| {
            text.parse().map_err(|_| {
                CliError::Words("'http-api-max-payload-size' is no number of bytes".to_owned())
            })
        })?;
        let api_socket = words.path("api-sock").unwrap_or("/run/firecracker.socket".into());
        Ok(Self {
            api_socket: (!words.has("no-api")).then_some(api_socket),
            id: words.values.get("id").cloned().unwrap_or("anonymous-instance".to_owned()),
            config_file: words.path("config-file"),
            log_path: words.path("log-path"),
            level,
            show_level: words.has("show-level"),
            body_bytes_max,
            version,
            agent: agent.unwrap_or_else(agent_beside_this_binary),
            faults,
        })
    }
}

/// Returns the output of `--help`.
pub fn help() -> String {
    let flags = FLAGS_ALONE.iter().chain(&FLAGS_WITH_VALUE).chain(&["fault"]);
    let lines: Vec<_> = flags.map(|flag| format!("  --{flag}")).collect();
    format!("fake-firecracker: a test double of Firecracker\n\n{}", lines.join("\n"))
}

fn agent_beside_this_binary() -> PathBuf {
    let this = std::env::current_exe().unwrap_or_default();
    this.with_file_name("emberd-init")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, CliError> {
        Command::parse(line.split_whitespace().map(str::to_owned), |_| None)
    }

    fn check_exit_code(line: &str, exit_code: u8) {
        assert_eq!(parse(line).unwrap_err().exit_code(), exit_code, "{line}");
    }

    #[test]
    fn wrong_words_have_firecrackers_exit_codes() {
        check_exit_code("--unknown", 153);
        check_exit_code("word", 153);
        check_exit_code("--id", 153);
        check_exit_code("--id --no-api", 153);
        check_exit_code("--id a --id b", 153);
        check_exit_code("--no-seccomp --no-seccomp", 153);
        check_exit_code("--no-api", 153);
        check_exit_code("--no-seccomp --seccomp-filter f", 153);
        check_exit_code("--level Loud", 152);
    }

    #[test]
    fn version_wins_over_wrong_words() {
        let Command::Version(version) = parse("--unknown --version").unwrap() else { panic!() };
        assert_eq!(version.to_string(), VERSION_DEFAULT);
    }

    #[test]
    fn the_flag_wins_over_the_environment() {
        let environment = |name: &str| match name {
            "FAKE_FIRECRACKER_VERSION" => Some("1.15.1".to_owned()),
            "FAKE_FIRECRACKER_FAULTS" => Some("never-ready".to_owned()),
            _ => None,
        };
        let words = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let Ok(Command::Run(config)) = Command::parse(words, environment) else { panic!() };
            config
        };
        assert_eq!(words("").version.to_string(), "1.15.1");
        assert_eq!(words("--fake-version 1.17.0").version.to_string(), "1.17.0");
        let faults = words("--fault cut-api=3").faults;
        assert_eq!((faults.boot_duration(), faults.api_cut()), (None, Some(3)));
    }
}
