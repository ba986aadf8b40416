//! The `Range` of a request (RFC 9110 §14): one range of bytes. Any other range is ignored.

/// The range begins after the end of the file, whose size in bytes this is.
#[derive(Debug, thiserror::Error)]
#[error("the range begins after the end of the file, which has {0} bytes")]
pub struct RangeError(pub u64);

/// Range of bytes that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// Offset of the first byte, and number of bytes; all the rest when absent.
    From(u64, Option<u64>),
    /// The last bytes of the file, by their number.
    Last(u64),
}

impl Range {
    /// Reads one range of bytes; none if the header is anything else.
    pub fn parse(header: &str) -> Option<Self> {
        let range = header.trim().strip_prefix("bytes=")?;
        let (first, last) = range.trim().split_once('-')?;
        match (first, last) {
            ("", last) => Some(Self::Last(number(last)?)),
            (first, "") => Some(Self::From(number(first)?, None)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                let length = last.checked_sub(first)?.saturating_add(1);
                Some(Self::From(first, Some(length)))
            }
        }
    }
}

/// Reads digits. A number too large for any file is the largest.
fn number(digits: &str) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_heard() {
        for (header, expect) in [
            ("bytes=0-0", Some(Range::From(0, Some(1)))),
            ("bytes=5-", Some(Range::From(5, None))),
            ("bytes=-7", Some(Range::Last(7))),
            ("bytes=0-18446744073709551615", Some(Range::From(0, Some(u64::MAX)))),
            ("bytes=99999999999999999999-", Some(Range::From(u64::MAX, None))),
            ("bytes=2-1", None),
            ("bytes=0-1,3-4", None),
            ("bytes=-", None),
            ("bytes=+1-2", None),
            ("lines=0-1", None),
            ("", None),
        ] {
            assert_eq!(Range::parse(header), expect, "{header}");
        }
    }
}
