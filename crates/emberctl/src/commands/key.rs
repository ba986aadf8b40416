//! `emberctl key`: access keys, in the data directory of the daemon. They need no daemon.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use emberd_image::DataDir;
use emberd_keys::{
    EditError, Form, KeyLimits, KeyName, KeyRecord, KeysFile, NewKey, Role, Scope, Secret, create,
    limit, list, remove, rotate,
};
use serde::Serialize;

use crate::output::{self, Clock, Output};
use crate::report::Hinted;

mod limits;

use limits::Setting;

/// Role of a key that is given neither a role nor a scope.
const ROLE_DEFAULT: Role = Role::User;

/// Commands on access keys.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create a key and print its secret, which is shown only once.
    ///
    /// As soon as there is a key, requests over TCP need one.
    Create(CreateArgs),
    /// List the keys.
    Ls,
    /// Remove keys. Their streams end; only an administrator reaches their sandboxes from then on.
    Rm(RmArgs),
    /// Replace the secret of a key and print the new one. The old one is worth nothing any more;
    /// the sandboxes stay those of the key.
    Rotate(RotateArgs),
    /// Change the limits of a key. A running daemon heeds them at once; what exists stays.
    Limit(LimitArgs),
}

/// Arguments of `key create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Name of the key: letters, digits and `._@-`.
    name: KeyName,
    /// viewer (shows), user (works with its own sandboxes), operator (also builds templates) or
    /// admin (everything, with everybody's sandboxes) [default: user, without --scope].
    #[arg(long)]
    role: Option<Role>,
    /// Scope such as sandbox:read, or a group of them such as sandbox:*; may be repeated.
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// Time after which the key ends, such as 90d or 12h [default: never].
    #[arg(long, value_name = "TIME", value_parser = emberd_config::duration::parse)]
    expires: Option<Duration>,
    /// Most of something that all sandboxes of the key may have, or that the key may do; may be
    /// repeated: `sandboxes`, `vcpus`, `memory_mib`, `disk_gib`, `timeout` (of one sandbox, such as
    /// 2h), `creates_per_minute`, `requests`, `packs` (python,shell), `egress` (profiles and
    /// entries).
    #[arg(long, value_name = "NAME=VALUE")]
    limit: Vec<Setting>,
    /// Write the key as the SDKs of E2B expect it.
    #[arg(long)]
    e2b: bool,
}

/// Arguments of `key rm`.
#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// The keys, by name or id.
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
}

/// Arguments of `key rotate`.
#[derive(Debug, clap::Args)]
pub struct RotateArgs {
    /// The key, by name or id.
    #[arg(value_name = "KEY")]
    key: String,
    /// Time after which the key ends, from now on [default: as before].
    #[arg(long, value_name = "TIME", value_parser = emberd_config::duration::parse)]
    expires: Option<Duration>,
}

/// Arguments of `key limit`.
#[derive(Debug, clap::Args)]
pub struct LimitArgs {
    /// The key, by name or id.
    #[arg(value_name = "KEY")]
    key: String,
    /// The new limits, as for `key create --limit`. NAME=off lifts one; others stay.
    #[arg(required = true, value_name = "NAME=VALUE")]
    limits: Vec<Setting>,
}

/// A key in JSON output: everything but what is kept of its secret.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    scopes: Vec<Scope>,
    #[serde(skip_serializing_if = "KeyLimits::is_none")]
    limits: &'a KeyLimits,
    created_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotated_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<u64>,
    is_expired: bool,
    /// The one time that it is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
}

impl<'a> Shown<'a> {
    fn new(record: &'a KeyRecord, secret: Option<&'a Secret>) -> Self {
        Self {
            id: record.id.as_str(),
            name: record.name.as_str(),
            role: record.role,
            scopes: record.permitted().iter().collect(),
            limits: &record.limits,
            created_at_ms: record.created_at_ms,
            rotated_at_ms: record.rotated_at_ms,
            expires_at_ms: record.expires_at_ms,
            is_expired: record.is_expired(Clock::now().as_ms()),
            key: secret.map(Secret::expose),
        }
    }
}

/// The JSON output of `key ls`.
#[derive(Serialize)]
struct Listed<'a> {
    keys: Vec<Shown<'a>>,
}

/// The JSON output of `key rm`.
#[derive(Serialize)]
struct Removed<'a> {
    removed: Vec<&'a str>,
}

