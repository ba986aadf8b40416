//! What the operator permits to all sandboxes: a TOML file.
//!
//! ```toml
//! default = "none"                # or ["pip", "npm"]: for sandboxes that say nothing
//! ceiling = ["public"]            # most that callers may ask for
//! deny    = ["*.corp.example"]    # always
//! private = ["10.20.0.0/16"]      # ranges that entries may reach
//! connections = 4096              # of all sandboxes
//! log = "/var/log/emberd/egress.jsonl"
//! [profiles.corp]
//! allow = ["nexus.corp.example:8443"]
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use emberd_proto::policy::{EGRESS_ENTRIES_MAX, EntrySpec};
use ipnet::IpNet;
use serde::Deserialize;

use crate::entry::{Entry, EntryError};
use crate::profile::{self, PackProfiles, ProfileNameError};
use crate::rules::{Rule, Rules};
use crate::verdict::Source;

/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Connections of all sandboxes at once, unless the file says otherwise, and at most.
const CONNECTIONS_DEFAULT: u32 = 4096;
const CONNECTIONS_MAX: u32 = 1 << 20;

/// The operator's file: the most that sandboxes may reach.
///
/// Without a file, sandboxes that say nothing reach nothing, and callers may ask for everything
/// public.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The policy of a sandbox whose caller says nothing.
    pub(crate) default: Vec<Permit>,
    /// Most that callers may ask for.
    pub(crate) ceiling: Vec<Permit>,
    pub(crate) deny: Vec<Rule>,
    /// `deny`, compiled.
    pub(crate) denied: Arc<Rules>,
    pub(crate) private: Arc<[IpNet]>,
    pub(crate) profiles: BTreeMap<String, Vec<Entry>>,
    connections: u32,
    log: Option<PathBuf>,
}

/// The most that some sandboxes may reach, beside what the operator permits to all. Clones share
/// the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceiling(pub(crate) Arc<[Permit]>);

impl Ceiling {
    /// Reads names of profiles, and entries. Without any, nothing may be reached.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub fn parse(texts: &[String]) -> Result<Self, OperatorError> {
        let specs: Vec<_> = texts.iter().cloned().map(EntrySpec::Text).collect();
        Ok(Self(permits("egress", &specs)?.into()))
    }

    /// Permits nothing.
    pub fn nothing() -> Self {
        Self(Arc::default())
    }

    /// Returns what it was read from.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

/// A profile or an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permit {
    /// The entries of a profile.
    Profile(String),
    /// One entry.
    Entry(Entry),
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The file cannot be read.
    #[error("cannot read the egress policy {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// The file is too large.
    #[error("the egress policy {} has more than {FILE_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not TOML, or has a key or a type that is not known.
    #[error("the egress policy is invalid: {0}")]
    Toml(String),
    /// An entry is invalid.
    #[error("`{key}` of the egress policy: `{entry}`")]
    Entry {
        /// The key that holds the entry.
        key: String,
        /// The entry.
        entry: String,
        /// Why.
        #[source]
        error: EntryError,
    },
    /// The name of a profile is invalid.
    #[error("the egress policy")]
    ProfileName(#[from] ProfileNameError),
    /// A key holds too much.
    #[error("`{0}` of the egress policy has more than {EGRESS_ENTRIES_MAX} entries")]
    TooMany(String),
    /// A number is out of range.
    #[error("`connections` of the egress policy is {0}, not 1 to {CONNECTIONS_MAX}")]
    Connections(u32),
    /// A path is relative.
    #[error("`log` of the egress policy is {}, which is not an absolute path", .0.display())]
    Log(PathBuf),
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    default: DefaultPermits,
    #[serde(default = "public")]
    ceiling: Vec<EntrySpec>,
    #[serde(default)]
    deny: Vec<EntrySpec>,
    #[serde(default)]
    private: Vec<IpNet>,
    #[serde(default = "connections_default")]
    connections: u32,
    log: Option<PathBuf>,
    #[serde(default)]
    profiles: BTreeMap<String, ProfileTable>,
}

