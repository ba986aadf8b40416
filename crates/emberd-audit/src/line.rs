//! One line: a record, its number, and the digest of the line before it.

use data_encoding::HEXLOWER;
use emberd_api::AuditRecord;
use sha2::{Digest as _, Sha256};

/// Longest line that is read, in bytes (64 KiB). What is written is far shorter: texts of callers
/// and guests are cut before they are recorded.
pub const LINE_BYTES_MAX: usize = 64 << 10;

/// The last line of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Number of the line; 0 before the first.
    pub seq: u64,
    /// SHA-256 of the line without its line feed, in hexadecimal.
    pub sha256: String,
}

impl Default for Head {
    fn default() -> Self {
        Self { seq: 0, sha256: "0".repeat(64) }
    }
}

impl Head {
    /// Reads what [`Self::text`] has written.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (seq, sha256) = text.trim_end().split_once(' ')?;
        let is_digest = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        let seq = seq.parse().ok().filter(|_| is_digest)?;
        Some(Self { seq, sha256: sha256.to_owned() })
    }

    /// Number and digest on one line.
    pub(crate) fn text(&self) -> String {
        format!("{} {}\n", self.seq, self.sha256)
    }

    /// Adds the line of `record`, which comes after this one, to `lines`, and goes on to it. The
    /// record gets its number and the digest; what it had of them before counts for nothing.
    pub(crate) fn append(&mut self, record: &mut AuditRecord, lines: &mut Vec<u8>) {
        record.seq = self.seq + 1;
        record.prev = std::mem::take(&mut self.sha256);
        let start = lines.len();
        serde_json::to_writer(&mut *lines, record).expect("records have string keys only");
        *self = Self { seq: record.seq, sha256: digest(&lines[start..]) };
        lines.push(b'\n');
    }
}

/// SHA-256 of a line without its line feed, in hexadecimal.
pub(crate) fn digest(line: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(line))
}

/// Reads a line.
pub(crate) fn parse(line: &[u8]) -> Option<AuditRecord> {
    serde_json::from_slice(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_the_digest_of_the_one_before() {
        let (mut head, mut lines) = (Head::default(), Vec::new());
        let mut record = AuditRecord { action: "a".to_owned(), ..AuditRecord::default() };
        head.append(&mut record, &mut lines);
        head.append(&mut record, &mut lines);
        let mut lines = lines.split(|byte| *byte == b'\n');
        let (first, second) = (lines.next().unwrap(), lines.next().unwrap());
        assert_eq!(parse(first).unwrap().prev, Head::default().sha256);
        assert_eq!(parse(second).unwrap().prev, digest(first));
        assert_eq!(head, Head { seq: 2, sha256: digest(second) });
        assert_eq!(Head::parse(&head.text()), Some(head));
        assert_eq!(Head::parse("1 abc"), None);
        // The vector of FIPS 180-2 for "abc".
        assert!(digest(b"abc").starts_with("ba7816bf8f01cfea414140de5dae2223"));
    }
}
