//! Snippets of the corpus, one after the other in a file:
//!
//! ```text
//! === a name
//! code of the first run
//! ---
//! code of the second
//! !!!                      the last run ends the shell
//! ```

/// Shows what a shell has become. What the code before has made of these commands is made of
/// them in both shells.
pub const PROBE: &str = r"set +o; shopt; trap; alias; pwd; umask; declare -f
unset _; declare -p |
    /bin/grep -vE '^declare -[^ ]* (BASHPID|BASH_LINENO|EPOCH|LINENO|PPID|RANDOM|SECONDS|SRANDOM)'
";

/// A sequence of runs.
#[derive(Debug, Default)]
pub struct Snippet {
    pub name: String,
    pub runs: Vec<String>,
    /// Whether a shell has ended after them.
    pub exits: bool,
}

impl Snippet {
    /// The snippets in `text`.
    pub fn all_of(text: &str) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("=== ") {
                let runs = vec![String::new()];
                all.push(Self { name: name.to_owned(), runs, exits: false });
                continue;
            }
            let snippet = all.last_mut().expect("a name comes first");
            match line {
                "---" => snippet.runs.push(String::new()),
                "!!!" => snippet.exits = true,
                _ => {
                    let run = snippet.runs.last_mut().expect("there is always one");
                    run.push_str(line);
                    run.push('\n');
                }
            }
        }
        all
    }
}
