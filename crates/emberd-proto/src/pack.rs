//! What a language pack tells the guest agent: how code of its language runs.
//!
//! `emberd-image` writes it into the root image, the agent reads it at boot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where the agent finds the [`PackSpec`] in a pack's root image.
pub const PACK_FILE: &str = "/etc/emberd/pack.json";

/// Largest pack file the agent reads, in bytes (64 KiB).
pub const PACK_FILE_BYTES_MAX: u64 = 64 << 10;

/// Stands in [`PackSpec::run`] for the path of the file that holds the code.
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
    /// Environment variables of every exec, under those the exec names itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The warm interpreter that forks one process per exec, for packs that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zygote: Option<ZygoteSpec>,
    /// The interpreters that keep their variables between runs; the first is the pack's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contexts: Vec<ContextProgram>,
}

/// How a pack's interpreter of one language is run. What the host says to it, and it to the
/// host, goes through its standard input, a socket: see [`crate::context`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextProgram {
    /// Names of the language, the usual one first.
    pub languages: Vec<String>,
    /// Program and arguments.
    pub run: Vec<String>,
    /// The file a fork of the zygote runs in place of `run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zygote_file: Option<String>,
}

/// How a pack's zygote is run. What agent and zygote say to each other is told where the
/// agent starts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZygoteSpec {
    /// Program and arguments that become the zygote.
    pub run: Vec<String>,
    /// Environment variables only a new interpreter heeds, by name or, with a final `*`, by
    /// the beginning of their names: an exec that sets one of them spawns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spawn_for_env: Vec<String>,
}

impl PackSpec {
    /// Program and arguments that run `file` with `args`.
    pub fn command(&self, file: &str, args: &[String]) -> Vec<String> {
        let run = self.run.iter().map(|word| match word.as_str() {
            FILE_PLACEHOLDER => file.to_owned(),
            _ => word.clone(),
        });
        run.chain(args.iter().cloned()).collect()
    }

    /// The interpreter of `language`, or the pack's own.
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