/// The value of `default`.
#[derive(Default, Deserialize)]
#[serde(untagged, expecting = "`default` is \"none\" or a list of profiles and entries")]
enum DefaultPermits {
    #[default]
    Nothing,
    Word(NoneWord),
    List(Vec<EntrySpec>),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum NoneWord {
    None,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileTable {
    allow: Vec<EntrySpec>,
}

fn public() -> Vec<EntrySpec> {
    vec![EntrySpec::from("public")]
}

fn connections_default() -> u32 {
    CONNECTIONS_DEFAULT
}

impl Default for Operator {
    fn default() -> Self {
        Self {
            default: Vec::new(),
            ceiling: vec![Permit::Profile("public".to_owned())],
            deny: Vec::new(),
            denied: Arc::default(),
            private: Arc::default(),
            profiles: BTreeMap::new(),
            connections: CONNECTIONS_DEFAULT,
            log: None,
        }
    }
}

impl Operator {
    /// Reads the operator's file. Blocks.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub fn read(path: &Path) -> Result<Self, OperatorError> {
        let failed = |error| OperatorError::Read { path: path.to_owned(), error };
        let size = std::fs::metadata(path).map_err(failed)?.len();
        if size > FILE_BYTES_MAX {
            return Err(OperatorError::TooLarge { path: path.to_owned() });
        }
        Self::parse(&std::fs::read_to_string(path).map_err(failed)?)
    }

    /// Parses the content of the file.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub fn parse(text: &str) -> Result<Self, OperatorError> {
        let file: File =
            toml::from_str(text).map_err(|error| OperatorError::Toml(error.to_string()))?;
        let default = match &file.default {
            DefaultPermits::Nothing | DefaultPermits::Word(NoneWord::None) => Vec::new(),
            DefaultPermits::List(list) => permits("default", list)?,
        };
        let deny = entries("deny", &file.deny)?;
        if let Some(entry) = deny.iter().find(|entry| !entry.is_plain()) {
            let error = EntryError::Option("`deny` has hosts and ports only");
            return Err(OperatorError::Entry {
                key: "deny".to_owned(),
                entry: entry.to_string(),
                error,
            });
        }
        let deny: Vec<Rule> =
            deny.into_iter().map(|entry| Rule::denying(entry, Source::Operator)).collect();
        if file.private.len() > EGRESS_ENTRIES_MAX {
            return Err(OperatorError::TooMany("private".to_owned()));
        }
        if !(1..=CONNECTIONS_MAX).contains(&file.connections) {
            return Err(OperatorError::Connections(file.connections));
        }
        if let Some(log) = file.log.as_ref().filter(|log| log.is_relative()) {
            return Err(OperatorError::Log(log.clone()));
        }
        Ok(Self {
            default,
            ceiling: permits("ceiling", &file.ceiling)?,
            denied: Arc::new(Rules::new(&deny)),
            deny,
            private: file.private.iter().map(IpNet::trunc).collect(),
            profiles: profiles(file.profiles)?,
            connections: file.connections,
            log: file.log,
        })
    }

    /// Returns how many connections all sandboxes may have at once.
    pub fn connections(&self) -> u32 {
        self.connections
    }

    /// Returns the file that records of all sandboxes are written to.
    pub fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    /// Returns what a sandbox may reach whose caller says nothing: names of profiles, and entries.
    pub fn default_texts(&self) -> Vec<String> {
        self.default.iter().map(ToString::to_string).collect()
    }

    /// Returns the most that callers may ask for: names of profiles, and entries.
    pub fn ceiling_texts(&self) -> Vec<String> {
        self.ceiling.iter().map(ToString::to_string).collect()
    }

    /// Returns the profiles of the operator's file, with their entries.
    pub fn profiles(&self) -> impl Iterator<Item = (&str, &[Entry])> {
        self.profiles.iter().map(|(name, entries)| (name.as_str(), entries.as_slice()))
    }

    /// Returns the profiles that the file names and that neither it, nor emberd, nor one of the
    /// images has: spelling errors, or profiles of images that are not installed.
    pub fn unknown_profiles(&self, packs: &[&PackProfiles]) -> Vec<String> {
        let permits = self.default.iter().chain(&self.ceiling);
        let names = permits.filter_map(|permit| match permit {
            Permit::Profile(name) => Some(name),
            Permit::Entry(_) => None,
        });
        let is_unknown = |name: &&String| {
            !self.profiles.contains_key(*name)
                && profile::built_in(name).is_none()
                && !packs.iter().any(|pack| pack.contains_key(*name))
        };
        names.filter(is_unknown).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl std::fmt::Display for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Profile(name) => f.write_str(name),
            Self::Entry(entry) => write!(f, "{entry}"),
        }
    }
}

