//! The arguments of the tools, as JSON Schema has them.

use serde_json::{Value, json};

/// One argument.
#[derive(Debug, Clone, Copy)]
pub struct Argument {
    /// Its name.
    pub name: &'static str,
    /// Whether every call has it.
    pub is_required: bool,
    form: Form,
    default: Option<u32>,
    about: &'static str,
}

/// The JSON type of an argument.
#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Number,
    Flag,
    Texts,
    Pairs,
}

impl Argument {
    /// The schema of the argument.
    pub fn schema(&self) -> Value {
        let mut schema = match self.form {
            Form::Text => json!({"type": "string"}),
            Form::Number => json!({"type": "integer"}),
            Form::Flag => json!({"type": "boolean"}),
            Form::Texts => json!({"type": "array", "items": {"type": "string"}}),
            Form::Pairs => json!({"type": "object"}),
        };
        if let Some(default) = self.default {
            schema["default"] = default.into();
        }
        if !self.about.is_empty() {
            schema["description"] = self.about.into();
        }
        schema
    }

    const fn or(self, default: u32) -> Self {
        Self { default: Some(default), ..self }
    }

    const fn is(self, about: &'static str) -> Self {
        Self { about, ..self }
    }
}

const fn optional(name: &'static str, form: Form) -> Argument {
    Argument { name, is_required: false, form, default: None, about: "" }
}

const fn required(name: &'static str, form: Form) -> Argument {
    Argument { name, is_required: true, form, default: None, about: "" }
}

pub const SANDBOX: Argument = required("sandbox", Form::Text);
const PROCESS: Argument = required("process", Form::Number);
const PATH: Argument = required("path", Form::Text);
const MAX_OUTPUT: Argument = optional("max_output", Form::Number).is("characters, at most 200000");

pub const CREATE_SANDBOX: &[Argument] = &[
    optional("pack", Form::Text)
        .is("python (default), code (with pandas, Matplotlib), node, shell"),
    optional("image", Form::Text).is("in place of pack: an image of the operator's own"),
    optional("ttl_s", Form::Number).or(3_600),
    optional("env", Form::Pairs),
    optional("network", Form::Text)
        .is("\"off\" (default), or profiles and hosts: \"pip,api.example.com:443\""),
];

pub const RUN_CODE: &[Argument] = &[
    required("code", Form::Text),
    optional("sandbox", Form::Text),
    optional("language", Form::Text),
    optional("context", Form::Text).is("\"default\", \"new\" or an id"),
    optional("timeout_s", Form::Number).or(45),
    MAX_OUTPUT,
];

pub const RUN_COMMAND: &[Argument] = &[
    SANDBOX,
    optional("command", Form::Text),
    optional("argv", Form::Texts).is("in place of command"),
    optional("cwd", Form::Text),
    optional("env", Form::Pairs),
    optional("user", Form::Text),
    optional("timeout_s", Form::Number).or(45),
    optional("background", Form::Flag),
    MAX_OUTPUT,
];

pub const READ_PROCESS: &[Argument] = &[
    SANDBOX,
    PROCESS,
    optional("from", Form::Number),
    optional("wait_for", Form::Text),
    optional("timeout_s", Form::Number).or(30),
    MAX_OUTPUT,
];

pub const WRITE_PROCESS: &[Argument] = &[
    SANDBOX,
    PROCESS,
    optional("input", Form::Text),
    optional("end", Form::Flag),
    optional("signal", Form::Text).is("such as SIGINT"),
];

pub const READ_FILE: &[Argument] = &[
    SANDBOX,
    PATH,
    optional("offset", Form::Number).is("first line, from 1"),
    optional("limit", Form::Number).or(2_000),
    MAX_OUTPUT,
];

pub const WRITE_FILE: &[Argument] = &[
    SANDBOX,
    PATH,
    optional("content", Form::Text),
    optional("content_base64", Form::Text),
    optional("mode", Form::Text).is("octal"),
];

pub const EDIT_FILE: &[Argument] = &[
    SANDBOX,
    PATH,
    required("old", Form::Text),
    required("new", Form::Text),
    optional("all", Form::Flag),
];

pub const LIST_FILES: &[Argument] =
    &[SANDBOX, PATH, optional("depth", Form::Number).or(1), optional("glob", Form::Text)];

pub const GET_URL: &[Argument] = &[SANDBOX, required("port", Form::Number)];
