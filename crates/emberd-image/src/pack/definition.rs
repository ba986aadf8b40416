//! Definitions of language packs: the built-in ones, and `pack.toml` files.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use emberd_proto::PackSpec;
use emberd_proto::pack::{FILE_PLACEHOLDER, PACK_FILE_BYTES_MAX};
use serde::{Deserialize, Serialize};

use super::context::{CONTEXTS_MAX, ContextDefinition, SHELL_CONTEXT, SHELL_PROGRAM};
use super::zygote::ZygoteDefinition;
use crate::artifact::Digest;
use crate::decompress::read_at_most;
use crate::name::PackName;

/// Name of the file that defines a pack, in a directory of its own.
const FILE_NAME: &str = "pack.toml";
/// Maximum size of that file, in bytes (64 KiB).
const DEFINITION_BYTES_MAX: u64 = 64 << 10;
/// Maximum number of packages in a definition.
const PACKAGES_MAX: usize = 1000;

/// A file of a built-in pack: its name and content.
type BuiltInFile = (&'static str, &'static [u8]);

/// Includes the file at a path under `rootfs/packs`.
macro_rules! pack_file {
    ($path:literal) => {
        include_str!(concat!("../../../../rootfs/packs/", $path))
    };
}

/// The program of all shell contexts.
const SHELL_FILE: BuiltInFile = (SHELL_PROGRAM, SHELL_CONTEXT);

/// The built-in definitions, with the programs of their zygotes and contexts.
const BUILT_IN: [(&str, &[BuiltInFile]); 4] = [
    (
        pack_file!("python/pack.toml"),
        &[
            ("zygote.py", pack_file!("python/zygote.py").as_bytes()),
            ("context.py", pack_file!("python/context.py").as_bytes()),
            ("context_loop.py", pack_file!("python/context_loop.py").as_bytes()),
            ("context_magics.py", pack_file!("python/context_magics.py").as_bytes()),
            ("context_streams.py", pack_file!("python/context_streams.py").as_bytes()),
            ("context_values.py", pack_file!("python/context_values.py").as_bytes()),
            SHELL_FILE,
        ],
    ),
    (pack_file!("shell/pack.toml"), &[SHELL_FILE]),
    (
        pack_file!("node/pack.toml"),
        &[("context.js", pack_file!("node/context.js").as_bytes()), SHELL_FILE],
    ),
    (
        pack_file!("code/pack.toml"),
        &[
            ("zygote.py", pack_file!("code/zygote.py").as_bytes()),
            ("context.py", pack_file!("code/context.py").as_bytes()),
            ("context_loop.py", pack_file!("code/context_loop.py").as_bytes()),
            ("context_magics.py", pack_file!("code/context_magics.py").as_bytes()),
            ("context_streams.py", pack_file!("code/context_streams.py").as_bytes()),
            ("context_values.py", pack_file!("code/context_values.py").as_bytes()),
            SHELL_FILE,
        ],
    ),
];

/// A language pack made from the distribution's packages.
///
/// A definition is trusted in the way a script is: its packages and its snippet run as root of
/// the root file system under construction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackDefinition {
    /// The pack's name.
    pub name: PackName,
    /// Description of the pack, in one line.
    pub description: String,
    /// Program and arguments that run the code; `{file}` stands for its file.
    pub run: Vec<String>,
    /// Name of the file the code is written to, such as `main.py`.
    pub file_name: String,
    /// Environment variables of every exec.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Packages beside the distribution's essential ones.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Shell snippet run inside the root file system once the packages are installed.
    #[serde(default)]
    pub customize: Option<String>,
    /// The warm interpreter, if the pack has one.
    #[serde(default, deserialize_with = "ZygoteDefinition::setting")]
    pub zygote: Option<ZygoteDefinition>,
    /// The interpreters for contexts; the first is the default.
    #[serde(default)]
    pub contexts: Vec<ContextDefinition>,
    /// Code that uses what most programs use. It runs once in a microVM that is about to become a
    /// template, must leave nothing behind and must exit with 0.
    #[serde(default)]
    pub warm_up: Option<String>,
}

/// Why a pack's definition cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// There is no such built-in pack.
    #[error("unknown built-in language pack `{0}`; use {names}, or the directory of a pack.toml",
        names = built_in_names())]
    Unknown(PackName),
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not a definition.
    #[error("{} is not a pack definition", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<toml::de::Error>,
    },
    /// A value breaks a rule.
    #[error("pack `{name}`: {rule}")]
    Invalid {
        /// The pack.
        name: PackName,
        /// The rule, as a requirement.
        rule: &'static str,
    },
}

