//! The description of a language pack for the guest agent: how code runs.
//!
//! `emberd-image` writes it into the root image, and the agent reads it at boot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Path of the [`PackSpec`] in a pack's root image.
pub const PACK_FILE: &str = "/etc/emberd/pack.json";

/// Maximum size of a pack file that the agent reads, in bytes (64 KiB).
pub const PACK_FILE_BYTES_MAX: u64 = 64 << 10;

/// Placeholder in [`PackSpec::run`] for the path of the file with the code.
pub const FILE_PLACEHOLDER: &str = "{file}";

/// How a pack runs code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackSpec {
    /// The pack's name.
    pub name: String,
    /// Program and arguments; [`FILE_PLACEHOLDER`] is replaced by the code's file, and the
    /// arguments of the exec follow.
    pub run: Vec<String>,
    /// Name of the file the code is written to, such as `main.py`.
    pub file_name: String,
    /// Environment variables of every exec; an exec can override them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The warm interpreter that forks one process per exec, if the pack has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zygote: Option<ZygoteSpec>,
    /// The interpreters for contexts; the first is the default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contexts: Vec<ContextProgram>,
}

/// How a pack's interpreter of one language is run. Its standard input is a socket that carries
/// lines in both directions: see [`crate::context`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextProgram {
    /// Names of the language, the usual one first.
    pub languages: Vec<String>,
    /// Program and arguments.
    pub run: Vec<String>,
    /// The file that a fork of the zygote runs instead of `run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zygote_file: Option<String>,
}

/// How a pack's zygote is run. The protocol between agent and zygote is documented in the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZygoteSpec {
    /// Program and arguments that become the zygote.
    pub run: Vec<String>,
    /// Environment variables that only a new interpreter reads, by name or, with a final `*`, by
    /// prefix. An exec that sets one of them spawns a new interpreter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spawn_for_env: Vec<String>,
}

impl PackSpec {
    /// Returns the program and arguments that run `file` with `args`.
    pub fn command(&self, file: &str, args: &[String]) -> Vec<String> {
        let run = self.run.iter().map(|word| match word.as_str() {
            FILE_PLACEHOLDER => file.to_owned(),
            _ => word.clone(),
        });
        run.chain(args.iter().cloned()).collect()
    }

    /// Returns the interpreter of `language`, or the default one.
    pub fn context(&self, language: Option<&str>) -> Option<&ContextProgram> {
        match language {
            None => self.contexts.first(),
            Some(name) => self.contexts.iter().find(|context| {
                context.languages.iter().any(|language| language.eq_ignore_ascii_case(name))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_names_the_file_and_ends_with_the_arguments() {
        let json = r#"{"name":"shell","run":["/bin/sh","{file}"],"file_name":"main.sh"}"#;
        let pack: PackSpec = serde_json::from_str(json).unwrap();
        let command = pack.command("/run/x/main.sh", &["-v".into()]);
        assert_eq!(command, ["/bin/sh", "/run/x/main.sh", "-v"]);
    }

    #[test]
    fn contexts_are_found_by_each_of_their_names() {
        let json = r#"{"name":"a","run":["x"],"file_name":"a","contexts":[
            {"languages":["javascript","js"],"run":["node"]},
            {"languages":["shell","bash"],"run":["bash"],"zygote_file":"/x"}]}"#;
        let pack: PackSpec = serde_json::from_str(json).unwrap();
        let run = |language| pack.context(language).map(|context| context.run[0].as_str());
        assert_eq!(run(None), Some("node"));
        assert_eq!(run(Some("JS")), Some("node"));
        assert_eq!(run(Some("bash")), Some("bash"));
        assert_eq!(run(Some("python")), None);
    }
}
