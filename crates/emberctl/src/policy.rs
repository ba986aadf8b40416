//! Options that say what a new sandbox may reach, and what a program is told that it may not.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use emberd_api::{EgressDenials, EntrySpec, PolicySpec};

use crate::output::printable;

/// Options of `create` and `run`.
#[derive(Debug, Default, clap::Args)]
pub struct PolicyArgs {
    /// Let the sandbox reach the hosts of a profile, such as `pip`. Repeat the option, or separate
    /// names by commas. `emberctl egress profiles` lists them.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    profile: Vec<String>,
    /// Let the sandbox reach a host: HOST[:PORTS] or a profile. HOST is a name, `*.NAME`, `*`, an
    /// address or a range such as 10.20.0.0/16. PORTS are 80 and 443 unless given.
    #[arg(long, value_name = "HOST[:PORTS]")]
    allow: Vec<String>,
    /// Keep the sandbox from reaching a host, whatever allows it.
    #[arg(long, value_name = "HOST[:PORTS]")]
    deny: Vec<String>,
}

impl PolicyArgs {
    /// The policy that the options ask for; none if there are none.
    pub fn into_spec(self) -> Option<PolicySpec> {
        if self.profile.is_empty() && self.allow.is_empty() && self.deny.is_empty() {
            return None;
        }
        let (profiles, allow) = split(self.allow);
        Some(PolicySpec {
            profiles: self.profile.into_iter().chain(profiles).collect(),
            allow,
            deny: self.deny.into_iter().map(EntrySpec::Text).collect(),
            ..PolicySpec::default()
        })
    }
}

/// Tells names of profiles from entries. A word without `.`, `:`, `*` and `/` names a profile.
pub fn split(words: Vec<String>) -> (Vec<String>, Vec<EntrySpec>) {
    let (entries, profiles): (Vec<_>, Vec<_>) =
        words.into_iter().partition(|word| word.contains(['.', ':', '*', '/']));
    (profiles, entries.into_iter().map(EntrySpec::Text).collect())
}

/// Says what the network policy denied while a program ran, and what to ask for.
///
/// # Errors
/// Standard error is closed.
pub fn say_denied(denials: &EgressDenials) -> io::Result<()> {
    io::stderr().write_all(denied_text(denials).as_bytes())
}

fn denied_text(denials: &EgressDenials) -> String {
    let mut text = String::new();
    for denied in &denials.egress_denied {
        let host = &denied.host;
        let place = match denied.port {
            Some(port) if host.contains(':') => format!("[{host}]:{port}"),
            Some(port) => format!("{host}:{port}"),
            None => host.clone(),
        };
        let times =
            if denied.count > 1 { format!(", {} times", denied.count) } else { String::new() };
        let line = format!("emberctl: network policy denied {place}: {}{times}", denied.reason);
        writeln!(text, "{}", printable(&line)).expect("strings take everything");
    }
    if let Some(hint) = denials.hint.as_ref().filter(|_| !text.is_empty()) {
        writeln!(text, "hint: {}", printable(hint)).expect("strings take everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use emberd_api::{EgressDenied, EgressReason};

    use super::*;

    #[test]
    fn a_plain_word_names_a_profile() {
        let words = ["pip", "a.example", "*", "nexus:8081", "2001:db8::1", "my-corp"];
        let (profiles, entries) = split(words.map(str::to_owned).into());
        assert_eq!(profiles, ["pip", "my-corp"]);
        let entries: Vec<_> = entries.iter().map(EntrySpec::text).collect();
        assert_eq!(entries, ["a.example", "*", "nexus:8081", "2001:db8::1"]);
    }

    #[test]
    fn denials_are_told_with_what_to_ask_for() {
        let denied = |host: &str, port, count| EgressDenied {
            host: host.to_owned(),
            port,
            reason: EgressReason::NoRule,
            count,
        };
        let egress_denied = vec![
            denied("a.example", Some(443), 1),
            denied("e\u{1b}vil", None, 3),
            denied("2001:db8::1", Some(22), 1),
        ];
        let denials = EgressDenials { egress_denied, hint: Some("ask".to_owned()) };
        assert_eq!(
            denied_text(&denials),
            "emberctl: network policy denied a.example:443: no_rule\n\
             emberctl: network policy denied e\u{fffd}vil: no_rule, 3 times\n\
             emberctl: network policy denied [2001:db8::1]:22: no_rule\n\
             hint: ask\n"
        );
        assert_eq!(denied_text(&EgressDenials::default()), "");
    }

    #[test]
    fn without_options_the_operator_decides() {
        assert_eq!(PolicyArgs::default().into_spec(), None);
    }
}