fn built_in_names() -> String {
    let names: Vec<_> = PackDefinition::built_in_names().map(String::from).collect();
    names.join(", ")
}

impl PackDefinition {
    /// Returns the built-in pack of this name.
    ///
    /// # Errors
    /// [`DefinitionError::Unknown`].
    pub fn built_in(name: &PackName) -> Result<Self, DefinitionError> {
        let mut all = Self::all_built_in();
        all.find(|pack| pack.name == *name).ok_or_else(|| DefinitionError::Unknown(name.clone()))
    }

    /// Returns the names of the built-in packs.
    pub fn built_in_names() -> impl Iterator<Item = PackName> {
        Self::all_built_in().map(|pack| pack.name)
    }

    fn all_built_in() -> impl Iterator<Item = Self> {
        BUILT_IN.into_iter().map(|(text, files)| {
            let content = |name: &str| {
                let file = files.iter().find(|(file, _)| *file == name);
                Vec::from(file.expect("a built-in pack has its programs").1)
            };
            let mut pack: Self = toml::from_str(text).expect("tested to parse");
            if let Some(zygote) = &mut pack.zygote {
                zygote.content = content(&zygote.program);
            }
            for context in &mut pack.contexts {
                let filled = context.fill(|name| Ok::<_, Infallible>(content(name)));
                let Ok(()) = filled;
            }
            pack
        })
    }

    /// Reads `pack.toml` in `folder`, or the file itself, and the programs of its zygote and
    /// contexts beside it.
    ///
    /// # Errors
    /// [`DefinitionError`] if it cannot be read or breaks a rule.
    pub fn read(folder: &Path) -> Result<Self, DefinitionError> {
        let path = if folder.is_dir() { folder.join(FILE_NAME) } else { folder.to_owned() };
        let failed = |source| DefinitionError::Read { path: path.clone(), source };
        let text = File::open(&path).and_then(|file| read_at_most(file, DEFINITION_BYTES_MAX));
        let text = text.map_err(failed)?.ok_or_else(|| failed(io::ErrorKind::FileTooLarge.into()));
        let text = String::from_utf8(text?).map_err(|error| failed(io::Error::other(error)))?;
        let mut pack: Self = toml::from_str(&text).map_err(|source| DefinitionError::Parse {
            path: path.clone(),
            source: Box::new(source),
        })?;
        pack.check()?;
        let folder = path.parent().unwrap_or(Path::new(""));
        if let Some(zygote) = &mut pack.zygote {
            zygote.read_program(folder)?;
        }
        for context in &mut pack.contexts {
            context.read_files(folder)?;
        }
        Ok(pack)
    }

    fn check(&self) -> Result<(), DefinitionError> {
        let fail = |rule| Err(DefinitionError::Invalid { name: self.name.clone(), rule });
        let valid_package = |package: &String| {
            let mut bytes = package.bytes();
            bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
                && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.:".contains(&byte))
        };
        if self.packages.len() > PACKAGES_MAX || !self.packages.iter().all(valid_package) {
            return fail("packages must be at most 1,000 names of Debian packages");
        }
        if let Some(rule) = self.zygote.as_ref().and_then(ZygoteDefinition::broken_rule) {
            return fail(rule);
        }
        if self.contexts.len() > CONTEXTS_MAX {
            return fail("contexts must be at most 16");
        }
        let has_zygote = self.zygote.is_some();
        let mut contexts = self.contexts.iter();
        if let Some(rule) = contexts.find_map(|context| context.broken_rule(has_zygote)) {
            return fail(rule);
        }
        if self.warm_up.as_ref().is_some_and(|code| code.trim().is_empty()) {
            return fail("warm_up must be code");
        }
        check_spec(&self.name, &self.spec())
    }

    /// Returns the description for the guest agent.
    pub fn spec(&self) -> PackSpec {
        PackSpec {
            name: self.name.to_string(),
            run: self.run.clone(),
            file_name: self.file_name.clone(),
            env: self.env.clone(),
            zygote: self.zygote.as_ref().map(ZygoteDefinition::spec),
            contexts: self.contexts.iter().map(ContextDefinition::spec).collect(),
        }
    }

    /// Returns the digest of the whole definition, including the programs of its zygote and
    /// contexts.
    pub(crate) fn digest(&self) -> Digest {
        let json = serde_json::to_vec(self).expect("string keys only");
        let zygote = self.zygote.as_ref().map(ZygoteDefinition::content_digest);
        let contexts = self.contexts.iter().map(ContextDefinition::content_digest);
        let contexts: Vec<_> = contexts.collect();
        let mut parts: Vec<&[u8]> = vec![&json];
        parts.push(zygote.as_ref().map_or(b"", Digest::as_bytes));
        parts.extend(contexts.iter().map(|digest| digest.as_bytes() as &[u8]));
        Digest::of_parts(&parts)
    }

