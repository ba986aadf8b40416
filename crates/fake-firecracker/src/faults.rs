//! Injected faults: `--fault WORD` or `FAKE_FIRECRACKER_FAULTS=WORD,WORD`.
//!
//! `die-at-boot[=CODE]` · `die-at=CALL[=CODE]` · `hang-at=CALL` · `refuse-at=CALL` ·
//! `never-ready` · `no-listener` · `slow-boot=MS` · `cut-vsock=BYTES` · `cut-api=BYTES`,
//! a CALL being a method and a path, such as `PUT /snapshot/load`.

use std::str::FromStr;
use std::time::Duration;

/// Default exit code of a process that dies: Firecracker's generic error.
const DEATH_CODE_DEFAULT: u8 = 1;

/// A fault, which occurs every time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The process ends once `InstanceStart` is answered, as if the guest's kernel had panicked.
    DieAtBoot(u8),
    /// The process ends instead of answering the call.
    DieAt(String, u8),
    /// The call, and with it the whole API, never answers.
    HangAt(String),
    /// The call is answered with 400.
    RefuseAt(String),
    /// The guest never loads its vsock driver: connections hang.
    NeverReady,
    /// The guest is running, but nothing listens in it: connections end before their OK.
    NoListener,
    /// The guest loads its vsock driver only after this time.
    SlowBoot(Duration),
    /// Each stream from the guest ends after this many bytes.
    CutVsock(usize),
    /// Each API connection ends after this many bytes of answers.
    CutApi(usize),
}

/// The text is not a fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown fault `{0}`")]
pub struct FaultError(String);

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(word: &str) -> Result<Self, FaultError> {
        let mut parts = word.split('=');
        let parts = (parts.next().unwrap_or_default(), parts.next(), parts.next(), parts.next());
        let unknown = || FaultError(word.to_owned());
        let number = |text: &str| text.parse().map_err(|_| unknown());
        let code = |text: Option<&str>| {
            text.map_or(Ok(DEATH_CODE_DEFAULT), |text| text.parse().map_err(|_| unknown()))
        };
        Ok(match parts {
            ("die-at-boot", text, None, None) => Self::DieAtBoot(code(text)?),
            ("die-at", Some(call), text, None) => Self::DieAt(call.to_owned(), code(text)?),
            ("hang-at", Some(call), None, None) => Self::HangAt(call.to_owned()),
            ("refuse-at", Some(call), None, None) => Self::RefuseAt(call.to_owned()),
            ("never-ready", None, None, None) => Self::NeverReady,
            ("no-listener", None, None, None) => Self::NoListener,
            ("slow-boot", Some(text), None, None) => {
                Self::SlowBoot(Duration::from_millis(text.parse().map_err(|_| unknown())?))
            }
            ("cut-vsock", Some(text), None, None) => Self::CutVsock(number(text)?),
            ("cut-api", Some(text), None, None) => Self::CutApi(number(text)?),
            _ => return Err(unknown()),
        })
    }
}

/// All injected faults.
#[derive(Debug, Clone, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Adds the faults of a comma-separated list.
    ///
    /// # Errors
    /// The first word that is not a fault.
    pub fn add(&mut self, words: &str) -> Result<(), FaultError> {
        for word in words.split(',').filter(|word| !word.is_empty()) {
            self.0.push(word.parse()?);
        }
        Ok(())
    }

    /// Returns what happens to `call` instead of an answer.
    pub fn at(&self, call: &str) -> Option<&Fault> {
        self.0.iter().find(|fault| match fault {
            Fault::DieAt(at, _) | Fault::HangAt(at) | Fault::RefuseAt(at) => at == call,
            _ => false,
        })
    }

    /// Returns the exit code of a process that dies while its guest boots.
    pub fn death_at_boot(&self) -> Option<u8> {
        self.find(|fault| if let Fault::DieAtBoot(code) = fault { Some(*code) } else { None })
    }

    /// Returns the time after which the guest loads its vsock driver; `None` if it never does.
    pub fn boot_duration(&self) -> Option<Duration> {
        if self.0.contains(&Fault::NeverReady) {
            return None;
        }
        let slow =
            |fault: &Fault| if let Fault::SlowBoot(time) = fault { Some(*time) } else { None };
        Some(self.find(slow).unwrap_or_default())
    }

    /// Returns whether nothing listens in the guest.
    pub fn no_listener(&self) -> bool {
        self.0.contains(&Fault::NoListener)
    }

    /// Returns the number of bytes after which a stream from the guest ends.
    pub fn vsock_cut(&self) -> Option<usize> {
        self.find(|fault| if let Fault::CutVsock(bytes) = fault { Some(*bytes) } else { None })
    }

    /// Returns the number of bytes of answers after which an API connection ends.
    pub fn api_cut(&self) -> Option<usize> {
        self.find(|fault| if let Fault::CutApi(bytes) = fault { Some(*bytes) } else { None })
    }

    fn find<T>(&self, pick: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(pick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_parses() {
        let cases = [
            ("die-at-boot", Fault::DieAtBoot(1)),
            ("die-at-boot=148", Fault::DieAtBoot(148)),
            ("die-at=PUT /snapshot/load=149", Fault::DieAt("PUT /snapshot/load".into(), 149)),
            ("hang-at=PUT /vsock", Fault::HangAt("PUT /vsock".into())),
            ("refuse-at=PATCH /vm", Fault::RefuseAt("PATCH /vm".into())),
            ("never-ready", Fault::NeverReady),
            ("no-listener", Fault::NoListener),
            ("slow-boot=25", Fault::SlowBoot(Duration::from_millis(25))),
            ("cut-vsock=10", Fault::CutVsock(10)),
            ("cut-api=0", Fault::CutApi(0)),
        ];
        for (word, fault) in cases {
            assert_eq!(word.parse(), Ok(fault));
        }
    }

    #[test]
    fn what_is_no_fault_is_refused() {
        for word in ["", "die", "die-at", "die-at-boot=x", "never-ready=1", "cut-api=-1"] {
            assert_eq!(word.parse::<Fault>(), Err(FaultError(word.to_owned())));
        }
    }
}
