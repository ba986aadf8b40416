//! The tools: their names, arguments and annotations.
//!
//! The list is read by a model at the beginning of each conversation, so every word costs.

use std::sync::Arc;

use rmcp::model::{JsonObject, MetaObject, Tool, ToolAnnotations};
use serde_json::json;

use crate::text::OUTPUT_CHARS_MAX;

mod arguments;

use arguments::Argument;

/// Key by which a client learns that it may show a long result.
const RESULT_SIZE_KEY: &str = "anthropic/maxResultSizeChars";

/// A tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Creates a sandbox.
    CreateSandbox,
    /// Lists sandboxes.
    ListSandboxes,
    /// Deletes a sandbox.
    DeleteSandbox,
    /// Runs code in a context.
    RunCode,
    /// Runs a command as a process.
    RunCommand,
    /// Reads what a process wrote.
    ReadProcess,
    /// Writes to a process.
    WriteProcess,
    /// Reads a file.
    ReadFile,
    /// Writes a file.
    WriteFile,
    /// Replaces text in a file.
    EditFile,
    /// Lists files.
    ListFiles,
    /// Tells the URL of a port.
    GetUrl,
}

/// Effect of a tool on its sandbox: the hints of its annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Reads.
    Reads,
    /// Adds something, again at each call.
    Adds,
    /// May change or end what is there.
    Changes,
    /// May change or end what is there; a second call changes nothing more.
    Sets,
}

impl Kind {
    /// Every tool, in the order of the list.
    pub const ALL: [Self; 12] = [
        Self::CreateSandbox,
        Self::ListSandboxes,
        Self::DeleteSandbox,
        Self::RunCode,
        Self::RunCommand,
        Self::ReadProcess,
        Self::WriteProcess,
        Self::ReadFile,
        Self::WriteFile,
        Self::EditFile,
        Self::ListFiles,
        Self::GetUrl,
    ];

