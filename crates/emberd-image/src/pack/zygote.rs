//! The zygote of a pack, from its definition: a program beside `pack.toml` that is installed in
//! the image.

use std::fs::File;
use std::io;
use std::path::Path;

use emberd_proto::ZygoteSpec;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::definition::DefinitionError;
use crate::artifact::Digest;
use crate::decompress::read_at_most;

/// Placeholder in [`ZygoteDefinition::run`] for the path of the installed program.
pub(super) const PROGRAM_PLACEHOLDER: &str = "{program}";
/// Directory in which programs are installed, without its leading slash.
pub(super) const PROGRAM_DIR: &str = "usr/lib/emberd";
/// Maximum length of a program's name, in bytes: with its directory, it fits a tar header's 100.
const NAME_BYTES_MAX: usize = 80;
/// Maximum size of a program, in bytes (1 MiB): a script, or a small binary.
const PROGRAM_BYTES_MAX: u64 = 1 << 20;

/// The warm interpreter of a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZygoteDefinition {
    /// Name of the file beside `pack.toml`, installed in `/usr/lib/emberd`.
    pub program: String,
    /// Program and arguments that become the zygote; `{program}` stands for the installed
    /// file.
    pub run: Vec<String>,
    /// Environment variables that only a new interpreter reads: names, or prefixes of names with
    /// a final `*`.
    #[serde(default)]
    pub spawn_for_env: Vec<String>,
    /// Content of the file.
    #[serde(skip)]
    pub(super) content: Vec<u8>,
}

impl ZygoteDefinition {
    /// Reads `zygote = false`, which is the same as none, or a table.
    pub(super) fn setting<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Self>, D::Error> {
        match toml::Value::deserialize(input)? {
            toml::Value::Boolean(false) => Ok(None),
            value @ toml::Value::Table(_) => value.try_into().map(Some).map_err(D::Error::custom),
            _ => Err(D::Error::custom("expected false or a table")),
        }
    }

    /// Returns the rule that the definition breaks.
    pub(super) fn broken_rule(&self) -> Option<&'static str> {
        if !is_plain(&self.program) {
            return Some("zygote.program must be a plain file name such as zygote.py");
        }
        if !self.run.first().is_some_and(|program| program.starts_with('/')) {
            return Some("zygote.run must start with the absolute path of a program");
        }
        if self.run.iter().filter(|word| *word == PROGRAM_PLACEHOLDER).count() != 1 {
            return Some("zygote.run must have exactly one word `{program}`");
        }
        if self.run.iter().any(|word| word.contains('\0')) {
            return Some("zygote.run must not contain NUL");
        }
        let valid = |pattern: &String| {
            let name = pattern.strip_suffix('*').unwrap_or(pattern);
            !pattern.is_empty() && !name.contains(['*', '=', '\0'])
        };
        if !self.spawn_for_env.iter().all(valid) {
            return Some("zygote.spawn_for_env must be names, with `*` at most at their end");
        }
        None
    }

    /// Reads the program's file in `folder`.
    pub(super) fn read_program(&mut self, folder: &Path) -> Result<(), DefinitionError> {
        self.content = read_program(folder, &self.program)?;
        Ok(())
    }

    /// Returns the path of the program in the image, without its leading slash.
    pub(super) fn installed(&self) -> String {
        installed(&self.program)
    }

    /// Returns the description for the guest agent.
    pub(super) fn spec(&self) -> ZygoteSpec {
        let run = filled_in(&self.run, &format!("/{}", self.installed()));
        ZygoteSpec { run, spawn_for_env: self.spawn_for_env.clone() }
    }

    /// Returns the digest of the program's content.
    pub(super) fn content_digest(&self) -> Digest {
        Digest::of(&self.content)
    }
}

/// Returns whether `program` is a valid name of a file beside `pack.toml`.
pub(super) fn is_plain(program: &str) -> bool {
    !program.is_empty()
        && !program.starts_with('.')
        && program.len() <= NAME_BYTES_MAX
        && !program.contains(['/', '\0', '{', '}'])
}

/// Returns the path of `program` in the image, without its leading slash.
pub(super) fn installed(program: &str) -> String {
    format!("{PROGRAM_DIR}/{program}")
}

