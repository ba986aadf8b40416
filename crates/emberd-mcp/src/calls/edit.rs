//! `edit_file`: replaces text in a file.

use std::path::Path;

use emberd_client::{FileOptions, FileSpan, Upload};
use rmcp::model::{CallToolResult, ContentBlock};
use serde::Deserialize;

use crate::call::Call;
use crate::failure::Failure;
use crate::text::one_line;

/// Largest file that can be edited, in bytes (16 MiB).
const FILE_BYTES_MAX: usize = 16 << 20;

/// Arguments of `edit_file`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditFile {
    sandbox: Option<String>,
    path: String,
    old: String,
    new: String,
    #[serde(default)]
    all: bool,
}

/// Edits a file. Its mode and its owner stay.
pub async fn edit(call: &mut Call<'_>, wanted: EditFile) -> Result<CallToolResult, Failure> {
    let EditFile { sandbox, path, old, new, all } = wanted;
    let sandbox = call.sandbox(sandbox)?;
    let (client, path) = (&call.daemon.client, Path::new(&path));
    let options = FileOptions::default();
    let before = client.file_stat(&sandbox, path, &options).await?;
    let mut download = client.file_read(&sandbox, path, FileSpan::default(), &options).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > FILE_BYTES_MAX {
            let error = format!("the file has more than {FILE_BYTES_MAX} bytes");
            return Err(Failure::invalid(error).hint("use run_command with sed"));
        }
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::invalid("the file is not UTF-8").hint("use run_command with sed"))?;
    let (text, count) = replaced(&text, &old, &new, all)?;
    let owner = before.owner.filter(|owner| owner != "root");
    let options = FileOptions { user: owner, mode: Some(before.mode & 0o7777) };
    let entry = client.file_write(&sandbox, path, Upload::bytes(text), &options).await?;
    let shown = one_line(&entry.path.as_path().to_string_lossy(), 4_096);
    let text = format!("replaced {count} in {shown}, which has {} bytes now", entry.size);
    Ok(CallToolResult::success(vec![ContentBlock::text(text)]))
}

/// `text` with `new` in place of `old`, and how often.
fn replaced(text: &str, old: &str, new: &str, all: bool) -> Result<(String, usize), Failure> {
    if old.is_empty() {
        return Err(Failure::invalid("`old` is empty").hint("write_file writes a whole file"));
    }
    match text.matches(old).count() {
        0 => Err(Failure::invalid("`old` does not occur in the file")
            .hint("read_file shows the file; `old` has no line numbers, and white space counts")),
        1 => Ok((text.replacen(old, new, 1), 1)),
        count if all => Ok((text.replace(old, new), count)),
        count => Err(Failure::invalid(format!("`old` occurs {count} times in the file"))
            .hint("give more of the text around it, or set `all`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_meant_is_replaced() {
        assert_eq!(replaced("a b a", "b", "c", false).unwrap(), ("a c a".into(), 1));
        assert_eq!(replaced("a b a", "a", "", true).unwrap(), (" b ".into(), 2));
        for (old, word) in [("a", "2 times"), ("x", "does not occur"), ("", "empty")] {
            let error = replaced("a b a", old, "c", false).unwrap_err();
            assert!(error.error.contains(word) && error.hint.is_some(), "{error}");
        }
    }
}