/// Carries out `command` on the keys in `data_dir`.
///
/// # Errors
/// The keys cannot be read or written, or the command cannot be meant.
pub fn run(command: Command, data_dir: &DataDir, output: Output) -> anyhow::Result<ExitCode> {
    let file = KeysFile::new(data_dir.path());
    match command {
        Command::Create(args) => {
            let (record, secret) = create(&file, new_key(args)?).map_err(hinted)?;
            print_secret(&file, &record, &secret, output)?;
        }
        Command::Rotate(RotateArgs { key, expires }) => {
            let (record, secret) = rotate(&file, &key, expires).map_err(hinted)?;
            print_secret(&file, &record, &secret, output)?;
        }
        Command::Limit(LimitArgs { key, limits: settings }) => {
            limits::check(&settings)?;
            let record = limit(&file, &key, |limits| limits::apply(settings, limits));
            let record = record.map_err(hinted)?;
            output.print(&Shown::new(&record, None), || {
                format!("{}: {}\n", record.name, limits::text(&record.limits))
            })?;
        }
        Command::Ls => {
            let keys = list(&file).map_err(|error| hinted(error.into()))?;
            let keys = keys.unwrap_or_default();
            let shown = Listed { keys: keys.iter().map(|key| Shown::new(key, None)).collect() };
            output.print(&shown, || text(&keys))?;
        }
        Command::Rm(RmArgs { keys }) => {
            let removed = remove(&file, &keys).map_err(hinted)?;
            let removed = Removed { removed: removed.iter().map(|key| key.id.as_str()).collect() };
            output
                .print(&removed, || removed.removed.iter().flat_map(|id| [*id, "\n"]).collect())?;
            warn_of_none(&file);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn new_key(args: CreateArgs) -> anyhow::Result<NewKey> {
    let CreateArgs { name, role, scope, expires, limit, e2b } = args;
    let mut limits = KeyLimits::default();
    limits::check(&limit)?;
    limits::apply(limit, &mut limits);
    let mut scopes = Vec::new();
    for text in &scope {
        scopes.extend(Scope::matching(text)?);
    }
    scopes.sort_unstable();
    scopes.dedup();
    let role = role.or(scopes.is_empty().then_some(ROLE_DEFAULT));
    let form = if e2b { Form::E2b } else { Form::Emb };
    Ok(NewKey { name, form, role, scopes, limits, ttl: expires })
}

/// Prints the secret alone on standard output, and what it is on standard error.
fn print_secret(
    file: &KeysFile,
    record: &KeyRecord,
    secret: &Secret,
    output: Output,
) -> anyhow::Result<()> {
    output.print(&Shown::new(record, Some(secret)), || format!("{}\n", secret.expose()))?;
    if !output.json {
        let (id, name, path) = (record.id, &record.name, file.path().display());
        anstream::eprintln!("key {name} ({id}) in {path}; its secret is shown only this once");
    }
    Ok(())
}

/// Without keys, TCP does not open again by itself.
fn warn_of_none(file: &KeysFile) {
    if matches!(list(file), Ok(Some(keys)) if keys.is_empty()) {
        let path = file.path().display();
        anstream::eprintln!(
            "no key is left, and TCP still needs one; to do without, remove {path} and restart emberd"
        );
    }
}

fn text(keys: &[KeyRecord]) -> String {
    let clock = Clock::now();
    let row = |key: &KeyRecord| {
        let expires = match key.expires_at_ms {
            None => "never".to_owned(),
            Some(_) if key.is_expired(clock.as_ms()) => "expired".to_owned(),
            Some(at_ms) => format!("in {}", clock.until(at_ms)),
        };
        let age = clock.age(key.created_at_ms);
        let limits = limits::text(&key.limits);
        [key.id.to_string(), key.name.to_string(), permitted(key), age, expires, limits]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    output::table(["ID", "NAME", "PERMITS", "AGE", "EXPIRES", "LIMITS"], &rows)
}

/// The role and the scopes beside it.
fn permitted(key: &KeyRecord) -> String {
    let mut text = key.role.map_or_else(String::new, |role| role.name().to_owned());
    for scope in &key.scopes {
        let comma = if text.is_empty() { "" } else { ", " };
        write!(text, "{comma}{scope}").expect("strings take everything");
    }
    text
}

fn hinted(error: EditError) -> anyhow::Error {
    match error.hint() {
        Some(hint) => Hinted { message: emberd_api::chain(&error), hint: hint.to_owned() }.into(),
        None => error.into(),
    }
}
