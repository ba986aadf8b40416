//! Options that say what a new sandbox may reach.

use emberd_api::{EntrySpec, PolicySpec};

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

#[cfg(test)]
mod tests {
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
    fn without_options_the_operator_decides() {
        assert_eq!(PolicyArgs::default().into_spec(), None);
    }
}
