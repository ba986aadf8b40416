//! Pictures among the forms of what a run shows: saved as files, or counted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use emberd_api::Forms;

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
    /// Creates the directory for pictures, if one was given.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn new(dir: Option<PathBuf>) -> anyhow::Result<Self> {
        if let Some(dir) = &dir {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        Ok(Self { dir, run: 0, number: 0, unsaved: 0 })
    }

    /// The run is the context's `run`th, which is part of the files' names.
    pub fn of_run(&mut self, run: u64) {
        self.run = run;
    }

    /// The message about pictures that were not saved, if any.
    pub fn complaint(&self) -> Option<String> {
        let why = match self.dir {
            Some(_) => "their content does not match their types",
            None => "save pictures with --save DIR",
        };
        (self.unsaved > 0).then(|| format!("pictures not saved: {} ({why})", self.unsaved))
    }

    /// Saves the pictures among `data`, in place of earlier ones of the same run and number, and
    /// returns their paths. A file that is not of its stated type counts as not saved.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn take(&mut self, data: &Forms) -> anyhow::Result<Vec<PathBuf>> {
        let kinds = data.kinds();
        let mut paths = Vec::new();
        let mut found = false;
        for (kind, suffix) in KINDS {
            if !kinds.iter().any(|name| name == kind) {
                continue;
            }
            if !found {
                (found, self.number) = (true, self.number + 1);
            }
            match (&self.dir, content(kind, data.get(kind))) {
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
fn content(kind: &str, text: Option<String>) -> Option<Vec<u8>> {
    let mut text = text?;
    if kind == TEXT_KIND {
        return Some(text.into_bytes());
    }
    // Encoders of mail break lines.
    text.retain(|c| !c.is_ascii_whitespace());
    BASE64_STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_what_their_kind_is_sent_as() {
        let content = |kind, text: Option<&str>| content(kind, text.map(str::to_owned));
        assert_eq!(content("image/png", Some("aGVs\nbG8=\n")).unwrap(), b"hello");
        assert_eq!(content("image/svg+xml", Some("<svg/>")).unwrap(), b"<svg/>");
        for (kind, text) in [("image/png", Some("%")), ("image/png", None), ("image/svg+xml", None)]
        {
            assert_eq!(content(kind, text), None, "{kind} {text:?}");
        }
    }

    #[test]
    fn what_is_no_picture_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut pictures = Pictures::new(Some(dir.path().to_owned())).unwrap();
        pictures.of_run(3);
        let data = r#"{"image/png":[1],"image/svg+xml":"<svg/>","text/plain":"x"}"#;
        let paths = pictures.take(&serde_json::from_str(data).unwrap()).unwrap();
        assert_eq!(paths, [dir.path().join("run-3-1.svg")]);
        assert!(pictures.complaint().unwrap().starts_with("pictures not saved: 1"));
    }
}
