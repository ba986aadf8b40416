//! `read_file`, `write_file` and `list_files`.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use emberd_api::{DEPTH_MAX, FileEntry, FileType};
use emberd_client::{FileOptions, FileSpan, Upload};
use fast_glob::glob_match;
use rmcp::model::{CallToolResult, ContentBlock};
use serde::Deserialize;

use super::lines::Lines;
use crate::answer::{IMAGE_BYTES_MAX, Image, budget, link};
use crate::call::Call;
use crate::failure::Failure;
use crate::outputs::Output;
use crate::resources::{self, Named, SCHEME};
use crate::text::{fenced, one_line};

/// Lines of a file that one call reads, unless it names a number.
const LINES: usize = 2_000;

/// Most bytes of a file that are read to find its lines (256 MiB).
const SCAN_BYTES_MAX: usize = 256 << 20;

/// Bytes at the beginning of a file that tell whether it is text.
const SNIFF_BYTES: usize = 8 << 10;

/// Most rows of one list.
const ROWS_MAX: usize = 500;

/// Levels that are searched for a pattern with several, unless the call names a number.
const SEARCH_DEPTH: u32 = 16;

/// Longest path and longest name in an answer, in characters.
const PATH_CHARS_MAX: usize = 4_096;
const NAME_CHARS_MAX: usize = 255;

/// Arguments of `read_file`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadFile {
    sandbox: Option<String>,
    path: String,
    offset: Option<usize>,
    limit: Option<usize>,
    max_output: Option<usize>,
}

/// Arguments of `write_file`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteFile {
    sandbox: Option<String>,
    path: String,
    content: Option<String>,
    content_base64: Option<String>,
    mode: Option<String>,
}

/// Arguments of `list_files`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListFiles {
    sandbox: Option<String>,
    path: String,
    depth: Option<u32>,
    glob: Option<String>,
}

/// Reads a file.
pub async fn read(call: &mut Call<'_>, wanted: ReadFile) -> Result<CallToolResult, Failure> {
    let sandbox = call.sandbox(wanted.sandbox)?;
    let (offset, limit) = (wanted.offset.unwrap_or(1).max(1), wanted.limit.unwrap_or(LINES).max(1));
    let mut lines = Lines::new(offset, limit, budget(wanted.max_output));
    if wanted.path.starts_with(SCHEME) {
        return read_output(call, &sandbox, &wanted.path, lines).await;
    }
    let path = Path::new(&wanted.path);
    let (span, options) = (FileSpan::default(), FileOptions::default());
    let mut download = call.daemon.client.file_read(&sandbox, path, span, &options).await?;
    let mut begin = Vec::new();
    while begin.len() < SNIFF_BYTES
        && let Some(piece) = download.next().await?
    {
        begin.extend_from_slice(&piece);
    }
    if Image::recognise(&begin).is_some() {
        while begin.len() <= IMAGE_BYTES_MAX
            && let Some(piece) = download.next().await?
        {
            begin.extend_from_slice(&piece);
        }
        return match Image::recognise(&begin) {
            Some(image) if begin.len() <= IMAGE_BYTES_MAX => {
                let text = format!("{}, {} bytes", image.mime_type, begin.len());
                Ok(CallToolResult::success(vec![ContentBlock::text(text), image.into_block()]))
            }
            _ => linked(call, &sandbox, path).await,
        };
    }
    if begin[..begin.len().min(SNIFF_BYTES)].contains(&0) {
        return linked(call, &sandbox, path).await;
    }
    let mut scanned = begin.len();
    let mut goes_on = lines.push(&begin);
    while goes_on && let Some(piece) = download.next().await? {
        scanned += piece.len();
        if scanned > SCAN_BYTES_MAX {
            let error = format!("line {offset} is beyond the first {SCAN_BYTES_MAX} bytes");
            return Err(Failure::invalid(error).hint("use run_command with sed or tail"));
        }
        goes_on = lines.push(&piece);
    }
    if goes_on {
        lines.finish();
    }
    Ok(numbered(&lines, offset))
}

/// A link to a file of bytes.
async fn linked(call: &Call<'_>, sandbox: &str, path: &Path) -> Result<CallToolResult, Failure> {
    let client = &call.daemon.client;
    let bytes = client.file_stat(sandbox, path, &FileOptions::default()).await?.size;
    let shown = path.to_string_lossy();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let text = format!("{} is not text; it has {bytes} bytes", one_line(&shown, PATH_CHARS_MAX));
    let uri = resources::file_uri(sandbox, &shown);
    let link = link(uri, &one_line(&name, NAME_CHARS_MAX), None, bytes);
    Ok(CallToolResult::success(vec![ContentBlock::text(text), link]))
}