    /// The tool's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::CreateSandbox => "create_sandbox",
            Self::ListSandboxes => "list_sandboxes",
            Self::DeleteSandbox => "delete_sandbox",
            Self::RunCode => "run_code",
            Self::RunCommand => "run_command",
            Self::ReadProcess => "read_process",
            Self::WriteProcess => "write_process",
            Self::ReadFile => "read_file",
            Self::WriteFile => "write_file",
            Self::EditFile => "edit_file",
            Self::ListFiles => "list_files",
            Self::GetUrl => "get_url",
        }
    }

    /// The tool of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether the tool changes nothing.
    pub fn is_read_only(self) -> bool {
        self.effect() == Effect::Reads
    }

    fn effect(self) -> Effect {
        match self {
            Self::CreateSandbox => Effect::Adds,
            Self::ListSandboxes
            | Self::ReadProcess
            | Self::ReadFile
            | Self::ListFiles
            | Self::GetUrl => Effect::Reads,
            Self::RunCode | Self::RunCommand | Self::WriteProcess | Self::EditFile => {
                Effect::Changes
            }
            Self::DeleteSandbox | Self::WriteFile => Effect::Sets,
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::CreateSandbox => {
                "Creates an isolated Linux computer and returns its id, which the other tools \
                 take. It is deleted after ttl_s seconds, or when this session ends."
            }
            Self::ListSandboxes => "Lists the sandboxes that exist.",
            Self::DeleteSandbox => "Deletes a sandbox with all that is in it.",
            Self::RunCode => {
                "Runs code in an interpreter that keeps its variables. Figures are returned as \
                 images. Without `sandbox`, one is created and named."
            }
            Self::RunCommand => {
                "Runs a shell command. After timeout_s it goes on as a process whose number is \
                 returned."
            }
            Self::ReadProcess => {
                "Returns what a process has written since the last read, or from event `from` \
                 on. `wait_for`: \"exit\", or a text to wait for."
            }
            Self::WriteProcess => {
                "Writes to a process's standard input, ends it, or sends a signal."
            }
            Self::ReadFile => "Reads lines of a text file, or an image.",
            Self::WriteFile => "Writes a file whole; makes its directories.",
            Self::EditFile => {
                "Replaces `old`, which must occur exactly once unless `all`, by `new`."
            }
            Self::ListFiles => "Lists a directory.",
            Self::GetUrl => "Returns the URL of a server on a port inside the sandbox.",
        }
    }

    fn arguments(self) -> &'static [Argument] {
        match self {
            Self::CreateSandbox => arguments::CREATE_SANDBOX,
            Self::ListSandboxes => &[],
            Self::DeleteSandbox => &[arguments::SANDBOX],
            Self::RunCode => arguments::RUN_CODE,
            Self::RunCommand => arguments::RUN_COMMAND,
            Self::ReadProcess => arguments::READ_PROCESS,
            Self::WriteProcess => arguments::WRITE_PROCESS,
            Self::ReadFile => arguments::READ_FILE,
            Self::WriteFile => arguments::WRITE_FILE,
            Self::EditFile => arguments::EDIT_FILE,
            Self::ListFiles => arguments::LIST_FILES,
            Self::GetUrl => arguments::GET_URL,
        }
    }

    /// Names of the arguments, for a model that made some up.
    pub fn argument_names(self) -> Vec<&'static str> {
        self.arguments().iter().map(|argument| argument.name).collect()
    }

    /// The tool as clients see it. `has_sandbox` is whether calls need not name one.
    pub fn tool(self, has_sandbox: bool) -> Tool {
        let properties =
            self.arguments().iter().map(|argument| (argument.name.to_owned(), argument.schema()));
        let properties: JsonObject = properties.collect();
        let may_miss = |name: &str| has_sandbox && name == "sandbox" && self != Self::DeleteSandbox;
        let required = self.arguments().iter().filter(|argument| argument.is_required);
        let required = required.map(|argument| argument.name).filter(|name| !may_miss(name));
        let required: Vec<_> = required.collect();
        let mut schema = JsonObject::new();
        schema.insert("type".to_owned(), "object".into());
        schema.insert("properties".to_owned(), properties.into());
        if !required.is_empty() {
            schema.insert("required".to_owned(), json!(required));
        }
        let tool = Tool::new(self.name(), self.description(), Arc::new(schema));
        let tool = tool.with_annotations(self.annotations());
        let returns_output =
            matches!(self, Self::RunCode | Self::RunCommand | Self::ReadProcess | Self::ReadFile);
        if !returns_output {
            return tool;
        }
        let mut meta = JsonObject::new();
        meta.insert(RESULT_SIZE_KEY.to_owned(), OUTPUT_CHARS_MAX.into());
        tool.with_meta(MetaObject(meta))
    }

    fn annotations(self) -> ToolAnnotations {
        let effect = self.effect();
        ToolAnnotations::new()
            .read_only(effect == Effect::Reads)
            .destructive(matches!(effect, Effect::Changes | Effect::Sets))
            .idempotent(matches!(effect, Effect::Reads | Effect::Sets))
            .open_world(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most bytes of the list, as JSON: it is read at the beginning of every conversation.
    const LIST_BYTES_MAX: usize = 6 << 10;

    #[test]
    fn the_list_is_short() {
        for has_sandbox in [false, true] {
            let tools = Kind::ALL.map(|kind| kind.tool(has_sandbox));
            let json = serde_json::to_string(&json!({ "tools": tools })).unwrap();
            assert!(json.len() <= LIST_BYTES_MAX, "{} bytes", json.len());
        }
    }

    #[test]
    fn every_tool_says_what_it_does_to_its_sandbox() {
        for kind in Kind::ALL {
            let tool = serde_json::to_value(kind.tool(false)).unwrap();
            let hints = &tool["annotations"];
            for hint in ["readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"] {
                assert!(hints[hint].is_boolean(), "{} {hint}", kind.name());
            }
            assert_eq!(Kind::of_name(kind.name()), Some(kind));
            assert!(tool.get("outputSchema").is_none());
        }
        let required = |has_sandbox| {
            let tool = serde_json::to_value(Kind::ReadFile.tool(has_sandbox)).unwrap();
            tool["inputSchema"]["required"].clone()
        };
        assert_eq!(required(false), json!(["sandbox", "path"]));
        assert_eq!(required(true), json!(["path"]));
    }
}
