//! The text files of the working tree, and the names of files inside them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Folders that hold no source: build output, version control, caches.
const SKIPPED: [&str; 5] = ["target", ".git", "book", "corpus", "artifacts"];

/// Top-level folders a path in prose starts with.
const ROOMS: [&str; 7] = ["crates/", "scripts/", "docs/", "rootfs/", "examples/", "fuzz/", ".ci/"];

/// Every text file below the workspace root, by path relative to it.
pub struct Tree {
    root: PathBuf,
    files: BTreeMap<String, String>,
}

impl Tree {
    pub fn read() -> Self {
        let root = workspace_root();
        let mut files = BTreeMap::new();
        read_folder(&root, &root, &mut files);
        assert!(files.len() > 20, "this is not the workspace: {}", root.display());
        Self { root, files }
    }

    pub fn text(&self, path: &str) -> &str {
        self.files.get(path).unwrap_or_else(|| panic!("{path} is missing"))
    }

    pub fn with_extension<'a>(
        &'a self,
        extension: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files
            .iter()
            .filter(move |(path, _)| {
                Path::new(path).extension().is_some_and(|found| found == extension)
            })
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Paths named in `text` that are not in the tree. Patterns (`<name>`, `*`) are passed over.
    pub fn dead_names(&self, path: &str, text: &str) -> Vec<String> {
        let is_path_char = |c: char| c.is_ascii_alphanumeric() || "._-/<>*{}$".contains(c);
        let words = text.split(|c| !is_path_char(c));
        words
            .map(|word| word.trim_start_matches("./").trim_end_matches(['.', '/']))
            .filter(|word| ROOMS.iter().any(|room| word.starts_with(room)))
            .filter(|word| !word.contains(['<', '>', '*', '{', '$']))
            .filter(|word| !self.root.join(word).exists())
            .map(|word| format!("{path}: names {word}, which is not in the tree"))
            .collect()
    }
}

/// Fails with every problem on a line of its own.
pub fn assert_none(problems: impl IntoIterator<Item = String>) {
    let problems: Vec<_> = problems.into_iter().collect();
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

pub fn workspace_root() -> PathBuf {
    let crate_root = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for tests");
    Path::new(&crate_root).ancestors().nth(2).expect("crates/<name> lies two below").to_owned()
}

fn read_folder(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("folders of the tree are readable") {
        let path = entry.expect("and so are their entries").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if !SKIPPED.contains(&name.as_ref()) {
                read_folder(root, &path, files);
            }
        } else if let Ok(text) = fs::read_to_string(&path) {
            let relative = path.strip_prefix(root).expect("found below it");
            files.insert(relative.to_string_lossy().into_owned(), text);
        }
    }
}
