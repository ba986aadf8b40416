//! The answer of a tool that shows what a program did: words of ours, text of the guest between
//! fences, images as image blocks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use emberd_api::{EgressDenials, EgressReason, Forms};
use rmcp::model::{CallToolResult, ContentBlock, Resource};

use crate::text::{Kept, OUTPUT_CHARS, OUTPUT_CHARS_MAX, fenced, one_line, shares};

/// Largest image in an answer, in bytes (512 KiB); larger ones are linked.
pub const IMAGE_BYTES_MAX: usize = 512 << 10;

/// Most images in an answer; further ones are linked.
pub const IMAGES_MAX: usize = 4;

/// Forms of a value that models can see, best first.
const IMAGE_FORMS: [&str; 4] = ["image/png", "image/jpeg", "image/webp", "image/gif"];

/// An image of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// MIME type.
    pub mime_type: &'static str,
    /// The image in base64, without line feeds.
    pub base64: String,
}

impl Image {
    /// The image among the forms of a value; none if it has none.
    pub fn of(forms: &Forms) -> Option<Self> {
        IMAGE_FORMS.into_iter().find_map(|mime_type| {
            let mut base64: String = forms.get(mime_type)?;
            base64.retain(|character| !character.is_ascii_whitespace());
            BASE64.decode(&base64).ok()?;
            Some(Self { mime_type, base64 })
        })
    }

    /// The image in `bytes`, recognised by how they begin; none if they are none.
    pub fn recognise(bytes: &[u8]) -> Option<Self> {
        let mime_type = match bytes {
            [0x89, b'P', b'N', b'G', ..] => "image/png",
            [0xff, 0xd8, 0xff, ..] => "image/jpeg",
            _ => return None,
        };
        Some(Self { mime_type, base64: BASE64.encode(bytes) })
    }

    /// Size in bytes, not in base64.
    pub fn bytes(&self) -> usize {
        self.base64.len() / 4 * 3
    }

    /// The image as a block.
    pub fn into_block(self) -> ContentBlock {
        ContentBlock::image(self.base64, self.mime_type)
    }
}

/// How many characters a call asks for; a refusal's words if it asks for too many.
pub fn budget(max_output: Option<usize>) -> usize {
    max_output.unwrap_or(OUTPUT_CHARS).clamp(1, OUTPUT_CHARS_MAX)
}

/// An answer that grows.
#[derive(Debug, Default)]
pub struct Answer {
    head: Vec<String>,
    texts: Vec<(&'static str, Kept)>,
    notes: Vec<String>,
    blocks: Vec<ContentBlock>,
}

impl Answer {
    /// An answer that begins with `line`.
    pub fn of(line: impl Into<String>) -> Self {
        Self { head: vec![line.into()], ..Self::default() }
    }

    /// Adds a line of ours before the texts.
    pub fn line(&mut self, line: impl Into<String>) {
        self.head.push(line.into());
    }

    /// Adds a text of the guest, if there is any.
    pub fn text(&mut self, label: &'static str, text: Kept) {
        if text.chars() > 0 {
            self.texts.push((label, text));
        }
    }

    /// Adds a line of ours after the texts.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Adds a block after all text.
    pub fn block(&mut self, block: ContentBlock) {
        self.blocks.push(block);
    }

    /// Says which destinations were denied, and what allows them.
    pub fn denials(&mut self, denials: &EgressDenials) {
        for denied in &denials.egress_denied {
            let port = denied.port.map(|port| format!(":{port}")).unwrap_or_default();
            let host = one_line(&denied.host, 253);
            let what = format!("network: {host}{port} was denied ({})", reason(denied.reason));
            self.notes.push(match denied.entry() {
                Some(entry) => format!(
                    "{what}; the entry that allows it is `{}`: create_sandbox takes it in \
                     `network`, and a user adds it by `emberctl egress allow`",
                    one_line(&entry, 300)
                ),
                None => what,
            });
        }
    }

