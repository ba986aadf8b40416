//! Who may use the daemon, as configured.

use crate::definition::Key;
use crate::form::Form;
use crate::reader::{Reader, flag, utf8};
use crate::value::{AccessRule, Authentication};
use crate::web_origin::WebOrigin;

/// Whether callers over TCP need a key.
pub(super) fn authentication(read: &mut Reader<'_>) -> Authentication {
    if read.value(Key::InsecureNoAuth, flag) { Authentication::Off } else { Authentication::Keys }
}

/// Origins of web pages that may use the API.
pub(super) fn allowed_origins(read: &mut Reader<'_>) -> Vec<WebOrigin> {
    const KEY: Key = Key::AllowedOrigin;
    let Form::WebOrigins { most, bytes_max } = KEY.definition().form else { return Vec::new() };
    let texts = read.list(KEY);
    if texts.len() > most {
        let error = format!("{} origins, over the limit of {most}", texts.len());
        read.report(KEY, &error, "serve the pages from one origin, or by the daemon's own");
    }
    let mut origins = Vec::new();
    for text in &texts {
        let short = |text: &&str| text.len() <= bytes_max;
        let parsed = match utf8(text).map(|text| Some(text).filter(short)) {
            Ok(Some(text)) => text.parse(),
            Ok(None) => Err(format!("an origin of at most {bytes_max} bytes")),
            Err(expected) => Err(expected),
        };
        match parsed {
            Ok(origin) if origins.contains(&origin) => {}
            Ok(origin) => origins.push(origin),
            Err(expected) => read.refuse(KEY, text, &expected),
        }
    }
    origins
}

/// Users of the Unix socket who need no key.
pub(super) fn access(read: &mut Reader<'_>) -> Vec<AccessRule> {
    const KEY: Key = Key::Access;
    let Form::AccessRules { most } = KEY.definition().form else { return Vec::new() };
    let texts = read.list(KEY);
    if texts.len() > most {
        let error = format!("{} rules, over the limit of {most}", texts.len());
        read.report(KEY, &error, "name a group, or give users keys: emberctl key create");
    }
    let mut rules = Vec::new();
    for text in &texts {
        match utf8(text).and_then(str::parse) {
            Ok(rule) => rules.push(rule),
            Err(expected) => read.refuse(KEY, text, &expected),
        }
    }
    rules
}