/// Reads a list of profiles and entries. A word without `.`, `:`, `*` and `/` is a profile.
fn permits(key: &str, list: &[EntrySpec]) -> Result<Vec<Permit>, OperatorError> {
    if list.len() > EGRESS_ENTRIES_MAX {
        return Err(OperatorError::TooMany(key.to_owned()));
    }
    let permit = |spec: &EntrySpec| match spec {
        EntrySpec::Text(word) if !word.contains(['.', ':', '*', '/']) => {
            profile::check_name(word)?;
            Ok(Permit::Profile(word.clone()))
        }
        spec => entry(key, spec).map(Permit::Entry),
    };
    list.iter().map(permit).collect()
}

fn entries(key: &str, list: &[EntrySpec]) -> Result<Vec<Entry>, OperatorError> {
    if list.len() > EGRESS_ENTRIES_MAX {
        return Err(OperatorError::TooMany(key.to_owned()));
    }
    list.iter().map(|spec| entry(key, spec)).collect()
}

fn entry(key: &str, spec: &EntrySpec) -> Result<Entry, OperatorError> {
    let failed = |error| OperatorError::Entry { key: key.to_owned(), entry: spec.text(), error };
    Entry::new(spec).map_err(failed)
}

fn profiles(
    tables: BTreeMap<String, ProfileTable>,
) -> Result<BTreeMap<String, Vec<Entry>>, OperatorError> {
    let read = |(name, table): (String, ProfileTable)| {
        profile::check_name(&name)?;
        let entries = entries(&format!("profiles.{name}.allow"), &table.allow)?;
        Ok((name, entries))
    };
    tables.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_is_meant() {
        let operator = Operator::parse(
            r#"
            default = ["pip", "api.example.com"]
            ceiling = ["corp", "*.example.com:*"]
            deny = ["t.example.com"]
            private = ["10.20.0.0/16"]
            connections = 100
            log = "/var/log/egress.jsonl"
            [profiles.corp]
            allow = ["*.corp.example", { host = "nexus.corp.example", ports = "8443", private = true }]
            "#,
        )
        .unwrap();
        assert_eq!(operator.default_texts(), ["pip", "api.example.com"]);
        assert_eq!(operator.ceiling_texts(), ["corp", "*.example.com:*"]);
        assert_eq!(operator.deny[0].ports.to_string(), "*");
        assert_eq!(operator.connections(), 100);
        assert_eq!(operator.log(), Some(Path::new("/var/log/egress.jsonl")));
        let (name, entries) = operator.profiles().next().unwrap();
        assert_eq!((name, entries[1].to_string().as_str()), ("corp", "nexus.corp.example:8443"));
        assert!(entries[1].options().private);
        assert_eq!(operator.unknown_profiles(&[]), ["pip"]);
        let pack = PackProfiles::from([("pip".to_owned(), Vec::new())]);
        assert!(operator.unknown_profiles(&[&pack]).is_empty());
    }

    #[test]
    fn an_empty_file_is_no_file() {
        for text in ["", "default = \"none\""] {
            let operator = Operator::parse(text).unwrap();
            assert!(operator.default_texts().is_empty());
            assert_eq!(operator.ceiling_texts(), ["public"]);
            assert_eq!(operator.connections(), CONNECTIONS_DEFAULT);
        }
    }

    #[test]
    fn other_files_are_refused() {
        for (text, expected) in [
            ("denny = []", "unknown field `denny`"),
            ("default = \"pip\"", "`default` is \"none\" or a list"),
            ("ceiling = [\"Pip\"]", "profiles are named with"),
            ("ceiling = [\"a..example\"]", "`ceiling` of the egress policy: `a..example`"),
            ("deny = [\"https://a.example\"]", "write the host alone"),
            ("deny = [{ host = \"a.example\", ech = true }]", "hosts and ports only"),
            ("private = [\"10.0.0.0/33\"]", "invalid"),
            ("connections = 0", "`connections` of the egress policy is 0"),
            ("log = \"egress.jsonl\"", "not an absolute path"),
            ("[profiles.none]\nallow = []", "not `none`"),
            ("[profiles.a]\ndeny = []", "unknown field `deny`"),
            ("[profiles.a]\nallow = [\"10.0.0.1/8\"]", "`profiles.a.allow`"),
            ("[secrets.a]\nfile = \"/a\"", "unknown field `secrets`"),
        ] {
            let error = Operator::parse(text).unwrap_err();
            let chain =
                std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
            let chain = chain.map(ToString::to_string).collect::<Vec<_>>().join(": ");
            assert!(chain.contains(expected), "{text}: {chain}");
        }
        let many = format!("deny = [{}]", "\"a.example\",".repeat(513));
        assert!(matches!(Operator::parse(&many), Err(OperatorError::TooMany(_))));
    }
}
