//! Environment variables of programs.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::users::ROOT_HOME;

/// Search path of the guest; the one Debian gives root.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Environment variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Returns the environment that the agent itself was started with.
    pub fn inherited() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// Returns the environment of PID 1, which has words of the kernel command line, with the
    /// variables of a login of root with the shell `shell`. It replaces the kernel's `HOME=/` and
    /// `TERM=linux`, which describe no user and no terminal.
    pub fn normalised(mut self, shell: String) -> Self {
        for (name, value) in [("HOME", ROOT_HOME), ("LOGNAME", "root"), ("USER", "root")] {
            self.0.insert(name.into(), value.into());
        }
        self.0.insert("SHELL".into(), shell.into());
        self.0.entry("PATH".into()).or_insert(PATH.into());
        if self.0.get(OsStr::new("TERM")).is_some_and(|term| term == "linux") {
            self.0.remove(OsStr::new("TERM"));
        }
        self
    }

    /// Returns this environment with `others` taking precedence.
    pub fn overlaid(&self, others: &BTreeMap<String, String>) -> Self {
        let mut merged = self.clone();
        for (name, value) in others {
            merged.0.insert(name.into(), value.into());
        }
        merged
    }

    /// Returns the value of the variable `name`.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// Returns the value of `HOME`, or the root directory.
    pub fn home(&self) -> &Path {
        self.get("HOME").map_or(Path::new("/"), Path::new)
    }
}

impl<'a> IntoIterator for &'a Environment {
    type Item = (&'a OsString, &'a OsString);
    type IntoIter = std::collections::btree_map::Iter<'a, OsString, OsString>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment(pairs.iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    #[test]
    fn kernel_environment_becomes_a_root_login() {
        let kernel = environment(&[("HOME", "/"), ("TERM", "linux"), ("SITE", "a=b")]);
        let root =
            [("HOME", ROOT_HOME), ("LOGNAME", "root"), ("SHELL", "/bin/ash"), ("USER", "root")];
        let login = |more: &[(&str, &str)]| environment(&[&root, more].concat());
        let normalised = |environment: Environment| environment.normalised("/bin/ash".to_owned());
        assert_eq!(normalised(kernel), login(&[("PATH", PATH), ("SITE", "a=b")]));
        let chosen = environment(&[("TERM", "xterm"), ("PATH", "/bin")]);
        assert_eq!(normalised(chosen), login(&[("PATH", "/bin"), ("TERM", "xterm")]));
    }

    #[test]
    fn environment_laid_over_another_wins() {
        let below = environment(&[("A", "0"), ("B", "0")]);
        let exec = BTreeMap::from([("B".into(), "1".into()), ("C".into(), "1".into())]);
        let expect = environment(&[("A", "0"), ("B", "1"), ("C", "1")]);
        assert_eq!(below.overlaid(&exec), expect);
    }
}