/// Returns `run` with the placeholder replaced by `file`.
pub(super) fn filled_in(run: &[String], file: &str) -> Vec<String> {
    let word = |word: &String| if word == PROGRAM_PLACEHOLDER { file } else { word }.to_owned();
    run.iter().map(word).collect()
}

/// Reads the file `program` in `folder`.
pub(super) fn read_program(folder: &Path, program: &str) -> Result<Vec<u8>, DefinitionError> {
    let path = folder.join(program);
    let read = File::open(&path).and_then(|file| read_at_most(file, PROGRAM_BYTES_MAX));
    let read = read.and_then(|read| read.ok_or_else(|| io::ErrorKind::FileTooLarge.into()));
    read.map_err(|source| DefinitionError::Read { path, source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::PackDefinition;
    use super::*;

    const GOOD: &str = r#"
name = "x"
description = ""
run = ["/bin/x", "{file}"]
file_name = "main.x"

[zygote]
program = "warm.x"
run = ["/bin/x", "-w", "{program}", "math"]
spawn_for_env = ["LANG", "LC_*"]
"#;

    fn read(text: &str, program: Option<&[u8]>) -> Result<PackDefinition, DefinitionError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pack.toml"), text).unwrap();
        if let Some(content) = program {
            fs::write(dir.path().join("warm.x"), content).unwrap();
        }
        PackDefinition::read(dir.path())
    }

    #[test]
    fn the_agent_is_told_of_the_installed_program() {
        let spec = read(GOOD, Some(b"warm")).unwrap().spec().zygote.unwrap();
        assert_eq!(spec.run, ["/bin/x", "-w", "/usr/lib/emberd/warm.x", "math"]);
        assert_eq!(spec.spawn_for_env, ["LANG", "LC_*"]);
    }

    #[test]
    fn false_is_the_same_as_none() {
        let (without, _) = GOOD.split_once("[zygote]").unwrap();
        let none = read(without, None).unwrap();
        assert_eq!(none.spec().zygote, None);
        assert_eq!(read(&format!("{without}zygote = false\n"), None).unwrap(), none);
        for wrong in ["true", "\"warm.x\"", "[]", "{}"] {
            let text = format!("{without}zygote = {wrong}\n");
            assert!(matches!(read(&text, None), Err(DefinitionError::Parse { .. })), "{wrong}");
        }
    }

    #[test]
    fn every_rule_is_held() {
        for (from, to) in [
            ("\"warm.x\"", "\"../warm.x\""),
            ("\"warm.x\"", "\"\""),
            ("\"warm.x\"", &format!("\"{}\"", "x".repeat(NAME_BYTES_MAX + 1))),
            ("\"/bin/x\", \"-w\"", "\"x\""),
            ("\"{program}\"", "\"program\""),
            ("\"{program}\"", "\"{program}\", \"{program}\""),
            ("\"math\"", "\"\\u0000\""),
            ("LC_*", "L*C"),
            ("LANG", ""),
            ("LANG", "LANG=C"),
            ("\"LC_*\"]", "\"LC_*\"]\nextra = 1"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let text = GOOD.replace(from, to);
            assert!(read(&text, Some(b"warm")).is_err(), "{text}");
        }
    }

    #[test]
    fn a_program_that_is_missing_or_too_large_is_named() {
        let large = b" ".repeat(usize::try_from(PROGRAM_BYTES_MAX).unwrap() + 1);
        for program in [None, Some(&large[..])] {
            let refused = read(GOOD, program).unwrap_err();
            assert!(matches!(refused, DefinitionError::Read { .. }), "{refused:?}");
            assert!(refused.to_string().ends_with("/warm.x"), "{refused}");
        }
        read(GOOD, Some(&large[1..])).unwrap();
    }

    #[test]
    fn every_part_is_part_of_the_digest() {
        let digest = |text: &str, program: &[u8]| read(text, Some(program)).unwrap().digest();
        let all = [
            digest(GOOD, b"warm"),
            digest(GOOD, b"warmer"),
            digest(&GOOD.replace("math", "os"), b"warm"),
            digest(&GOOD.replace("LANG", "LANGUAGE"), b"warm"),
            digest(&GOOD.replace("[zygote]", "warm_up = \"1\"\n[zygote]"), b"warm"),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(one), "{index}");
        }
    }
}
