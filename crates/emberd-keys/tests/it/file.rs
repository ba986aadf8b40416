//! The file of keys: changed by several writers, torn, empty, unreadable, full.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::thread;
use std::time::Duration;

use emberd_keys::{
    EditError, FILE_NAME, Form, KEYS_MAX, KeyRecord, KeysError, KeysFile, NewKey, Presented, Role,
    Scope, create, list, remove, rotate,
};
use tempfile::TempDir;

fn room() -> (TempDir, KeysFile) {
    let dir = tempfile::tempdir().unwrap();
    let file = KeysFile::new(dir.path());
    (dir, file)
}

fn new(name: &str) -> NewKey {
    NewKey::of_role(name.parse().unwrap(), Role::User)
}

fn names(file: &KeysFile) -> Vec<String> {
    let keys = list(file).unwrap().unwrap_or_default();
    keys.iter().map(|key| key.name.to_string()).collect()
}

fn mode(dir: &TempDir) -> u32 {
    fs::metadata(dir.path().join(FILE_NAME)).unwrap().permissions().mode() & 0o7777
}

#[test]
fn keys_are_created_rotated_and_removed() {
    let (dir, file) = room();
    assert!(list(&file).unwrap().is_none());
    let (first, secret) = create(&file, new("ci")).unwrap();
    assert_eq!(mode(&dir), 0o600);
    assert_eq!(first.sha256, Presented::parse(secret.expose().as_bytes()).unwrap().digest);
    let e2b = NewKey { form: Form::E2b, scopes: vec![Scope::MetricsRead], ..new("sdk") };
    let ttl = Some(Duration::from_secs(60));
    let (second, other) = create(&file, NewKey { role: None, ttl, ..e2b }).unwrap();
    assert!(other.expose().starts_with("e2b_"));
    assert_eq!(second.expires_at_ms, Some(second.created_at_ms + 60_000));
    assert!(second.permitted().permits(Scope::MetricsRead));
    assert!(!second.permitted().permits(Scope::SandboxRead));
    assert!(first.permitted().permits(Scope::SandboxUse));
    // What was read back is what was made, and has no secret.
    assert_eq!(list(&file).unwrap().unwrap(), [first.clone(), second.clone()]);
    let text = fs::read_to_string(file.path()).unwrap();
    let random = |secret: &str| secret[13..].to_owned();
    assert!(!text.contains(&random(secret.expose())) && !text.contains(&random(other.expose())));

    let (rotated, again) = rotate(&file, "ci", None).unwrap();
    assert_eq!((rotated.id, &rotated.name), (first.id, &first.name));
    assert_ne!(rotated.sha256, first.sha256);
    assert_eq!(rotated.sha256, again.digest());
    let (rotated, again) = rotate(&file, second.id.as_str(), Some(Duration::from_secs(7))).unwrap();
    assert!(again.expose().starts_with("e2b_") && rotated.expires_at_ms.is_some());

    let gone = remove(&file, &[second.id.to_string(), "ci".to_owned()]).unwrap();
    assert_eq!(gone.iter().map(|key| key.id).collect::<Vec<_>>(), [second.id, first.id]);
    // The file stays: without keys, not without a need for one.
    assert_eq!(list(&file).unwrap(), Some(Vec::new()));
}

#[test]
fn what_cannot_be_meant_changes_nothing() {
    let (_dir, file) = room();
    create(&file, new("ci")).unwrap();
    let before = fs::read(file.path()).unwrap();
    assert!(matches!(create(&file, new("ci")), Err(EditError::NameTaken(_))));
    let powerless = NewKey { role: None, ..new("x") };
    assert!(matches!(create(&file, powerless), Err(EditError::Powerless)));
    for seconds in [0, u64::MAX] {
        let ttl = Some(Duration::from_secs(seconds));
        assert!(matches!(create(&file, NewKey { ttl, ..new("x") }), Err(EditError::Ttl)));
        assert!(matches!(rotate(&file, "ci", ttl), Err(EditError::Ttl)));
    }
    assert!(matches!(rotate(&file, "x", None), Err(EditError::NoSuchKey(_))));
    let some = ["ci".to_owned(), "x".to_owned()];
    assert!(matches!(remove(&file, &some), Err(EditError::NoSuchKey(_))));
    assert_eq!(fs::read(file.path()).unwrap(), before);
}

#[test]
fn writers_at_once_lose_nothing() {
    let (dir, file) = room();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let file = file.clone();
            thread::spawn(move || {
                for n in 0..5 {
                    create(&file, new(&format!("{writer}-{n}"))).unwrap();
                }
                remove(&file, &[format!("{writer}-0")]).unwrap();
            })
        })
        .collect();
    // A reader finds a whole file at any moment.
    while writers.iter().any(|writer| !writer.is_finished()) {
        list(&file).unwrap();
    }
    for writer in writers {
        writer.join().unwrap();
    }
    let names = names(&file);
    let distinct: BTreeSet<_> = names.iter().collect();
    assert_eq!((names.len(), distinct.len()), (32, 32));
    assert!(!dir.path().join("keys.json.new").exists());
}