    /// Number of characters of the guest's texts beyond `budget`.
    pub fn left_out(&self, budget: usize) -> usize {
        self.texts.iter().map(|(_, text)| text.chars()).sum::<usize>().saturating_sub(budget)
    }

    /// The texts of the guest, whole as far as they are kept.
    pub fn texts(&self) -> String {
        let texts = self.texts.iter().map(|(_, text)| text.all().0);
        texts.collect::<Vec<_>>().join("\n")
    }

    /// The result, with at most `budget` characters of the guest's texts. `rest` says where what
    /// was left out is.
    pub fn into_result(mut self, budget: usize, rest: Option<&str>) -> CallToolResult {
        let lengths: Vec<_> = self.texts.iter().map(|(_, text)| text.chars()).collect();
        let mut lines = std::mem::take(&mut self.head);
        let mut left_out = 0;
        for ((label, text), share) in self.texts.iter().zip(shares(&lengths, budget)) {
            let cut = text.cut(share);
            left_out += cut.left_out;
            lines.push(fenced(label, &cut.text));
        }
        if left_out > 0 {
            let rest = rest.map(|rest| format!("; the rest: {rest}")).unwrap_or_default();
            lines.push(format!("{left_out} characters were left out{rest}"));
        }
        lines.append(&mut self.notes);
        let mut content = vec![ContentBlock::text(lines.join("\n"))];
        content.append(&mut self.blocks);
        CallToolResult::success(content)
    }
}

/// Name of a reason, as in JSON.
fn reason(reason: EgressReason) -> String {
    let name = serde_json::to_value(reason).ok();
    name.and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A link to a resource of `bytes`.
pub fn link(uri: String, name: &str, mime_type: Option<&str>, bytes: u64) -> ContentBlock {
    let mut resource = Resource::new(uri, name).with_size(bytes);
    if let Some(mime_type) = mime_type {
        resource = resource.with_mime_type(mime_type);
    }
    ContentBlock::resource_link(resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> Kept {
        let mut kept = Kept::default();
        kept.push(text);
        kept
    }

    #[test]
    fn texts_stand_between_fences_and_share_the_budget() {
        let mut answer = Answer::of("exit code 0");
        answer.text("stdout", kept(&"x".repeat(100)));
        answer.text("stderr", kept("oh\n"));
        answer.text("nothing", kept(""));
        assert_eq!(answer.left_out(30), 73);
        let result = answer.into_result(30, Some("elsewhere"));
        let text = &result.content[0].as_text().unwrap().text;
        let expect = [
            "exit code 0\n```stdout\nxxxxxxxxx\n[... 73 characters left out ...]\n",
            "xxxxxxxxxxxxxxxxxx\n```\n```stderr\noh\n```\n",
            "73 characters were left out; the rest: elsewhere",
        ];
        assert_eq!(text, &expect.concat());
        assert!(result.structured_content.is_none() && result.is_error != Some(true));
    }

    #[test]
    fn images_are_blocks_and_their_base64_is_checked() {
        let forms = |json: &'static str| serde_json::from_str::<Forms>(json).unwrap();
        let image = Image::of(&forms(r#"{"text/plain":"<Figure>","image/png":"iVBO\nRw0K"}"#));
        let image = image.unwrap();
        assert_eq!((image.bytes(), image.mime_type), (6, "image/png"));
        assert!(image.into_block().as_image().is_some_and(|image| image.data == "iVBORw0K"));
        assert_eq!(Image::of(&forms(r#"{"image/png":"no base64!"}"#)), None);
        assert_eq!(Image::of(&forms(r#"{"image/svg+xml":"<svg/>"}"#)), None);
        assert_eq!(Image::recognise(b"\x89PNG\r\n").unwrap().mime_type, "image/png");
        assert_eq!(Image::recognise(b"text"), None);
    }
}
