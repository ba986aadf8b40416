//! Who may use the daemon, as configured.

use crate::definition::Key;
use crate::form::Form;
use crate::reader::{Reader, flag, utf8};
use crate::value::{AccessRule, Authentication};

/// Whether callers over TCP need a key.
pub(super) fn authentication(read: &mut Reader<'_>) -> Authentication {
    if read.value(Key::InsecureNoAuth, flag) { Authentication::Off } else { Authentication::Keys }
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
