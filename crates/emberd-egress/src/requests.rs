//! Which HTTP requests an entry allows, where HTTP is read.

use std::sync::Arc;

use emberd_proto::EgressReason;

/// The HTTP requests that a connection may make; all by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requests {
    /// Requests that the entries that match allow; none for all.
    own: Option<Arc<[RequestRule]>>,
    /// Requests that the operator's ceiling allows; none for all.
    ceiling: Option<Arc<[RequestRule]>>,
}

/// Requests of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RequestRule {
    /// The methods; empty for all.
    methods: Vec<String>,
    /// The patterns of paths; empty for all.
    paths: Vec<String>,
}

impl Requests {
    /// Requests of these methods to paths of these patterns; an empty list stands for all.
    pub fn new(methods: &[String], paths: &[String]) -> Self {
        if methods.is_empty() && paths.is_empty() {
            return Self::default();
        }
        let rule = RequestRule { methods: methods.to_vec(), paths: paths.to_vec() };
        Self { own: Some(Arc::from([rule])), ceiling: None }
    }

    /// Whether every request is allowed.
    pub fn is_all(&self) -> bool {
        self.own.is_none() && self.ceiling.is_none()
    }

    /// Whether a request is allowed. `path` is without the query.
    ///
    /// # Errors
    /// [`EgressReason::MethodNotAllowed`] or [`EgressReason::PathNotAllowed`].
    pub fn permit(&self, method: &str, path: &str) -> Result<(), EgressReason> {
        let rules = [&self.own, &self.ceiling].into_iter().flatten();
        rules.into_iter().try_for_each(|rules| permit(rules, method, path))
    }

    /// Adds requests that another entry allows.
    pub(crate) fn add(&mut self, other: &Self) {
        self.own = match (self.own.take(), &other.own) {
            (Some(own), Some(others)) if own == *others => Some(own),
            (Some(own), Some(others)) => Some(own.iter().chain(others.iter()).cloned().collect()),
            _ => None,
        };
    }

    /// Leaves those that the operator's ceiling allows, too.
    pub(crate) fn stay_below(&mut self, ceiling: &Self) {
        self.ceiling.clone_from(&ceiling.own);
    }
}

fn permit(rules: &[RequestRule], method: &str, path: &str) -> Result<(), EgressReason> {
    let mut reason = EgressReason::MethodNotAllowed;
    for rule in rules {
        if !rule.methods.is_empty() && rule.methods.iter().all(|allowed| allowed != method) {
            continue;
        }
        let is_at = |pattern: &String| matches(pattern.as_bytes(), path.as_bytes());
        if rule.paths.is_empty() || is_plain(path) && rule.paths.iter().any(is_at) {
            return Ok(());
        }
        reason = EgressReason::PathNotAllowed;
    }
    Err(reason)
}

/// Whether servers agree on what a path names. Dot segments, encoded dots and slashes, empty
/// segments and backslashes are resolved by some: a path with them could lead out of a pattern.
fn is_plain(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let has_encoded = ["%2e", "%2f", "%5c", "\\"].iter().any(|text| lower.contains(text));
    let is_dots = |segment: &str| matches!(segment, "." | "..");
    let (before, last) = path.strip_prefix('/').unwrap_or(path).rsplit_once('/').unzip();
    !has_encoded
        && !is_dots(last.unwrap_or(path.trim_start_matches('/')))
        && before.is_none_or(|before| {
            before.split('/').all(|segment| !segment.is_empty() && !is_dots(segment))
        })
}

/// Whether `text` matches `pattern`, in which `*` stands for any number of any bytes.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut of) = (0, 0);
    // Where the last star stands, and where the text goes on that it does not stand for.
    let mut star: Option<(usize, usize)> = None;
    while of < text.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, of));
            at += 1;
        } else if pattern.get(at) == Some(&text[of]) {
            (at, of) = (at + 1, of + 1);
        } else if let Some((star_at, from)) = star {
            star = Some((star_at, from + 1));
            (at, of) = (star_at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn requests(methods: &[&str], paths: &[&str]) -> Requests {
        Requests::new(&texts(methods), &texts(paths))
    }

    #[test]
    fn a_star_stands_for_any_bytes() {
        for (pattern, text, expected) in [
            ("/a/*", "/a/", true),
            ("/a/*", "/a/b/c", true),
            ("/a/*", "/a", false),
            ("/a*c", "/abcbc", true),
            ("/a*c", "/abcb", false),
            ("*", "", true),
            ("/*/x/*", "/1/2/x/3", true),
            ("/a", "/ab", false),
            ("/ab", "/a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn methods_and_paths_hold_together() {
        let read = requests(&["GET"], &["/a/*"]);
        assert_eq!(read.permit("GET", "/a/b"), Ok(()));
        assert_eq!(read.permit("POST", "/a/b"), Err(EgressReason::MethodNotAllowed));
        assert_eq!(read.permit("GET", "/b"), Err(EgressReason::PathNotAllowed));
        // Two entries do not add up to a third that nobody wrote.
        let mut both = read.clone();
        both.add(&requests(&["POST"], &["/b"]));
        assert_eq!(both.permit("POST", "/b"), Ok(()));
        assert_eq!(both.permit("GET", "/b"), Err(EgressReason::PathNotAllowed));
        assert_eq!(both.permit("POST", "/a/b"), Err(EgressReason::PathNotAllowed));
        both.add(&Requests::default());
        assert!(both.is_all());
        both.stay_below(&read);
        assert_eq!(both.permit("GET", "/a/b"), Ok(()));
        assert_eq!(both.permit("GET", "/b"), Err(EgressReason::PathNotAllowed));
    }

    #[test]
    fn a_path_does_not_lead_out_of_its_pattern() {
        let below = requests(&[], &["/a/*"]);
        for path in
            ["/a/../b", "/a/..", "/a/./b", "/a/%2e%2E/b", "/a/..%2fb", "/a//b", "/a/\\..\\b"]
        {
            assert_eq!(below.permit("GET", path), Err(EgressReason::PathNotAllowed), "{path}");
        }
        for path in ["/a/", "/a/b.c", "/a/..b", "/a/b%20c"] {
            assert_eq!(below.permit("GET", path), Ok(()), "{path}");
        }
    }
}
