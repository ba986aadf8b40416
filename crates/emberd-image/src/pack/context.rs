//! The contexts of a pack, from its definition: programs beside `pack.toml` that are installed in
//! the image, one for each language.

use std::iter;
use std::path::Path;

use emberd_proto::ContextProgram;
use serde::{Deserialize, Serialize};

use super::definition::DefinitionError;
use super::zygote::{PROGRAM_PLACEHOLDER, filled_in, installed, is_plain, read_program};
use crate::artifact::Digest;

/// The program of shell contexts: a shared object for `LD_PRELOAD` of Bash.
pub const SHELL_CONTEXT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/context.so"));
/// Its name in a definition. It is compiled with this crate, so a pack's directory need not have
/// it.
pub(super) const SHELL_PROGRAM: &str = "context.so";
/// Maximum number of contexts of a pack.
pub(super) const CONTEXTS_MAX: usize = 16;
/// Maximum number of names of one language.
const LANGUAGES_MAX: usize = 8;
/// Maximum number of files beside a program.
const FILES_MAX: usize = 16;
/// Maximum length of a language's name, in bytes.
const LANGUAGE_BYTES_MAX: usize = 32;

/// An interpreter that keeps its variables between runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextDefinition {
    /// Names of the language, the usual one first.
    pub languages: Vec<String>,
    /// Name of the file beside `pack.toml`, installed in `/usr/lib/emberd`. If there is no file
    /// `context.so`, [`SHELL_CONTEXT`] is used.
    pub program: String,
    /// Names of further files beside `pack.toml` that the program reads; installed beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Program and arguments that become the interpreter; `{program}` stands for the installed
    /// file.
    pub run: Vec<String>,
    /// Whether a fork of the pack's zygote runs the file instead of `run`.
    #[serde(default)]
    pub zygote: bool,
    /// Contents of the program's file and of the others.
    #[serde(skip)]
    pub(super) contents: Vec<Vec<u8>>,
}

