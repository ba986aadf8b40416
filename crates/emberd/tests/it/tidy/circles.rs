//! Which modules of a crate use each other in a circle.
//!
//! A module is a file. It uses another when a path in its production code leads there: by
//! `crate::`, `super::`, `self::` or the name of a module below it. A declaration (`mod x;`)
//! is no use.

use std::collections::{BTreeMap, BTreeSet};

/// Files that may stand in a circle, by crate; every other crate has none. A number may only
/// fall.
const CIRCLES: [(&str, usize); 9] = [
    ("emberctl", 16),
    ("emberd", 4),
    ("emberd-api", 2),
    ("emberd-bench", 2),
    ("emberd-image", 19),
    ("emberd-init", 26),
    ("emberd-proto", 2),
    ("emberd-tar", 9),
    ("emberd-vmm", 34),
];

type Module = Vec<String>;

/// What of `files`, by path, breaks the rule above.
pub fn problems<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let mut by_crate: BTreeMap<&str, BTreeMap<Module, &str>> = BTreeMap::new();
    for (path, text) in files {
        if let Some((name, module)) = place(path) {
            by_crate.entry(name).or_default().insert(module, text);
        }
    }
    by_crate.iter().filter_map(|(name, modules)| circle_problem(name, modules)).collect()
}

fn circle_problem(name: &str, modules: &BTreeMap<Module, &str>) -> Option<String> {
    let allowed = CIRCLES.iter().find(|(allowed, _)| *allowed == name).map_or(0, |(_, n)| *n);
    let circling = circling(modules);
    let files: Vec<_> = circling.iter().map(|module| module.join("/")).collect();
    match circling.len() {
        count if count > allowed => {
            Some(format!("{name}: {count} files in circles, at most {allowed}: {files:?}"))
        }
        count if count < allowed => {
            Some(format!("{name}: only {count} files in circles: lower its number to that"))
        }
        _ => None,
    }
}

/// The crate and the module whose file is at `path`.
fn place(path: &str) -> Option<(&str, Module)> {
    let (name, file) = path.strip_prefix("crates/")?.split_once("/src/")?;
    let file = file.strip_suffix(".rs")?;
    let module = match file {
        "lib" | "main" => Vec::new(),
        _ => file.split('/').map(str::to_owned).collect(),
    };
    Some((name, module))
}

/// The modules that are used by what they use.
fn circling(modules: &BTreeMap<Module, &str>) -> BTreeSet<Module> {
    let uses: BTreeMap<&Module, BTreeSet<Module>> =
        modules.iter().map(|(module, text)| (module, used_by(module, text, modules))).collect();
    let reached = |from: &Module| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = next.pop() {
            for used in uses.get(&module).into_iter().flatten() {
                if seen.insert(used.clone()) {
                    next.push(used.clone());
                }
            }
        }
        seen
    };
    modules.keys().filter(|module| reached(module).contains(*module)).cloned().collect()
}

fn used_by(module: &Module, text: &str, modules: &BTreeMap<Module, &str>) -> BTreeSet<Module> {
    let production = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: Vec<_> =
        production.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let paths = paths(&code.join("\n"));
    let used = paths.iter().filter_map(|path| resolve(module, path, modules));
    used.filter(|used| used != module).collect()
}

/// Every path in `code`, with what stands in braces behind it told apart.
fn paths(code: &str) -> Vec<Module> {
    let (mut found, mut open) = (Vec::new(), Vec::<Module>::new());
    let (mut path, mut word) = (Module::new(), String::new());
    let (mut rest, mut behind_colons) = (code.chars().peekable(), false);
    while let Some(c) = rest.next() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            behind_colons = false;
            continue;
        }
        if !word.is_empty() {
            path.push(std::mem::take(&mut word));
        }
        if c == ':' && rest.next_if_eq(&':').is_some() {
            behind_colons = true;
            continue;
        }
        let prefix = open.last().cloned().unwrap_or_default();
        let whole = [prefix, std::mem::take(&mut path)].concat();
        match c {
            // Behind `::` it opens a list of paths, else a block.
            '{' if behind_colons => open.push(whole.clone()),
            '{' => open.push(Module::new()),
            '}' => drop(open.pop()),
            _ => {}
        }
        behind_colons = false;
        if whole.len() > 1 {
            found.push(whole);
        }
    }
    found
}

/// The module of the crate that `path` leads to from `module`, if it does to one.
fn resolve(module: &Module, path: &Module, modules: &BTreeMap<Module, &str>) -> Option<Module> {
    let mut at = module.clone();
    let mut rest = &path[..];
    match rest.first()?.as_str() {
        "crate" => (at, rest) = (Vec::new(), &rest[1..]),
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|word| word == "super") {
                at.pop();
                rest = &rest[1..];
            }
        }
        first => {
            at.push(first.to_owned());
            rest = &rest[1..];
            modules.get(&at)?;
        }
    }
    for word in rest {
        at.push(word.clone());
        if !modules.contains_key(&at) {
            at.pop();
            break;
        }
    }
    modules.contains_key(&at).then_some(at)
}

/// The rule above, on what it must refuse.
pub fn check_rule_bites() {
    let found = |files: &[(&str, &str)]| {
        let named = files.iter().map(|(file, text)| (format!("{}/x/src/{file}", "crates"), *text));
        let named: Vec<_> = named.collect();
        problems(named.iter().map(|(path, text)| (path.as_str(), *text))).join("\n")
    };
    let lib = ("lib.rs", "mod a;\nmod b;\npub use a::A;\n");
    let one = ("a.rs", "use crate::b::{self, B};\nuse std::a;\n");
    let leaf = ("b.rs", "// crate::a is a comment\nfn f() {}\n");
    assert_eq!(found(&[lib, one, leaf]), "");
    let other = ("b.rs", "use std::io;\n\nfn f() { super::a::f() }\n");
    assert!(found(&[lib, one, other]).contains("2 files"), "{}", found(&[lib, one, other]));
    let root = ("b.rs", "use crate::{a::A, c};\n");
    assert!(found(&[lib, one, root]).contains("3 files"), "{}", found(&[lib, one, root]));
    let parent = ("p.rs", "mod q;\npub use q::Q;\n");
    let child = ("p/q.rs", "use super::P;\n");
    assert!(found(&[parent, child]).contains("2 files"));
    let tests = ("p/q.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n use super::P; }\n");
    assert_eq!(found(&[parent, tests]), "");
}
