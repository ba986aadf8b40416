//! The house rules as tests: sizes, comments, who may import whom, licences, dead names.
//!
//! Each rule is a function from text to problems, tried on a bad sample below, so that a
//! rule that stopped biting fails too.

mod circles;
mod imports;
mod source;
mod tree;
mod wording;

use tree::{Tree, assert_none};

#[test]
fn rust_sources_keep_the_house_style() {
    let tree = Tree::read();
    assert_none(tree.with_extension("rs").flat_map(|(path, text)| source::problems(path, text)));
}

#[test]
fn text_names_only_files_that_exist() {
    let tree = Tree::read();
    let named = ["rs", "md", "toml", "sh"].into_iter().flat_map(|ext| tree.with_extension(ext));
    assert_none(named.flat_map(|(path, text)| tree.dead_names(path, text)));
}

#[test]
fn the_book_lists_every_page_once() {
    let tree = Tree::read();
    let summary = tree.text("docs/src/SUMMARY.md");
    assert_none(tree.with_extension("md").filter_map(|(path, _)| {
        let page = path.strip_prefix("docs/src/")?;
        let links = summary.matches(&format!("({page})")).count();
        let expected = usize::from(page != "SUMMARY.md");
        (links != expected).then(|| format!("{path}: {links} links in SUMMARY.md"))
    }));
}

#[test]
fn crates_import_only_what_the_design_allows() {
    assert_none(imports::workspace_problems(&imports::metadata()));
}

#[test]
fn modules_form_no_new_circles() {
    let tree = Tree::read();
    assert_none(circles::problems(tree.with_extension("rs")));
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    assert_none(imports::licence_problems(&imports::metadata()));
}

#[test]
fn every_rule_bites() {
    source::check_rules_bite();
    imports::check_rules_bite();
    circles::check_rule_bites();
    let tree = Tree::read();
    assert_eq!(tree.dead_names("x.md", concat!("see `crates", "/nowhere/src/gone.rs`")).len(), 1);
    assert!(tree.dead_names("x.md", "see `crates/emberd/src/main.rs`").is_empty());
}
