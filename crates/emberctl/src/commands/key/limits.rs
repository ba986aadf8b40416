//! `--limit NAME=VALUE`: limits of a key as they are typed and shown.

use std::str::FromStr;
use std::time::Duration;

use emberd_config::duration;
use emberd_keys::{KeyLimits, LimitName, LimitValue};

/// Name of the longest timeout, which is typed as a time.
const TIMEOUT: &str = "timeout";

/// Value that lifts a limit.
const OFF: &str = "off";

/// Value of a list without words.
const NONE: &str = "none";

/// One limit as it is typed.
#[derive(Debug, Clone)]
pub struct Setting {
    name: LimitName,
    /// None lifts it.
    value: Option<Value>,
}

#[derive(Debug, Clone)]
enum Value {
    Amount(u64),
    Words(Vec<String>),
}

/// Name of a limit on the command line.
fn typed(name: LimitName) -> &'static str {
    if name == LimitName::TimeoutMs { TIMEOUT } else { name.name() }
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || LimitName::ALL.map(typed).join(", ");
        let (name, value) = text.split_once('=').ok_or("a limit is written NAME=VALUE")?;
        let limit = LimitName::ALL.into_iter().find(|limit| typed(*limit) == name);
        let limit = limit.ok_or_else(|| format!("unknown limit `{name}`: one of {}", names()))?;
        if value == OFF {
            return Ok(Self { name: limit, value: None });
        }
        let value = match limit {
            LimitName::TimeoutMs => {
                let time = duration::parse(value).map_err(|what| format!("{name}: {what}"))?;
                Value::Amount(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
            }
            LimitName::Packs | LimitName::Egress if value == NONE => Value::Words(Vec::new()),
            LimitName::Packs | LimitName::Egress => {
                Value::Words(value.split(',').map(|word| word.trim().to_owned()).collect())
            }
            _ => Value::Amount(value.parse().map_err(|_| format!("{name}: not a whole number"))?),
        };
        Ok(Self { name: limit, value: Some(value) })
    }
}

impl Setting {
    /// Sets the limit, or lifts it.
    pub fn apply(self, limits: &mut KeyLimits) {
        let (amount, words) = match self.value {
            Some(Value::Amount(amount)) => (Some(amount), None),
            Some(Value::Words(words)) => (None, Some(words)),
            None => (None, None),
        };
        match self.name {
            LimitName::Sandboxes => limits.sandboxes = amount,
            LimitName::Vcpus => limits.vcpus = amount,
            LimitName::MemoryMib => limits.memory_mib = amount,
            LimitName::DiskGib => limits.disk_gib = amount,
            LimitName::TimeoutMs => limits.timeout_ms = amount,
            LimitName::CreatesPerMinute => limits.creates_per_minute = amount,
            LimitName::Requests => limits.requests = amount,
            LimitName::Packs => limits.packs = words,
            LimitName::Egress => limits.egress = words,
        }
    }
}

/// Checks that each of `settings` is of another limit.
///
/// # Errors
/// Two are of one: it is not known which one is meant.
pub fn check(settings: &[Setting]) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    for Setting { name, .. } in settings {
        anyhow::ensure!(!seen.contains(name), "the limit {} is given twice", typed(*name));
        seen.push(*name);
    }
    Ok(())
}

/// Applies all `settings`.
pub fn apply(settings: Vec<Setting>, limits: &mut KeyLimits) {
    for setting in settings {
        setting.apply(limits);
    }
}

/// One limit as it is shown, without its name.
pub fn value_text(name: LimitName, value: LimitValue<'_>) -> String {
    match value {
        LimitValue::Amount(ms) if name == LimitName::TimeoutMs => {
            duration::text(Duration::from_millis(ms))
        }
        LimitValue::Amount(amount) => amount.to_string(),
        LimitValue::Words([]) => NONE.to_owned(),
        LimitValue::Words(words) => words.join(","),
    }
}

/// All limits on one line; `-` for none.
pub fn text(limits: &KeyLimits) -> String {
    let limits = limits.iter();
    let limits: Vec<_> = limits
        .map(|(name, value)| format!("{}={}", typed(name), value_text(name, value)))
        .collect();
    if limits.is_empty() { "-".to_owned() } else { limits.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(words: &[&str]) -> anyhow::Result<KeyLimits> {
        let mut limits = KeyLimits::default();
        let settings = words.iter().map(|word| word.parse::<Setting>());
        let settings = settings.collect::<Result<Vec<_>, _>>().map_err(anyhow::Error::msg)?;
        check(&settings)?;
        apply(settings, &mut limits);
        Ok(limits)
    }

    #[test]
    fn limits_are_shown_as_they_are_typed() {
        let all = [
            "sandboxes=8",
            "vcpus=16",
            "memory_mib=4096",
            "disk_gib=20",
            "timeout=2h",
            "creates_per_minute=60",
            "requests=32",
            "packs=python,shell",
            "egress=none",
        ];
        assert_eq!(text(&limits(&all).unwrap()), all.join(" "));
        assert_eq!(text(&KeyLimits::default()), "-");
        let mut lifted = limits(&all).unwrap();
        for word in all {
            let (name, _) = word.split_once('=').unwrap();
            format!("{name}=off").parse::<Setting>().unwrap().apply(&mut lifted);
        }
        assert!(lifted.is_none());
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        for (words, error) in [
            (&["sandboxes"][..], "a limit is written NAME=VALUE"),
            (
                &["boxes=1"],
                "unknown limit `boxes`: one of sandboxes, vcpus, memory_mib, disk_gib, ",
            ),
            (&["sandboxes=many"], "sandboxes: not a whole number"),
            (&["sandboxes=-1"], "sandboxes: not a whole number"),
            (&["timeout=soon"], "timeout: a duration such as"),
            (&["vcpus=1", "vcpus=2"], "the limit vcpus is given twice"),
        ] {
            let refused = limits(words).unwrap_err().to_string();
            assert!(refused.contains(error), "{words:?}: {refused}");
        }
    }
}