impl ContextDefinition {
    /// Returns the rule that the definition breaks.
    pub(super) fn broken_rule(&self, has_zygote: bool) -> Option<&'static str> {
        let is_name = |name: &String| {
            let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            !name.is_empty() && name.len() <= LANGUAGE_BYTES_MAX && name.bytes().all(letter)
        };
        if self.languages.is_empty()
            || self.languages.len() > LANGUAGES_MAX
            || !self.languages.iter().all(is_name)
        {
            return Some("contexts.languages must be 1 to 8 names of a-z and 0-9");
        }
        if !is_plain(&self.program) {
            return Some("contexts.program must be a plain file name such as context.py");
        }
        if self.files.len() > FILES_MAX || !self.files.iter().all(|name| is_plain(name)) {
            return Some("contexts.files must be at most 16 plain file names");
        }
        if !self.run.first().is_some_and(|program| program.starts_with('/')) {
            return Some("contexts.run must start with the absolute path of a program");
        }
        if self.run.iter().filter(|word| *word == PROGRAM_PLACEHOLDER).count() != 1 {
            return Some("contexts.run must have exactly one word `{program}`");
        }
        if self.run.iter().any(|word| word.contains('\0')) {
            return Some("contexts.run must not contain NUL");
        }
        if self.zygote && !has_zygote {
            return Some("contexts.zygote needs a pack with a zygote");
        }
        None
    }

    /// Returns the names of the files, the program first.
    fn names(&self) -> impl Iterator<Item = &String> {
        iter::once(&self.program).chain(&self.files)
    }

    /// Gets the contents of the files by name from a function.
    pub(super) fn fill<E>(
        &mut self,
        content: impl Fn(&str) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        self.contents = self.names().map(|name| content(name)).collect::<Result<_, E>>()?;
        Ok(())
    }

    /// Reads the files in `folder`.
    pub(super) fn read_files(&mut self, folder: &Path) -> Result<(), DefinitionError> {
        self.fill(|name| match name {
            SHELL_PROGRAM if !folder.join(name).exists() => Ok(SHELL_CONTEXT.into()),
            name => read_program(folder, name),
        })
    }

    /// Returns the files, with their paths in the image without the leading slash.
    pub(super) fn programs(&self) -> impl Iterator<Item = (String, &[u8])> {
        let contents = self.contents.iter().map(Vec::as_slice);
        self.names().map(|name| installed(name)).zip(contents)
    }

    /// Returns the description for the guest agent.
    pub(super) fn spec(&self) -> ContextProgram {
        let file = format!("/{}", installed(&self.program));
        let (languages, run) = (self.languages.clone(), filled_in(&self.run, &file));
        ContextProgram { languages, run, zygote_file: self.zygote.then_some(file) }
    }

    /// Returns the digest of the files' contents.
    pub(super) fn content_digest(&self) -> Digest {
        Digest::of_parts(&self.contents.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }
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

[[contexts]]
languages = ["xlang", "x"]
program = "context.x"
run = ["/bin/x", "-i", "{program}"]
"#;

    fn read(text: &str, program: Option<&[u8]>) -> Result<PackDefinition, DefinitionError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pack.toml"), text).unwrap();
        if let Some(content) = program {
            fs::write(dir.path().join("context.x"), content).unwrap();
        }
        PackDefinition::read(dir.path())
    }

    #[test]
    fn the_agent_is_told_of_the_installed_program() {
        let pack = read(GOOD, Some(b"1")).unwrap();
        let context = pack.spec().context(Some("x")).unwrap().clone();
        assert_eq!(context.run, ["/bin/x", "-i", "/usr/lib/emberd/context.x"]);
        assert_eq!(context.zygote_file, None);
    }

    #[test]
    fn every_rule_is_held() {
        for (from, to) in [
            ("\"context.x\"", "\"../context.x\""),
            ("\"xlang\", \"x\"", ""),
            ("xlang", "X"),
            ("program = ", "files = [\"../x\"]\nprogram = "),
            ("\"{program}\"", "\"program\""),
            ("\"/bin/x\", \"-i\"", "\"x\""),
            ("\"-i\"", "\"\\u0000\""),
            ("program = ", "zygote = true\nprogram = "),
            ("program = ", "extra = true\nprogram = "),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let text = GOOD.replace(from, to);
            assert!(read(&text, Some(b"1")).is_err(), "{text}");
        }
        assert!(matches!(read(GOOD, None), Err(DefinitionError::Read { .. })));
        let many =
            GOOD.replace("[[contexts]]", "# [[contexts]]").split_once("# ").map(|(head, _)| {
                let (_, context) = GOOD.split_once("[[contexts]]").unwrap();
                format!("{head}{}", format!("[[contexts]]{context}").repeat(CONTEXTS_MAX + 1))
            });
        assert!(read(&many.unwrap(), Some(b"1")).is_err());
    }

    #[test]
    fn files_beside_the_program_are_read_and_installed() {
        let text = GOOD.replace("program = ", "files = [\"part.x\"]\nprogram = ");
        assert!(matches!(read(&text, Some(b"1")), Err(DefinitionError::Read { .. })));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pack.toml"), text).unwrap();
        fs::write(dir.path().join("context.x"), "1").unwrap();
        let digest = |part: &str| {
            fs::write(dir.path().join("part.x"), part).unwrap();
            let pack = PackDefinition::read(dir.path()).unwrap();
            let installed = pack.programs();
            assert_eq!(installed["usr/lib/emberd/context.x"], b"1");
            assert_eq!(installed["usr/lib/emberd/part.x"], part.as_bytes());
            pack.digest()
        };
        assert_ne!(digest("2"), digest("3"));
    }

    #[test]
    fn the_program_of_shells_is_brought_along_unless_the_folder_has_one() {
        let text = GOOD.replace("context.x", SHELL_PROGRAM);
        let brought_along = read(&text, None).unwrap();
        assert_eq!(&brought_along.contexts[0].contents[0][..4], b"\x7fELF");
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pack.toml"), text).unwrap();
        fs::write(dir.path().join(SHELL_PROGRAM), b"own").unwrap();
        assert_eq!(PackDefinition::read(dir.path()).unwrap().contexts[0].contents[0], b"own");
    }

    #[test]
    fn the_program_is_part_of_the_digest() {
        let digest = |program: &[u8]| read(GOOD, Some(program)).unwrap().digest();
        assert_ne!(digest(b"1"), digest(b"2"));
    }
}