    /// Returns the programs, with their paths in the image without the leading slash.
    pub(super) fn programs(&self) -> BTreeMap<String, &[u8]> {
        let zygote = self.zygote.iter().map(|zygote| (zygote.installed(), &zygote.content[..]));
        zygote.chain(self.contexts.iter().flat_map(ContextDefinition::programs)).collect()
    }
}

/// Checks the description for the agent against the agent's rules.
pub(crate) fn check_spec(name: &PackName, spec: &PackSpec) -> Result<(), DefinitionError> {
    let fail = |rule| Err(DefinitionError::Invalid { name: name.clone(), rule });
    let json = serde_json::to_vec(spec).expect("string keys only");
    if json.len() as u64 > PACK_FILE_BYTES_MAX {
        return fail("the pack description must fit into 64 KiB");
    }
    if !spec.run.first().is_some_and(|program| program.starts_with('/')) {
        return fail("run must start with the absolute path of a program");
    }
    if spec.run.iter().filter(|word| *word == FILE_PLACEHOLDER).count() != 1 {
        return fail("run must have exactly one word `{file}`");
    }
    if spec.run.iter().any(|word| word.contains('\0')) {
        return fail("run must not contain NUL");
    }
    let plain = !spec.file_name.is_empty()
        && !spec.file_name.starts_with('.')
        && spec.file_name.len() <= 255
        && !spec.file_name.contains(['/', '\0']);
    if !plain {
        return fail("file_name must be a plain file name such as main.py");
    }
    let settable = |(name, value): (&String, &String)| {
        !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
    };
    if !spec.env.iter().all(settable) {
        return fail("env must have names without `=`, and no NUL");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str) -> Result<PackDefinition, DefinitionError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), text).unwrap();
        PackDefinition::read(dir.path())
    }

    const GOOD: &str = "name = \"x\"\ndescription = \"\"\nrun = [\"/bin/x\", \"{file}\"]\n\
        file_name = \"main.x\"\n";

    #[test]
    fn built_in_packs_hold_their_own_rules() {
        let names: Vec<_> = PackDefinition::built_in_names().map(String::from).collect();
        assert_eq!(names, ["python", "shell", "node", "code"]);
        for pack in PackDefinition::all_built_in() {
            pack.check().unwrap();
            assert_eq!(PackDefinition::built_in(&pack.name).unwrap(), pack);
            assert!(pack.warm_up.is_some());
            // A pack from a directory is the same, including its programs.
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rootfs/packs");
            assert_eq!(PackDefinition::read(&folder.join(pack.name.as_str())).unwrap(), pack);
        }
        let unknown = PackDefinition::built_in(&"ruby".parse().unwrap()).unwrap_err();
        assert!(unknown.to_string().contains("python, shell, node, code"), "{unknown}");
    }

    #[test]
    fn least_definition_is_enough() {
        let pack = read(GOOD).unwrap();
        assert_eq!(pack.spec().command("/f", &[]), ["/bin/x", "/f"]);
        assert_eq!((pack.packages.len(), pack.customize), (0, None));
    }

    #[test]
    fn every_rule_is_held() {
        for (from, to) in [
            ("name = \"x\"", "name = \"../x\""),
            ("\"/bin/x\"", "\"x\""),
            ("\"/bin/x\", \"{file}\"", ""),
            ("\"{file}\"", "\"{file}\", \"{file}\""),
            ("\"{file}\"", "\"file\""),
            ("main.x", "../main.x"),
            ("main.x", ".."),
            ("main.x", ""),
            ("main.x\"", "main.x\"\npackages = [\"-o=x\"]"),
            ("main.x\"", "main.x\"\npackages = [\"a,b\"]"),
            ("main.x\"", "main.x\"\nextra = 1"),
            ("main.x\"", "main.x\"\nwarm_up = \" \\n\""),
            ("main.x\"", "main.x\"\nenv = { \"A=B\" = \"\" }"),
        ] {
            assert!(GOOD.contains(from));
            let text = GOOD.replace(from, to);
            assert!(read(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn files_that_cannot_be_read_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let absent = PackDefinition::read(dir.path()).unwrap_err();
        assert!(absent.to_string().contains("pack.toml"), "{absent}");
        let long = format!("{GOOD}# {}", "x".repeat(64 << 10));
        assert!(matches!(read(&long), Err(DefinitionError::Read { .. })));
        assert!(matches!(read("name = "), Err(DefinitionError::Parse { .. })));
    }
}
