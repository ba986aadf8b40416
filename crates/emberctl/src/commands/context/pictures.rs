//! Pictures among the forms of what a run shows: saved as files, or counted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

/// MIME types of pictures, and what the names of their files end in.
const KINDS: [(&str, &str); 3] =
    [("image/png", "png"), ("image/svg+xml", "svg"), ("image/jpeg", "jpg")];

/// The MIME type that is text; the others are base64.
const TEXT_KIND: &str = "image/svg+xml";

/// Whether `kind` is the MIME type of a picture.
pub fn is_picture(kind: &str) -> bool {
    KINDS.iter().any(|(picture, _)| *picture == kind)
}

/// The pictures of one run.
#[derive(Debug)]
pub struct Pictures {
    /// Where they are saved; they are counted only when absent.
    dir: Option<PathBuf>,
    run: u64,
    number: usize,
    unsaved: usize,
}

impl Pictures {
    /// Makes the directory they are to be saved in, if there is to be one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(dir: Option<PathBuf>) -> anyhow::Result<Self> {
        if let Some(dir) = &dir {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(Self { dir, run: 0, number: 0, unsaved: 0 })
    }

    /// The run is the context's `run`th, which is part of the files' names.
    pub fn of_run(&mut self, run: u64) {
        self.run = run;
    }

    /// What to say of those that were not saved.
    pub fn complaint(&self) -> Option<String> {
        let why = match self.dir {
            Some(_) => "they are not what their types say",
            None => "--save DIR saves them",
        };
        (self.unsaved > 0).then(|| format!("pictures not saved: {} ({why})", self.unsaved))
    }

    /// Saves the pictures among `data`, in place of earlier ones of the same run and number, and
    /// returns their paths. What is no picture although it says so counts as not saved.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn take(&mut self, data: &BTreeMap<String, Value>) -> anyhow::Result<Vec<PathBuf>> {
        let forms =
            KINDS.iter().filter_map(|(kind, suffix)| Some((*kind, *suffix, data.get(*kind)?)));
        let mut paths = Vec::new();
        let mut found = false;
        for (kind, suffix, value) in forms {
            if !found {
                (found, self.number) = (true, self.number + 1);
            }
            match (&self.dir, content(kind, value)) {
                (Some(dir), Some(content)) => {
                    let path = dir.join(format!("run-{}-{}.{suffix}", self.run, self.number));
                    write(&path, &content)?;
                    paths.push(path);
                }
                _ => self.unsaved += 1,
            }
        }
        Ok(paths)
    }
}

fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// The bytes of a picture; none where they are not what its kind is sent as.
fn content(kind: &str, value: &Value) -> Option<Vec<u8>> {
    let text = value.as_str()?;
    if kind == TEXT_KIND {
        return Some(text.as_bytes().to_vec());
    }
    let mut text = text.to_owned();
    // Encoders of mail break lines.
    text.retain(|c| !c.is_ascii_whitespace());
    BASE64_STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pictures_are_what_their_kind_is_sent_as() {
        assert_eq!(content("image/png", &json!("aGVs\nbG8=\n")).unwrap(), b"hello");
        assert_eq!(content("image/svg+xml", &json!("<svg/>")).unwrap(), b"<svg/>");
        for (kind, value) in
            [("image/png", json!("%")), ("image/png", json!([1])), ("image/svg+xml", json!({}))]
        {
            assert_eq!(content(kind, &value), None, "{kind} {value}");
        }
    }
}
