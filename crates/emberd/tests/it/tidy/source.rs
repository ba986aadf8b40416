//! Rules on one Rust file: sizes, its opening comment, unsafe code, words not used here.

const LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;
const OPENING_LINES_MAX: usize = 12;
const COMMENT_LINES_MAX: usize = 8;

/// The only files with unsafe code: guest system calls, and what a VMM's child does
/// between fork and exec.
const UNSAFE_ALLOWED: [&str; 2] = ["crates/emberd-init/src/sys.rs", "crates/emberd-vmm/src/sys.rs"];

/// The only places that name a concrete driver: the driver's own crate, the daemon's main, and
/// the commands that install a VMM and find out whether a host can run it.
const DRIVERS_ALLOWED: [&str; 5] = [
    "crates/emberd-vmm/",
    "crates/emberd/src/main.rs",
    "crates/emberctl/src/commands/doctor",
    "crates/emberctl/src/commands/setup",
    "crates/emberctl/src/commands/vmconfig.rs",
];

/// Words that name nothing (design: "Not used").
const EMPTY_WORDS: [&str; 7] =
    ["manager", "service", "handler", "helper", "util", "common", "misc"];

/// What `text`, the file at `path`, breaks.
pub fn problems(path: &str, text: &str) -> Vec<String> {
    let production = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let is_test = path.contains("/tests/") || path.ends_with("/tests.rs");
    let mut problems = Vec::new();
    let mut report = |problem: String| problems.push(format!("{path}{problem}"));

    let lines = production.lines().count();
    if lines > LINES_MAX && !is_test {
        report(format!(": {lines} production lines, at most {LINES_MAX}"));
    }
    for (number, line) in numbered(text) {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX && !line.contains("r#\"") && !line.contains('"') {
            report(format!(":{number}: {columns} columns, at most {COLUMNS_MAX}"));
        }
    }
    let opening = text.lines().take_while(|line| line.starts_with("//!")).count();
    if opening == 0 {
        report(": does not open with //!".into());
    } else if opening > OPENING_LINES_MAX {
        report(format!(": opens with {opening} lines of //!, at most {OPENING_LINES_MAX}"));
    }
    if !is_test {
        for (number, name, lines) in functions(production) {
            if lines > FUNCTION_LINES_MAX {
                report(format!(
                    ":{number}: fn {name} has {lines} lines, at most {FUNCTION_LINES_MAX}"
                ));
            }
        }
    }
    for (number, lines) in inline_comments(production) {
        if lines > COMMENT_LINES_MAX {
            report(format!(":{number}: a comment of {lines} lines, at most {COMMENT_LINES_MAX}"));
        }
    }
    let code_has = |word: &str| code_lines(text).any(|line| line.contains(word));
    if code_has(concat!("unsafe", " {")) && !UNSAFE_ALLOWED.contains(&path) {
        report(": unsafe code outside the two sys.rs files".into());
    }
    let names_driver = ["emberd_vmm::qemu", "emberd_vmm::firecracker", "Qemu::", "Firecracker::"];
    if !is_test
        && names_driver.into_iter().any(code_has)
        && !DRIVERS_ALLOWED.iter().any(|allowed| path.starts_with(allowed))
    {
        report(": names a concrete driver".into());
    }
    for word in empty_words(path, text) {
        report(format!(": `{word}` names nothing"));
    }
    problems
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines())
}

fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// First line, name and length of every function; relies on rustfmt's indentation.
fn functions(text: &str) -> Vec<(usize, &str, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some((before, after)) = line.split_once("fn ") else { continue };
        let only_qualifiers = before.split_whitespace().all(|word| {
            matches!(word, "pub" | "async" | "const" | "unsafe" | "extern" | "\"C\"")
                || word.starts_with("pub(")
        });
        if !only_qualifiers {
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indent}}}");
        let name = after.split(['(', '<']).next().unwrap_or_default();
        let end = lines[index..].iter().position(|line| *line == closing);
        found.push((index + 1, name, end.map_or(1, |end| end + 1)));
    }
    found
}

/// First line and length of every run of `//` comments that are not docs.
fn inline_comments(text: &str) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut inside = false;
    for (number, line) in numbered(text) {
        let line = line.trim_start();
        let is_inline =
            line.starts_with("//") && !line.starts_with("///") && !line.starts_with("//!");
        match (is_inline, inside) {
            (true, true) => runs.last_mut().expect("inside one").1 += 1,
            (true, false) => runs.push((number, 1)),
            (false, _) => {}
        }
        inside = is_inline;
    }
    runs
}

/// Empty words in the file's name and in the names of the items it defines.
fn empty_words(path: &str, text: &str) -> Vec<String> {
    let stem = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    let items = code_lines(text).filter_map(|line| {
        let line = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        let rest = ["struct ", "enum ", "trait ", "mod ", "type "]
            .iter()
            .find_map(|keyword| line.strip_prefix(keyword))?;
        rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
    });
    std::iter::once(stem)
        .chain(items)
        .filter(|name| words_of(name).iter().any(|word| EMPTY_WORDS.contains(&word.as_str())))
        .map(str::to_owned)
        .collect()
}

/// `FooBar_baz` → foo, bar, baz.
fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c == '-' || c.is_uppercase() {
            words.push(String::new());
        }
        if c.is_alphanumeric() {
            words.last_mut().expect("never empty").extend(c.to_lowercase());
        }
    }
    words
}

/// Every rule above, on the smallest file that breaks it.
pub fn check_rules_bite() {
    let check = |path: &str, text: &str, expect: &str| {
        let found = problems(path, text).join("\n");
        assert!(found.contains(expect), "expected `{expect}` for {path}, found: {found:?}");
    };
    let long = |line: &str, times: usize| format!("//! x\n{}", line.repeat(times));
    check("a/src/x.rs", &long("x();\n", LINES_MAX), "production lines");
    check("a/src/x.rs", &long(&"x".repeat(COLUMNS_MAX + 1), 1), "columns");
    check("a/src/x.rs", "fn x() {}\n", "does not open");
    check("a/src/x.rs", &"//! x\n".repeat(OPENING_LINES_MAX + 1), "opens with");
    let function = format!("//! x\npub async fn x() {{\n{}}}\n", "    y();\n".repeat(70));
    check("a/src/x.rs", &function, "fn x has 72 lines");
    check("a/src/x.rs", &long("// why\n", COMMENT_LINES_MAX + 1), "a comment of 9 lines");
    check("a/src/x.rs", concat!("//! x\nfn x() { unsafe", " { y() } }\n"), "unsafe code");
    check("a/src/x.rs", "//! x\nuse emberd_vmm::qemu::Qemu;\n", "concrete driver");
    check("a/src/pool_manager.rs", "//! x\n", "names nothing");
    check("a/src/x.rs", "//! x\npub struct FileHandler;\n", "names nothing");
    assert!(problems("a/src/x.rs", "//! x\npub struct Reader;\n").is_empty());
}
