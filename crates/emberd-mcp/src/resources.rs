//! Resources: `emberd://` and what stands behind it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use emberd_client::{Client, FileOptions, FileSpan};
use percent_encoding::percent_decode_str;
use rmcp::model::{
    ErrorData, ListResourceTemplatesResult, ListResourcesResult, ReadResourceResult, Resource,
    ResourceContents, ResourceTemplate,
};
use serde_json::json;

use crate::failure::Failure;
use crate::outputs::Output;
use crate::state::State;

/// Scheme of every URI.
pub const SCHEME: &str = "emberd://";

/// Largest file that is read as a resource, in bytes (16 MiB).
pub const FILE_BYTES_MAX: usize = 16 << 20;

const JSON: &str = "application/json";

/// A thing that a URI names.
#[derive(Debug, PartialEq, Eq)]
pub enum Named {
    /// The sandboxes.
    Sandboxes,
    /// The language packs.
    Packs,
    /// A file of a sandbox, by its absolute path.
    File {
        /// The sandbox.
        sandbox: String,
        /// The path.
        path: Vec<u8>,
    },
    /// Something that did not fit into an answer.
    Output {
        /// The sandbox.
        sandbox: String,
    },
}

impl Named {
    /// The thing that `uri` names, if there is one.
    pub fn of(uri: &str) -> Option<Self> {
        let rest = uri.strip_prefix(SCHEME)?;
        match rest {
            "sandboxes" => return Some(Self::Sandboxes),
            "packs" => return Some(Self::Packs),
            _ => {}
        }
        let (sandbox, rest) = rest.strip_prefix("sandboxes/")?.split_once('/')?;
        let sandbox = sandbox.to_owned();
        if let Some(path) = rest.strip_prefix("files/") {
            let path = [b"/".to_vec(), percent_decode_str(path).collect()].concat();
            return Some(Self::File { sandbox, path });
        }
        rest.strip_prefix("outputs/")?.split_once('/')?;
        Some(Self::Output { sandbox })
    }
}

/// The URI of a file.
pub fn file_uri(sandbox: &str, path: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEPT: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');
    let path = utf8_percent_encode(path.trim_start_matches('/'), KEPT);
    format!("{SCHEME}sandboxes/{sandbox}/files/{path}")
}

/// The resources that can be listed.
pub fn list() -> ListResourcesResult {
    let resource = |name: &str, description: &str| {
        let uri = format!("{SCHEME}{name}");
        Resource::new(uri, name).with_description(description).with_mime_type(JSON)
    };
    ListResourcesResult::with_all_items(vec![
        resource("sandboxes", "The sandboxes that exist."),
        resource("packs", "The language packs that sandboxes can be created from."),
    ])
}

/// The templates of the others.
pub fn templates() -> ListResourceTemplatesResult {
    let template = |name: &str, rest: &str, description: &str| {
        ResourceTemplate::new(format!("{SCHEME}sandboxes/{{id}}/{rest}"), name)
            .with_description(description)
    };
    ListResourceTemplatesResult::with_all_items(vec![
        template("file", "files{/path*}", "A file of a sandbox."),
        template("output", "outputs/{run}/{n}", "Output that did not fit into an answer."),
    ])
}

/// Reads the resource at `uri`.
pub async fn read(
    server: &State,
    client: &Client,
    uri: &str,
) -> Result<ReadResourceResult, ErrorData> {
    let unknown = || ErrorData::resource_not_found("unknown resource", Some(json!({ "uri": uri })));
    let contents = match Named::of(uri).ok_or_else(unknown)? {
        Named::Sandboxes => {
            let listed = client.list().await.map_err(told)?;
            ResourceContents::text(text(&listed.sandboxes)?, uri).with_mime_type(JSON)
        }
        Named::Packs => {
            let info = client.info().await.map_err(told)?;
            let about = |name: &String| json!({"name": name, "description": info.pack_descriptions.get(name)});
            let packs: Vec<_> = info.packs.iter().map(about).collect();
            ResourceContents::text(text(&packs)?, uri).with_mime_type(JSON)
        }
        Named::File { sandbox, path } => file(client, uri, &sandbox, path).await?,
        Named::Output { sandbox } => {
            match output(server, client, &sandbox, uri).await.map_err(failed)? {
                Output::Text(text) => ResourceContents::text(text, uri),
                Output::Image(image) => {
                    ResourceContents::blob(image.base64, uri).with_mime_type(image.mime_type)
                }
            }
        }
    };
    Ok(ReadResourceResult::new(vec![contents]))
}

/// The output at `uri`, for a caller who may use its sandbox.
pub async fn output(
    server: &State,
    client: &Client,
    sandbox: &str,
    uri: &str,
) -> Result<Output, Failure> {
    // The daemon knows who may see what ran in a sandbox.
    client.contexts(sandbox).await?;
    server.outputs.get(uri).ok_or_else(|| {
        let error = format!("the output {uri} is not kept any more");
        Failure::new(emberd_api::ErrorCode::NotFound, error).hint("run the code again")
    })
}

async fn file(
    client: &Client,
    uri: &str,
    sandbox: &str,
    path: Vec<u8>,
) -> Result<ResourceContents, ErrorData> {
    use std::os::unix::ffi::OsStringExt as _;
    let path = std::path::PathBuf::from(std::ffi::OsString::from_vec(path));
    let (span, options) = (FileSpan::default(), FileOptions::default());
    let mut download = client.file_read(sandbox, &path, span, &options).await.map_err(told)?;
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await.map_err(told)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > FILE_BYTES_MAX {
            let error = format!("the file has more than {FILE_BYTES_MAX} bytes");
            return Err(ErrorData::invalid_params(error, Some(json!({ "uri": uri }))));
        }
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => {
            ResourceContents::text(text, uri).with_mime_type("text/plain")
        }
        Ok(text) => blob(text.as_bytes(), uri),
        Err(error) => blob(error.as_bytes(), uri),
    })
}

fn blob(bytes: &[u8], uri: &str) -> ResourceContents {
    ResourceContents::blob(BASE64.encode(bytes), uri).with_mime_type("application/octet-stream")
}

fn text(value: &impl serde::Serialize) -> Result<String, ErrorData> {
    serde_json::to_string(value).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

fn told(error: emberd_client::ClientError) -> ErrorData {
    failed(error.into())
}

/// A failure, as resources tell of it.
fn failed(failure: Failure) -> ErrorData {
    use emberd_api::ErrorCode::{NotFound, SandboxGone, UnknownSandbox};
    let data = Some(json!({"code": failure.code, "hint": failure.hint}));
    if [NotFound, SandboxGone, UnknownSandbox].into_iter().any(|code| failure.is(code)) {
        ErrorData::resource_not_found(failure.error, data)
    } else {
        ErrorData::internal_error(failure.error, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_name_what_they_were_made_of() {
        let uri = file_uri("sb_1", "/root/a b%é.txt");
        assert_eq!(uri, "emberd://sandboxes/sb_1/files/root/a%20b%25%C3%A9.txt");
        let (sandbox, path) = ("sb_1".to_owned(), "/root/a b%é.txt".as_bytes().to_vec());
        assert_eq!(Named::of(&uri), Some(Named::File { sandbox, path }));
        let output = Named::Output { sandbox: "sb_1".to_owned() };
        assert_eq!(Named::of("emberd://sandboxes/sb_1/outputs/r/0"), Some(output));
        for none in ["", "emberd://", "emberd://x", "file:///etc/passwd", "emberd://sandboxes/sb_1"]
        {
            assert_eq!(Named::of(none), None, "{none}");
        }
    }
}
