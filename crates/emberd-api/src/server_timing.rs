//! The `Server-Timing` header (W3C): how long each stage of a request took.
//!
//! ```text
//! Server-Timing: boot-path;desc="warm-pool", total;dur=0.142
//! ```

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Response header with the time that each stage of a request took.
pub const SERVER_TIMING_HEADER: &str = "server-timing";

/// Name of the stage that is the daemon's whole time, from the request's head to the response.
pub const STAGE_TOTAL: &str = "total";

/// Most stages that are read. The daemon sends fewer than ten.
const STAGES_MAX: usize = 64;

/// The stages of a request, with the time that each took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerTiming {
    /// In the order of the header. A stage may be part of another: see the API's guide.
    pub stages: Vec<Stage>,
}

/// One stage of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Name of the stage: letters, digits and `-`.
    pub name: Cow<'static, str>,
    /// Time that the stage took, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
    /// A fact about the request, for a stage without a duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Cow<'static, str>>,
}

/// Why a text is not a `Server-Timing` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTimingError(String);

impl fmt::Display for ServerTimingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a stage of a Server-Timing header", self.0)
    }
}

impl std::error::Error for ServerTimingError {}

impl ServerTiming {
    /// Adds a stage that took `duration`, rounded down to the microsecond.
    #[must_use]
    pub fn with(mut self, name: &'static str, duration: Duration) -> Self {
        let duration_us = Some(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
        self.stages.push(Stage { name: name.into(), duration_us, description: None });
        self
    }

    /// Adds a fact that has no duration. `description` consists of letters, digits and `-`, so
    /// that nothing in it needs escaping.
    #[must_use]
    pub fn saying(mut self, name: &'static str, description: impl Into<Cow<'static, str>>) -> Self {
        let description = Some(description.into());
        self.stages.push(Stage { name: name.into(), duration_us: None, description });
        self
    }

    /// Duration of the stage `name`.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        let stage = self.stages.iter().find(|stage| stage.name == name)?;
        stage.duration_us.map(Duration::from_micros)
    }
}

impl fmt::Display for ServerTiming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, stage) in self.stages.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", stage.name)?;
            if let Some(us) = stage.duration_us {
                write!(f, ";dur={}.{:03}", us / 1000, us % 1000)?;
            }
            if let Some(description) = &stage.description {
                write!(f, ";desc=\"{description}\"")?;
            }
        }
        Ok(())
    }
}

impl FromStr for ServerTiming {
    type Err = ServerTimingError;

    /// Reads what [`Display`](fmt::Display) writes. Unknown parameters are ignored.
    fn from_str(text: &str) -> Result<Self, ServerTimingError> {
        let stages = text.split(',').take(STAGES_MAX).map(str::trim);
        let stages = stages.filter(|stage| !stage.is_empty()).map(stage).collect::<Result<_, _>>();
        Ok(Self { stages: stages? })
    }
}

fn stage(text: &str) -> Result<Stage, ServerTimingError> {
    let malformed = || ServerTimingError(text.to_owned());
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(malformed());
    }
    let mut stage = Stage { name: name.to_owned().into(), duration_us: None, description: None };
    for part in parts {
        match part.split_once('=') {
            Some(("dur", text)) => {
                stage.duration_us = Some(microseconds(text).ok_or_else(malformed)?);
            }
            Some(("desc", text)) => {
                stage.description = Some(text.trim_matches('"').to_owned().into());
            }
            _ => {}
        }
    }
    Ok(stage)
}

/// Milliseconds with up to three decimals, in microseconds.
fn microseconds(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = decimals.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || decimals.is_empty() || decimals.len() > 3 {
        return None;
    }
    let decimals: u64 = format!("{decimals:0<3}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(decimals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let timing = ServerTiming::default()
            .saying("boot-path", "warm-pool")
            .with("warm-up", Duration::from_nanos(1_002_900))
            .with(STAGE_TOTAL, Duration::from_micros(42));
        let text = "boot-path;desc=\"warm-pool\", warm-up;dur=1.002, total;dur=0.042";
        assert_eq!(timing.to_string(), text);
        assert_eq!(text.parse(), Ok(timing.clone()));
        assert_eq!(timing.duration(STAGE_TOTAL), Some(Duration::from_micros(42)));
        assert_eq!(timing.duration("boot-path"), None);
        assert_eq!("".parse(), Ok(ServerTiming::default()));
    }

    #[test]
    fn headers_of_others_are_read_or_refused() {
        let read = |text: &str| text.parse::<ServerTiming>().map(|timing| timing.stages.len());
        assert_eq!(read("a ; dur=5 ; x=y,b"), Ok(2));
        for text in ["a b;dur=1", ";dur=1", "a;dur=", "a;dur=-1", "a;dur=1.2345", "a;dur=1.x"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(read(&format!("a;dur={}.9", u64::MAX)).is_err());
    }
}
