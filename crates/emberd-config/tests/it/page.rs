//! The reference page holds what the definitions say.

use std::path::Path;

use clap::Args as _;
use emberd_config::{AllKeys, DEFINITIONS, Flags, PAGE_END, PAGE_START, options_page};

/// Set, the page is written instead of compared.
const UPDATE: &str = "EMBERD_UPDATE_REFERENCE";

#[test]
fn the_reference_page_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("docs/src/reference/configuration.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(PAGE_START).expect("the page has a start line");
    let (_, after) = rest.split_once(PAGE_END).expect("the page has an end line");
    let current = format!("{before}{PAGE_START}\n\n{}\n{PAGE_END}{after}", options_page());
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, current).unwrap();
        return;
    }
    assert!(
        page == current,
        "docs/src/reference/configuration.md differs from the definitions; write it with \
         `{UPDATE}=1 cargo test -p emberd-config --test it -- page`"
    );
}

#[test]
fn every_option_has_a_flag_a_variable_and_a_row() {
    let command = Flags::<AllKeys>::augment_args(clap::Command::new("emberd"));
    let page = options_page();
    assert_eq!(command.get_arguments().count(), DEFINITIONS.len());
    for (arg, definition) in command.get_arguments().zip(&DEFINITIONS) {
        assert_eq!(arg.get_long(), Some(definition.name));
        assert_eq!(arg.get_env(), Some(definition.variable().as_ref()));
        let row = format!("| `{}` | `{}` |", definition.flag(), definition.variable());
        assert_eq!(page.contains(&row), !definition.hidden, "{row}");
    }
}
