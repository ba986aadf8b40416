//! Flags of a daemon. Flags of a scenario replace the user's flags of the same name.

use std::ffi::{OsStr, OsString};

/// Returns `flags` without those that `stronger` has too, and without their values.
pub fn without(flags: &[OsString], stronger: &[OsString]) -> Vec<OsString> {
    let stronger: Vec<_> = names(stronger).collect();
    let mut kept = Vec::new();
    let mut dropping = false;
    for flag in flags {
        if let Some(name) = name(flag) {
            let is_named = stronger.contains(&name);
            // A value after `=` belongs to this word, one without to the next.
            dropping = is_named;
            if !is_named {
                kept.push(flag.clone());
            }
        } else if !dropping {
            kept.push(flag.clone());
        }
    }
    kept
}

/// Returns the names in `flags`, without values.
pub fn names(flags: &[OsString]) -> impl Iterator<Item = String> {
    flags.iter().filter_map(|flag| name(flag))
}

fn name(flag: &OsStr) -> Option<String> {
    let text = flag.to_string_lossy();
    if !text.starts_with("--") {
        return None;
    }
    let end = text.find('=').unwrap_or(text.len());
    Some(text[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_scenario_needs_replaces_what_the_user_asks_for() {
        let check = |flags: &str, expect: &str| {
            let flags: Vec<OsString> = flags.split_whitespace().map(OsString::from).collect();
            let needed = ["--pool-size", "off", "--templates", "on"].map(OsString::from);
            let kept = without(&flags, &needed);
            let kept: Vec<_> = kept.iter().map(|flag| flag.to_string_lossy()).collect();
            assert_eq!(kept.join(" "), expect);
        };
        check("--pool-size 4 --vmm qemu", "--vmm qemu");
        check("--vmm qemu --pool-size=4 --templates off", "--vmm qemu");
        check("--console off", "--console off");
        check("", "");
    }

    #[test]
    fn names_have_no_values() {
        let flags = ["--vmm", "qemu", "--template-dir=/x"].map(OsString::from);
        assert_eq!(names(&flags).collect::<Vec<_>>(), ["--vmm", "--template-dir"]);
    }
}
