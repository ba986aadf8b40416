//! Sets of ports: `443`, `8000-8100`, `80,443`, `*`.

use std::fmt;

/// Most ranges of one set.
pub const PORT_RANGES_MAX: usize = 32;

/// A set of ports, as disjoint ranges in ascending order. Port 0 is in none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSet(Vec<(u16, u16)>);

/// A text that is not a set of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    /// A part is neither a port nor a range.
    #[error("ports are numbers from 1 to 65535, ranges such as 8000-8100, lists of them, or `*`")]
    Form,
    /// A range ends before it begins.
    #[error("the range of ports {0}-{1} ends before it begins")]
    Reversed(u16, u16),
    /// The list is too long.
    #[error("a list of ports has at most {PORT_RANGES_MAX} ranges")]
    TooMany,
}

impl PortSet {
    /// Ports 80 and 443: those of an allowed host that names none.
    pub fn web() -> Self {
        Self(vec![(80, 80), (443, 443)])
    }

    /// All ports: those of a denied host that names none.
    pub fn all() -> Self {
        Self(vec![(1, u16::MAX)])
    }

    /// Parses a set.
    ///
    /// # Errors
    /// [`PortsError`].
    pub fn parse(text: &str) -> Result<Self, PortsError> {
        if text == "*" {
            return Ok(Self::all());
        }
        if text.split(',').count() > PORT_RANGES_MAX {
            return Err(PortsError::TooMany);
        }
        let mut ranges = text.split(',').map(range).collect::<Result<Vec<_>, _>>()?;
        ranges.sort_unstable();
        Ok(Self(merged(ranges)))
    }

    /// Returns the ranges, in ascending order.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// Whether the sets have a port in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|(first, last)| other.0.iter().any(|(f, l)| first <= l && f <= last))
    }

    /// Whether every port of this set is in one of `others`.
    pub fn is_within<'a>(&self, others: impl Iterator<Item = &'a Self>) -> bool {
        let mut ranges: Vec<_> = others.flat_map(|other| other.0.iter().copied()).collect();
        ranges.sort_unstable();
        let ranges = merged(ranges);
        let holds =
            |(first, last): &(u16, u16)| ranges.iter().any(|(f, l)| f <= first && last <= l);
        self.0.iter().all(holds)
    }
}

fn range(text: &str) -> Result<(u16, u16), PortsError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first <= last { Ok((first, last)) } else { Err(PortsError::Reversed(first, last)) }
}

fn port(text: &str) -> Result<u16, PortsError> {
    // `parse` alone would take `+443`.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| is_number && *port != 0);
    port.ok_or(PortsError::Form)
}

/// Joins ranges that overlap or touch, of those in ascending order.
fn merged(ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    let mut joined: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == [(1, u16::MAX)] {
            return f.write_str("*");
        }
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{first}")?;
            if first != last {
                write!(f, "-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_printed_in_one_form() {
        for (text, printed) in [
            ("443", "443"),
            ("443,80", "80,443"),
            ("80,81,82", "80-82"),
            ("8000-8100,8050-8200", "8000-8200"),
            ("1-65535", "*"),
            ("*", "*"),
            ("0443", "443"),
        ] {
            assert_eq!(PortSet::parse(text).unwrap().to_string(), printed, "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "0", "65536", "a", "80,", "80-", "-80", "+80", " 80", "80-*", "1-2-3"] {
            assert_eq!(PortSet::parse(text), Err(PortsError::Form), "{text}");
        }
        assert_eq!(PortSet::parse("90-80"), Err(PortsError::Reversed(90, 80)));
        let list = vec!["1"; PORT_RANGES_MAX + 1].join(",");
        assert_eq!(PortSet::parse(&list), Err(PortsError::TooMany));
    }

    #[test]
    fn sets_are_compared_as_sets() {
        let set = |text| PortSet::parse(text).unwrap();
        assert!(set("80-90").overlaps(&set("1-79,90")));
        assert!(!set("80-90").overlaps(&set("1-79,91")));
        assert!(set("80,443").is_within([set("1-100"), set("101-500")].iter()));
        assert!(set("50-150").is_within([set("1-100"), set("101-500")].iter()));
        assert!(!set("80,443").is_within([set("80")].iter()));
        assert!(!set("80").is_within(std::iter::empty()));
    }
}