/// Reads what did not fit into an answer.
async fn read_output(
    call: &Call<'_>,
    sandbox: &str,
    uri: &str,
    mut lines: Lines,
) -> Result<CallToolResult, Failure> {
    if Named::of(uri) != Some(Named::Output { sandbox: sandbox.to_owned() }) {
        let error = "`path` is a path, or the URI of an output of this sandbox";
        return Err(Failure::invalid(error));
    }
    match resources::output(call.server, &call.daemon.client, sandbox, uri).await? {
        Output::Image(image) => Ok(CallToolResult::success(vec![image.into_block()])),
        Output::Text(text) => {
            if lines.push(text.as_bytes()) {
                lines.finish();
            }
            Ok(numbered(&lines, 1))
        }
    }
}

fn numbered(lines: &Lines, offset: usize) -> CallToolResult {
    let text = match (lines.text.as_str(), lines.next) {
        ("", None) if lines.read() == 0 => "the file is empty".to_owned(),
        ("", None) => format!("the file has {} lines, so none from {offset} on", lines.read()),
        (text, None) => fenced("", text),
        (text, Some(next)) => format!("{}\nmore lines follow: offset {next}", fenced("", text)),
    };
    CallToolResult::success(vec![ContentBlock::text(text)])
}

/// Writes a file.
pub async fn write(call: &mut Call<'_>, wanted: WriteFile) -> Result<CallToolResult, Failure> {
    let WriteFile { sandbox, path, content, content_base64, mode } = wanted;
    let sandbox = call.sandbox(sandbox)?;
    let bytes = match (content, content_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(base64)) => BASE64.decode(base64.trim()).map_err(|error| {
            Failure::invalid(format!("`content_base64` is not base64: {error}"))
        })?,
        _ => return Err(Failure::invalid("a call has either `content` or `content_base64`")),
    };
    let mode = mode.map(|mode| {
        let octal = u32::from_str_radix(mode.trim_start_matches("0o"), 8).ok();
        let octal = octal.filter(|mode| *mode <= 0o7777);
        octal.ok_or_else(|| Failure::invalid("`mode` is octal, such as \"755\""))
    });
    let options = FileOptions { user: None, mode: mode.transpose()? };
    let content = Upload::bytes(bytes);
    let client = &call.daemon.client;
    let entry = client.file_write(&sandbox, Path::new(&path), content, &options).await?;
    let text = format!("wrote {} bytes to {}", entry.size, shown_path(&entry));
    Ok(CallToolResult::success(vec![ContentBlock::text(text)]))
}

/// Lists a directory.
pub async fn list(call: &mut Call<'_>, wanted: ListFiles) -> Result<CallToolResult, Failure> {
    let ListFiles { sandbox, path, depth, glob } = wanted;
    let sandbox = call.sandbox(sandbox)?;
    let is_deep = glob.as_ref().is_some_and(|glob| glob.contains('/'));
    let depth = depth.unwrap_or(if is_deep { SEARCH_DEPTH } else { 1 });
    if !(1..=DEPTH_MAX).contains(&depth) {
        return Err(Failure::invalid(format!("`depth` is 1 to {DEPTH_MAX}")));
    }
    let (root, options) = (Path::new(&path), FileOptions::default());
    let listed = call.daemon.client.file_list(&sandbox, root, depth, &options).await?;
    let fits = |entry: &&FileEntry| {
        let Some(glob) = &glob else { return true };
        let whole = entry.path.as_path();
        let below = whole.strip_prefix(root).unwrap_or(whole);
        let name = below.file_name().unwrap_or_default().to_string_lossy();
        if is_deep { glob_match(glob, &*below.to_string_lossy()) } else { glob_match(glob, &*name) }
    };
    let all = listed.entries.iter().filter(fits).count();
    let rows = listed.entries.iter().filter(fits).take(ROWS_MAX).map(row);
    let rows: Vec<_> = rows.collect();
    let shown = match rows.len() {
        0 => "nothing is there".to_owned(),
        _ => fenced("", &rows.join("\n")),
    };
    let text = if all > ROWS_MAX || listed.cut {
        format!("{shown}\nonly {} of {all} are listed; narrow it with `glob`", rows.len())
    } else {
        shown
    };
    Ok(CallToolResult::success(vec![ContentBlock::text(text)]))
}

/// A row: type and mode, size, path, and where a link leads.
fn row(entry: &FileEntry) -> String {
    let kind = match entry.file_type {
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::File => '-',
        FileType::Other => '?',
    };
    let target = entry.target.as_ref().map(|target| {
        format!(" -> {}", one_line(&target.as_path().to_string_lossy(), PATH_CHARS_MAX))
    });
    let (mode, size) = (entry.mode & 0o7777, entry.size);
    format!("{kind}{mode:04o} {size:>10} {}{}", shown_path(entry), target.unwrap_or_default())
}

fn shown_path(entry: &FileEntry) -> String {
    one_line(&entry.path.as_path().to_string_lossy(), PATH_CHARS_MAX)
}
