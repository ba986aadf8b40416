//! Options as they were given, before anything is checked.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::definition::Key;

/// Where the value of an option comes from; a later one wins over an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nothing was given.
    Default,
    /// The configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line of the key, from 1.
        line: usize,
    },
    /// An `EMBERD_*` variable.
    Variable,
    /// A flag.
    Flag,
}

/// The text of one option; several for an option that takes a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub values: Vec<OsString>,
    pub origin: Origin,
}

/// The options that were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given(pub(crate) BTreeMap<Key, Entry>);

impl Given {
    /// Adds `value` for `key`; a value of a weaker origin gives way.
    pub fn set(&mut self, key: Key, value: impl Into<OsString>, origin: Origin) {
        self.set_all(key, vec![value.into()], origin);
    }

    pub(crate) fn set_all(&mut self, key: Key, values: Vec<OsString>, origin: Origin) {
        let is_stronger = self.0.get(&key).is_none_or(|entry| entry.origin <= origin);
        if is_stronger {
            self.0.insert(key, Entry { values, origin });
        }
    }

    /// Adds everything in `other`; values of weaker origins give way.
    pub fn merge(&mut self, other: Self) {
        for (key, entry) in other.0 {
            self.set_all(key, entry.values, entry.origin);
        }
    }

    /// Where the value of `key` comes from.
    pub fn origin(&self, key: Key) -> Origin {
        self.0.get(&key).map_or(Origin::Default, |entry| entry.origin.clone())
    }

    /// The name of `key` where it was given: `--addr`, `EMBERD_ADDR`, `addr in FILE:3`.
    pub(crate) fn name(&self, key: Key) -> String {
        let definition = key.definition();
        match self.origin(key) {
            Origin::Default | Origin::Flag => definition.flag(),
            Origin::Variable => definition.variable(),
            Origin::File { path, line } => {
                format!("{}: {}", place(&path, line), definition.name)
            }
        }
    }
}

/// A line of a file, as compilers name it.
pub(crate) fn place(path: &Path, line: usize) -> String {
    format!("{}:{line}", path.display())
}
