//! The part of the reference page that is made from the definitions.

use std::fmt::Write as _;

use crate::definition::DefaultValue;
use crate::definitions::DEFINITIONS;

/// The line of the page before the generated table.
pub const PAGE_START: &str = "<!-- options: start -->";

/// The line of the page after the generated table.
pub const PAGE_END: &str = "<!-- options: end -->";

/// A table with one row for each option, in Markdown.
pub fn options_page() -> String {
    let mut page = "| option | variable | default | values | meaning |\n|---|---|---|---|---|\n\
        | `--config` | `EMBERD_CONFIG` | `/etc/emberd/emberd.toml` for root, else \
        `$XDG_CONFIG_HOME/emberd/emberd.toml` or `~/.config/emberd/emberd.toml`, if it exists | a \
        path | Configuration file. A configuration file cannot name it. |\n"
        .to_owned();
    for definition in DEFINITIONS.iter().filter(|definition| !definition.hidden) {
        let default = match definition.default {
            DefaultValue::Text(text) if !text.is_empty() => format!("`{text}`"),
            default => default.text().to_owned(),
        };
        let detail = definition.detail;
        let meaning = format!("{}. {detail}", definition.about);
        let (flag, variable) = (definition.flag(), definition.variable());
        let limits = definition.form.limits();
        writeln!(page, "| `{flag}` | `{variable}` | {default} | {limits} | {} |", meaning.trim())
            .expect("strings take everything");
    }
    page
}
