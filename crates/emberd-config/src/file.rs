//! The configuration file: TOML, whose keys are named as the flags are.

use std::ffi::OsString;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::definition::Definition;
use crate::definitions::DEFINITIONS;
use crate::form::Form;
use crate::given::{Given, Origin, place};
use crate::problem::Problem;

/// Largest configuration file, in bytes (1 MiB).
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Least likeness of a key to a known one that is worth a hint, from 0 to 1.
const LIKENESS_MIN: f64 = 0.6;

/// Reads the file at `path`; what is wrong with it is added to `problems`.
pub(crate) fn read(path: &Path, problems: &mut Vec<Problem>) -> Given {
    let text = match text(path) {
        Ok(text) => text,
        Err(error) => {
            let error = format!("cannot read {}: {error}", path.display());
            let hint = "name a readable file with --config".to_owned();
            problems.push(Problem { error, hint });
            return Given::default();
        }
    };
    parse(path, &text, problems)
}

fn text(path: &Path) -> std::io::Result<String> {
    let bytes = path.metadata()?.len();
    if bytes > FILE_BYTES_MAX {
        let error = format!("{bytes} bytes, over the limit of {FILE_BYTES_MAX}");
        return Err(std::io::Error::other(error));
    }
    std::fs::read_to_string(path)
}

pub(crate) fn parse(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Given {
    let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = error.span().map_or(1, |span| line(span.start));
        let error = format!("{}: {}", place(path, at), error.message());
        let hint = "write one `key = value` per line, with text in quotes".to_owned();
        problems.push(Problem { error, hint });
    }
    let mut given = Given::default();
    for (key, value) in table.get_ref() {
        let line = line(key.span().start);
        let Some(definition) = known(key.get_ref()) else {
            problems.push(unknown(&place(path, line), key.get_ref()));
            continue;
        };
        match values(definition, value) {
            Some(values) => {
                let origin = Origin::File { path: path.to_owned(), line };
                given.set_all(definition.key, values, origin);
            }
            None => problems.push(Problem {
                error: format!("{}: {} has the wrong type", place(path, line), definition.name),
                hint: format!("write {}", definition.form.toml()),
            }),
        }
    }
    given
}

fn known(name: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|definition| definition.name == name)
}

fn unknown(place: &str, name: &str) -> Problem {
    let likeness = |definition: &&Definition| strsim::jaro_winkler(definition.name, name);
    let nearest = DEFINITIONS.iter().filter(|definition| !definition.hidden);
    let nearest = nearest.max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    let hint = match nearest.filter(|definition| likeness(definition) >= LIKENESS_MIN) {
        Some(definition) => format!("did you mean `{}`?", definition.name),
        None => "`emberd config print` lists every option".to_owned(),
    };
    Problem { error: format!("{place}: unknown option `{name}`"), hint }
}

/// The texts of `value`; nothing if it has a type that its option does not take.
fn values(definition: &Definition, value: &Spanned<DeValue<'_>>) -> Option<Vec<OsString>> {
    match (&definition.form, value.get_ref()) {
        (Form::HostNames { .. } | Form::WebOrigins { .. }, DeValue::Array(items)) => {
            items.iter().map(|item| scalar(item.get_ref()).map(OsString::from)).collect()
        }
        (Form::AccessRules { .. }, DeValue::Array(items)) => {
            items.iter().map(|item| access_rule(item.get_ref()).map(OsString::from)).collect()
        }
        (Form::Flag, DeValue::Boolean(value)) => Some(vec![value.to_string().into()]),
        (form, DeValue::Integer(_)) if !form.takes_numbers() => None,
        (_, value) => Some(vec![scalar(value)?.into()]),
    }
}

/// The text of one `[[access]]`, or of a rule that is written as a text.
fn access_rule(item: &DeValue<'_>) -> Option<String> {
    let DeValue::Table(table) = item else { return scalar(item) };
    let get = |key: &str| table.get(key).and_then(|value| scalar(value.get_ref()));
    let role = get("role")?;
    match (get("uid"), get("gid"), table.len()) {
        (Some(uid), None, 2) => Some(format!("uid:{uid}={role}")),
        (None, Some(gid), 2) => Some(format!("gid:{gid}={role}")),
        _ => None,
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = i128::from_str_radix(number.as_str(), number.radix()).ok();
            Some(parsed.map_or_else(|| number.as_str().to_owned(), |number| number.to_string()))
        }
        _ => None,
    }
}