#[test]
fn a_writer_that_was_killed_is_in_nobodys_way() {
    let (dir, file) = room();
    create(&file, new("ci")).unwrap();
    fs::write(dir.path().join("keys.json.new"), "{\"version\":1,\"ke").unwrap();
    create(&file, new("other")).unwrap();
    assert_eq!(names(&file), ["ci", "other"]);
}

/// Checks that `content` is refused with an error that has `expect`, by readers and writers, and
/// stays as it is.
#[track_caller]
fn refused(content: &str, expect: &str) {
    let (_dir, file) = room();
    create(&file, new("ci")).unwrap();
    fs::write(file.path(), content).unwrap();
    let error = list(&file).unwrap_err();
    let shown = format!("{error}: {:?}", std::error::Error::source(&error));
    assert!(shown.contains(expect) && shown.contains(FILE_NAME), "{shown}, not {expect}");
    assert!(!error.hint().is_empty());
    assert!(matches!(create(&file, new("x")), Err(EditError::Keys(_))));
    assert_eq!(fs::read_to_string(file.path()).unwrap(), content);
}

#[test]
fn a_file_that_is_not_whole_is_refused() {
    let (_dir, file) = room();
    create(&file, new("ci")).unwrap();
    let whole = fs::read_to_string(file.path()).unwrap();
    for bytes in [0, 1, whole.len() / 2, whole.trim_end().len() - 1] {
        refused(&whole[..bytes], "is not a file of keys");
    }
    refused(&format!("{whole}{{}}"), "is not a file of keys");
    refused("[]", "is not a file of keys");
    refused(&whole.replace("\"version\": 1", "\"version\": 2"), "is of version 2, not 1");
    // What limits a key is not left out.
    refused(&whole.replace("\"role\"", "\"rule\""), "unknown field `rule`");
    refused(&whole.replace("\"user\"", "\"root\""), "unknown variant `root`");
    refused(&whole.replace("\"ci\"", "\"c i\""), "the name of a key is");
    let key = &whole[whole.find("    {").unwrap()..whole.find("  ]").unwrap()];
    let twice = whole.replace(key, &format!("{},{key}", key.trim_end()));
    refused(&twice, "two keys with the id");
}

#[test]
fn a_file_that_others_can_read_or_that_is_none_is_refused() {
    let (dir, file) = room();
    create(&file, new("ci")).unwrap();
    for mode in [0o640, 0o604, 0o620, 0o666] {
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        let error = list(&file).unwrap_err();
        assert!(error.to_string().contains(&format!("has mode {mode:o}, not 600")), "{error}");
    }
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(names(&file), ["ci"]);
    if rustix::process::geteuid().is_root() {
        chown(file.path(), Some(12_345), None).unwrap();
        assert!(matches!(list(&file), Err(KeysError::Owner { uid: 12_345, .. })));
        // The owner of the directory is the user of the daemon, whom root makes keys for.
        chown(dir.path(), Some(12_345), Some(12_345)).unwrap();
        assert_eq!(names(&file), ["ci"]);
        create(&file, new("other")).unwrap();
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(file.path()).unwrap());
        assert_eq!((owner, mode(&dir)), (12_345, 0o600));
    }
    fs::remove_file(file.path()).unwrap();
    fs::create_dir(file.path()).unwrap();
    assert!(matches!(list(&file), Err(KeysError::NotAFile(_) | KeysError::Read { .. })));
    fs::remove_dir(file.path()).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(file.path()).status().unwrap();
    assert!(pipe.success());
    assert!(matches!(list(&file), Err(KeysError::NotAFile(_))));
}

#[test]
fn the_most_keys_are_written_and_one_more_is_refused() {
    let (_dir, file) = room();
    let (pattern, _) = create(&file, new("0")).unwrap();
    let keys: Vec<KeyRecord> = (0..KEYS_MAX)
        .map(|n| KeyRecord {
            id: format!("{n:08}").parse().unwrap(),
            name: format!("{n:0>64}").parse().unwrap(),
            scopes: Scope::ALL.to_vec(),
            ..pattern.clone()
        })
        .collect();
    let write = |keys: &[KeyRecord]| {
        let content = serde_json::json!({ "version": 1, "keys": keys });
        fs::write(file.path(), serde_json::to_vec_pretty(&content).unwrap()).unwrap();
    };
    write(&keys[1..]);
    create(&file, new("last")).unwrap();
    assert_eq!(names(&file).len(), KEYS_MAX);
    assert!(matches!(create(&file, new("more")), Err(EditError::TooMany)));
    let identity = file.identity().unwrap();
    let more = [&keys[..], &[KeyRecord { name: "z".parse().unwrap(), ..pattern }]].concat();
    write(&more);
    assert_ne!(file.identity().unwrap(), identity);
    assert!(matches!(list(&file), Err(KeysError::Wrong { .. })));
}
