//! The command line off PID 1.

use std::ffi::OsString;
use std::path::PathBuf;

/// Command-line options of the agent off PID 1.
#[derive(Debug, PartialEq, Eq)]
pub struct Flags {
    /// Unix socket to create and serve.
    pub listen: PathBuf,
    /// File with the pack description.
    pub pack: PathBuf,
    /// Directory for the code of running execs; by default `<SOCKET>.scratch`.
    pub scratch: PathBuf,
    /// Unix socket to connect to once the agent serves.
    pub ready: Option<PathBuf>,
    /// Capture egress in the network namespace, and write this resolv.conf(5).
    pub egress: Option<PathBuf>,
}

/// Why the command line is invalid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagsError {
    /// An argument is not a known flag.
    #[error("unknown argument `{}`; {USAGE}", .0.display())]
    Unknown(OsString),
    /// A flag's value is missing.
    #[error("{0} needs a value; {USAGE}")]
    NoValue(&'static str),
    /// A flag is missing.
    #[error("{0} is missing; {USAGE}")]
    Missing(&'static str),
}

const USAGE: &str = "usage: emberd-init --listen SOCKET --pack PACK_JSON [--scratch DIR] \
    [--ready SOCKET] [--egress RESOLV_CONF]";

impl Flags {
    /// Parses the arguments after the program's name.
    ///
    /// # Errors
    /// [`FlagsError`].
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, FlagsError> {
        let (mut listen, mut pack, mut scratch) = (None, None, None);
        let (mut ready, mut egress) = (None, None);
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let (name, value) = match word.to_str() {
                Some("--listen") => ("--listen", &mut listen),
                Some("--pack") => ("--pack", &mut pack),
                Some("--scratch") => ("--scratch", &mut scratch),
                Some("--ready") => ("--ready", &mut ready),
                Some("--egress") => ("--egress", &mut egress),
                _ => return Err(FlagsError::Unknown(word)),
            };
            *value = Some(PathBuf::from(words.next().ok_or(FlagsError::NoValue(name))?));
        }
        let listen = listen.ok_or(FlagsError::Missing("--listen"))?;
        let pack = pack.ok_or(FlagsError::Missing("--pack"))?;
        let scratch = scratch.unwrap_or_else(|| {
            let mut beside_socket = listen.clone().into_os_string();
            beside_socket.push(".scratch");
            beside_socket.into()
        });
        Ok(Self { listen, pack, scratch, ready, egress })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, FlagsError> {
        Flags::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn scratch_is_beside_the_socket_unless_given() {
        let flags = parse("--listen /a/s --pack p").unwrap();
        assert_eq!((flags.scratch, flags.ready), (PathBuf::from("/a/s.scratch"), None));
        let flags = parse("--pack p --scratch /b --ready /r --listen /a/s").unwrap();
        assert_eq!((flags.scratch, flags.ready), (PathBuf::from("/b"), Some("/r".into())));
    }

    #[test]
    fn egress_is_captured_only_when_asked_for() {
        assert_eq!(parse("--listen s --pack p").unwrap().egress, None);
        let flags = parse("--listen s --pack p --egress /r").unwrap();
        assert_eq!(flags.egress, Some("/r".into()));
    }

    #[test]
    fn anything_else_is_refused() {
        assert_eq!(parse("--pack p"), Err(FlagsError::Missing("--listen")));
        assert_eq!(parse("--listen s"), Err(FlagsError::Missing("--pack")));
        assert_eq!(parse("--listen"), Err(FlagsError::NoValue("--listen")));
        assert_eq!(parse("serve"), Err(FlagsError::Unknown("serve".into())));
    }
}
