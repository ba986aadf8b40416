//! A ratchet on turns of phrase that make the text foreign: their number may only fall.
//!
//! Counted apart is what users read: the API's document, error messages, `--help`, the book
//! without its design log, and the pages at the top.

use std::path::Path;

use super::tree::Tree;

/// One turn of phrase.
struct Turn {
    name: &'static str,
    form: Form,
    /// Most in sources and documents. Lower it whenever the count has fallen.
    most: usize,
    /// Most of them in what users read.
    most_for_users: usize,
}

/// How a turn is recognised.
enum Form {
    /// See [`openings`].
    Opening,
    /// See [`negated_nouns`].
    NegatedNoun,
    /// The turn's name stands there as whole words.
    Phrase,
}

impl Turn {
    const fn phrase(name: &'static str, most: usize) -> Self {
        Self { name, form: Form::Phrase, most, most_for_users: 0 }
    }

    fn found_in(&self, line: &str) -> usize {
        match self.form {
            Form::Opening => openings(line),
            Form::NegatedNoun => negated_nouns(line),
            Form::Phrase => phrases(line, self.name),
        }
    }
}

const TURNS: [Turn; 7] = [
    Turn {
        name: "docs that open with a pronoun",
        form: Form::Opening,
        most: 43,
        most_for_users: 0,
    },
    Turn { name: concat!("is ", "no x"), form: Form::NegatedNoun, most: 13, most_for_users: 0 },
    Turn::phrase(concat!("for ", "ever"), 1),
    Turn::phrase(concat!("a", "new"), 8),
    Turn::phrase(concat!("him", "self"), 2),
    Turn::phrase(concat!("who", "ever"), 18),
    Turn::phrase(concat!("is to", " be"), 4),
];

/// Pages that users read, beside the book.
const PAGES: [&str; 5] =
    ["README.md", "CHANGELOG.md", "SECURITY.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];

/// The design log keeps what was written at its time.
const DESIGN_LOG: &str = "docs/src/implementation-notes.md";

/// Sources whose doc comments are the API's document.
const DOCUMENTED: [&str; 2] = ["crates/emberd-api/src/", "crates/emberd/src/http/"];

#[test]
fn turns_of_phrase_only_get_fewer() {
    let tree = Tree::read();
    let mut problems = Vec::new();
    for turn in &TURNS {
        let (all, for_users) = places(turn, &tree);
        println!("{}: {} in all, {} for users", turn.name, all.len(), for_users.len());
        for (found, most, whose) in
            [(all, turn.most, "in all"), (for_users, turn.most_for_users, "in what users read")]
        {
            if found.len() > most {
                let (name, count) = (turn.name, found.len());
                let found = found.join("\n");
                problems.push(format!("`{name}` {whose}: {count}, at most {most}\n{found}"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Where a turn stands: in sources and documents, and in what users read.
fn places(turn: &Turn, tree: &Tree) -> (Vec<String>, Vec<String>) {
    let (mut all, mut for_users) = (Vec::new(), Vec::new());
    for extension in ["rs", "md", "toml", "sh", "py", "js", "c"] {
        for (path, text) in tree.with_extension(extension) {
            for (number, line) in (1..).zip(text.lines()) {
                let place = || format!("  {path}:{number}");
                all.extend((0..turn.found_in(line)).map(|_| place()));
            }
            for (number, line) in read_by_users(path, text) {
                let place = || format!("  {path}:{number}");
                for_users.extend((0..turn.found_in(line)).map(|_| place()));
            }
        }
    }
    (all, for_users)
}

/// The lines of a file that users come to see, with their numbers.
fn read_by_users<'a>(path: &str, text: &'a str) -> Vec<(usize, &'a str)> {
    let lines = (1..).zip(text.lines());
    let is_page = PAGES.contains(&path) || path.starts_with("docs/src/") && path != DESIGN_LOG;
    if is_page {
        return lines.collect();
    }
    let is_rust = Path::new(path).extension().is_some_and(|extension| extension == "rs");
    if !is_rust || !path.contains("/src/") {
        return Vec::new();
    }
    let documented = DOCUMENTED.iter().any(|start| path.starts_with(start))
        || ["clap::", "#[arg(", "#[command("].iter().any(|word| text.contains(word));
    let mut in_message = false;
    lines
        .filter(|(_, line)| {
            let line = line.trim_start();
            in_message |= line.starts_with("#[error(");
            let seen = in_message || documented && line.starts_with("///");
            in_message &= !line.ends_with(")]");
            seen
        })
        .collect()
}

/// Whether a line of docs opens with a pronoun that names nothing yet.
fn openings(line: &str) -> usize {
    let Some(text) = line.trim_start().strip_prefix("/// ") else { return 0 };
    let first = text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    usize::from(["It", "Those", "That", "What", "Who", "Whose"].contains(&first))
}

/// How often something is said to be none of its kind. To say that something does not exist, or
/// does so no longer, is plain English.
fn negated_nouns(line: &str) -> usize {
    let phrase = concat!(" is ", "no ");
    let negates = |(at, _): &(usize, &str)| {
        let (before, after) = (&line[..*at], &line[at + phrase.len()..]);
        !before.to_lowercase().ends_with("there")
            && !after.starts_with("longer")
            && after.starts_with(|c: char| c.is_ascii_lowercase())
    };
    line.match_indices(phrase).filter(negates).count()
}

/// How often `phrase` stands in the line as whole words, in any case.
fn phrases(line: &str, phrase: &str) -> usize {
    let line = line.to_lowercase();
    let is_edge = |c: Option<char>| !c.is_some_and(char::is_alphanumeric);
    let whole = |(at, found): &(usize, &str)| {
        is_edge(line[..*at].chars().next_back()) && is_edge(line[at + found.len()..].chars().next())
    };
    line.match_indices(phrase).filter(whole).count()
}

#[test]
fn every_turn_is_found() {
    let found =
        |line: &str| -> Vec<usize> { TURNS.iter().map(|turn| turn.found_in(line)).collect() };
    assert_eq!(found("    /// What it does."), [1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(found("/// Whatever it does."), [0; 7]);
    assert_eq!(found(concat!("a number is ", "no name, it is ", "no Name")), [0, 1, 0, 0, 0, 0, 0]);
    assert_eq!(found(concat!("There is ", "no file, and the name is ", "no longer used")), [0; 7]);
    assert_eq!(found(concat!("For ", "ever, and for ", "every one")), [0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(
        found(concat!("A", "new: Who", "ever is to", " be him", "self, is to", " become")),
        [0, 0, 0, 1, 1, 1, 1]
    );
}

#[test]
fn what_users_read_is_told_from_the_rest() {
    let numbers = |path: &str, text: &str| -> Vec<usize> {
        read_by_users(path, text).into_iter().map(|(number, _)| number).collect()
    };
    let source = "/// a\n#[error(\"b\")]\n#[error(\n    \"c\"\n)]\nfn d() {} // e\n";
    assert_eq!(numbers("x/src/y.rs", source), [2, 3, 4, 5]);
    assert_eq!(numbers("crates/emberd-api/src/lib.rs", source), [1, 2, 3, 4, 5]);
    assert_eq!(numbers("x/src/y.rs", "#[arg(long)]\n/// a\n// b\n"), [2]);
    assert!(numbers("x/tests/y.rs", source).is_empty());
    assert_eq!(numbers("docs/src/introduction.md", "a\nb"), [1, 2]);
    assert!(numbers(DESIGN_LOG, "a\nb").is_empty());
}
