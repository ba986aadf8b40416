//! The keys that are valid now: those of the file, read again when it changes.
//!
//! ```text
//! absent ─▶ read ─▶ valid: keys that are gone or other ones end
//!             │ ▲
//!             ▼ │ it can be read again
//!           unreadable: the last good keys stay in force; without any, none is valid
//! ```
//! A file that was there once is needed from then on: one that vanishes opens nothing.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use emberd_keys::{Identity, KeyId, KeyRecord, KeysFile, Presented, ScopeSet};
use emberd_proto::chain;
use parking_lot::{Mutex, RwLock};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::expiry::{Expiry, Now};
use crate::server::principal::Principal;

/// The keys of one daemon. Clones share them.
#[derive(Debug, Clone)]
pub struct KeyRing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: KeysFile,
    /// A key beside those of the file, which stays.
    fixed: Option<Arc<LiveKey>>,
    /// Held while the file is read.
    reading: Mutex<()>,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The content that was read last; none for no file.
    seen: Option<Identity>,
    /// None until a file was read.
    keys: Option<HashMap<KeyId, Arc<LiveKey>>>,
    /// Why the present file cannot be read.
    problem: Option<String>,
}

/// A key that is in force.
#[derive(Debug)]
pub struct LiveKey {
    pub record: KeyRecord,
    pub scopes: ScopeSet,
    /// The key as the owner of sandboxes.
    pub owner: Arc<str>,
    /// Cancelled when the key is removed, replaced or expires.
    pub ended: CancellationToken,
    /// Creations and requests of the key.
    pub account: Arc<Account>,
    expiry: Option<Expiry>,
}

impl LiveKey {
    fn new(record: KeyRecord, now: Now) -> Self {
        let expiry = record.expires_at_ms.map(|at_ms| Expiry::new(at_ms, now));
        let (scopes, ended) = (record.permitted(), CancellationToken::new());
        let owner = Principal::Key(record.id).owner().unwrap_or_default().into();
        Self { record, scopes, owner, ended, account: Arc::default(), expiry }
    }

    /// The key as `record` has it now. What it uses goes on to count, and if only its limits have
    /// changed, what it has begun goes on.
    fn changed(&self, record: KeyRecord, now: Now) -> Self {
        let limits = record.limits.clone();
        let is_as_before = record == KeyRecord { limits, ..self.record.clone() };
        let account = Arc::clone(&self.account);
        if is_as_before {
            let (owner, ended) = (Arc::clone(&self.owner), self.ended.clone());
            let (scopes, expiry) = (self.scopes, self.expiry);
            return Self { record, scopes, owner, ended, account, expiry };
        }
        self.ended.cancel();
        Self { account, ..Self::new(record, now) }
    }
}

/// Worth of a secret.
#[derive(Debug)]
pub enum Judged {
    /// The secret is that of this key.
    Valid(Arc<LiveKey>),
    /// The secret was that of a key.
    Expired,
    /// The secret is that of none.
    Unknown,
    /// Nobody can say.
    Unreadable,
}

impl KeyRing {
    /// The keys in `data_dir`, and one beside them. Blocks.
    pub fn open(data_dir: &Path, fixed: Option<KeyRecord>) -> Self {
        let file = KeysFile::new(data_dir);
        let fixed = fixed.map(|record| Arc::new(LiveKey::new(record, Now::read())));
        let (reading, state) = Default::default();
        let ring = Self(Arc::new(Inner { file, fixed, reading, state }));
        ring.0.read();
        ring
    }

    /// Whether there is a file of keys, or was one, or a key beside it.
    pub fn is_in_use(&self) -> bool {
        let state = self.0.state.read();
        self.0.fixed.is_some() || state.keys.is_some() || state.problem.is_some()
    }

    /// Number of keys, and why they cannot be read, if they cannot.
    pub fn summary(&self) -> (usize, Option<String>) {
        let state = self.0.state.read();
        let of_file = state.keys.as_ref().map_or(0, HashMap::len);
        (of_file + usize::from(self.0.fixed.is_some()), state.problem.clone())
    }

    /// The keys that are in force, in no order.
    pub fn all(&self) -> Vec<Arc<LiveKey>> {
        let state = self.0.state.read();
        let of_file = state.keys.iter().flat_map(HashMap::values);
        self.0.fixed.iter().chain(of_file).cloned().collect()
    }

    /// The key `id`, if it is in force.
    pub fn live(&self, id: KeyId) -> Option<Arc<LiveKey>> {
        if let Some(fixed) = self.0.fixed.as_ref().filter(|fixed| fixed.record.id == id) {
            return Some(Arc::clone(fixed));
        }
        let key = self.0.state.read().keys.as_ref()?.get(&id).cloned()?;
        let is_over = key.expiry.is_some_and(|expiry| expiry.is_over(Now::read()));
        (!is_over).then_some(key)
    }

    /// Returns what `presented` is worth. One that is unknown may be newer than what was read.
    pub async fn judge(&self, presented: &Presented) -> Judged {
        match self.0.find(presented) {
            Judged::Unknown | Judged::Unreadable => {
                self.catch_up().await;
                self.0.find(presented)
            }
            judged => judged,
        }
    }

    /// Reads the file if it has changed, and returns whether it had.
    pub async fn catch_up(&self) -> bool {
        let found = self.0.file.identity();
        if self.0.state.read().seen == found {
            return false;
        }
        let inner = Arc::clone(&self.0);
        let read = spawn_blocking(move || inner.read());
        read.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
        true
    }

    /// Ends the keys that have expired.
    pub fn end_expired(&self) {
        let now = Now::read();
        let state = self.0.state.read();
        let keys = state.keys.iter().flat_map(HashMap::values);
        let over = |key: &&Arc<LiveKey>| key.expiry.is_some_and(|expiry| expiry.is_over(now));
        keys.filter(over).for_each(|key| key.ended.cancel());
    }
}

impl Inner {
    fn find(&self, presented: &Presented) -> Judged {
        if let Some(fixed) = &self.fixed
            && fixed.record.id == presented.id
            && fixed.record.sha256 == presented.digest
        {
            return Judged::Valid(Arc::clone(fixed));
        }
        let state = self.state.read();
        let Some(keys) = &state.keys else {
            return if state.problem.is_some() { Judged::Unreadable } else { Judged::Unknown };
        };
        let key = keys.get(&presented.id);
        match key.filter(|key| key.record.sha256 == presented.digest) {
            None => Judged::Unknown,
            Some(key) if key.expiry.is_some_and(|expiry| expiry.is_over(Now::read())) => {
                Judged::Expired
            }
            Some(key) => Judged::Valid(Arc::clone(key)),
        }
    }

    /// Reads the file, unless somebody has. If it changes meanwhile, it is read again later.
    fn read(&self) {
        let _reading = self.reading.lock();
        let found = self.file.identity();
        if found.is_some() && self.state.read().seen == found {
            return;
        }
        let read = self.file.read();
        let path = self.file.path().display();
        let mut state = self.state.write();
        state.seen = found;
        match read {
            Ok(Some(records)) => {
                tracing::info!(%path, keys = records.len(), "read the keys");
                state.replace(records);
                state.problem = None;
            }
            Ok(None) if state.keys.is_none() && state.problem.is_none() => {}
            Ok(None) => {
                state.problem = Some(format!("{path} is gone"));
                tracing::error!(%path, "the file of keys is gone; the last keys stay in force");
            }
            Err(error) => {
                let (reason, hint) = (chain(&error), error.hint());
                let in_force = state.keys.as_ref().map_or(0, HashMap::len);
                tracing::error!(error = reason, hint, in_force, "cannot read the keys");
                state.problem = Some(reason);
            }
        }
    }
}

impl State {
    /// Puts `records` in force. Keys that are not among them, or differ, end.
    fn replace(&mut self, records: Vec<KeyRecord>) {
        let mut before = self.keys.take().unwrap_or_default();
        let now = Now::read();
        let keep = |record: KeyRecord| match before.remove(&record.id) {
            Some(same) if same.record == record => (record.id, same),
            Some(other) => (record.id, Arc::new(other.changed(record, now))),
            None => (record.id, Arc::new(LiveKey::new(record, now))),
        };
        let keys = records.into_iter().map(keep).collect();
        for gone in before.values() {
            gone.ended.cancel();
        }
        self.keys = Some(keys);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    use emberd_keys::{NewKey, Role, Secret, create, remove, rotate};
    use tempfile::TempDir;

    use super::*;

    fn room() -> (TempDir, KeysFile) {
        let dir = tempfile::tempdir().unwrap();
        let file = KeysFile::new(dir.path());
        (dir, file)
    }

    fn add(file: &KeysFile, name: &str) -> Secret {
        create(file, NewKey::of_role(name.parse().unwrap(), Role::User)).unwrap().1
    }

    fn presented(secret: &Secret) -> Presented {
        Presented::parse(secret.expose().as_bytes()).unwrap()
    }

    async fn valid(ring: &KeyRing, secret: &Secret) -> Option<Arc<LiveKey>> {
        match ring.judge(&presented(secret)).await {
            Judged::Valid(key) => Some(key),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_new_key_is_valid_at_once_and_a_removed_one_ends() {
        let (dir, file) = room();
        let ring = KeyRing::open(dir.path(), None);
        assert!(!ring.is_in_use() && !ring.catch_up().await);
        let (one, two) = (add(&file, "one"), add(&file, "two"));
        let key = valid(&ring, &one).await.unwrap();
        let other = valid(&ring, &two).await.unwrap();
        assert!(ring.is_in_use() && !ring.catch_up().await);
        remove(&file, &["one".to_owned()]).unwrap();
        assert!(!key.ended.is_cancelled() && ring.catch_up().await);
        assert!(key.ended.is_cancelled() && !other.ended.is_cancelled());
        assert!(valid(&ring, &one).await.is_none());
        let again = rotate(&file, "two", None).unwrap().1;
        assert!(ring.catch_up().await && other.ended.is_cancelled());
        assert!(valid(&ring, &two).await.is_none());
        let rotated = valid(&ring, &again).await.unwrap();
        assert_eq!((rotated.record.id, &rotated.owner), (other.record.id, &other.owner));
        remove(&file, &["two".to_owned()]).unwrap();
        assert!(ring.catch_up().await);
        assert_eq!((ring.is_in_use(), ring.summary()), (true, (0, None)));
    }

    #[tokio::test]
    async fn other_limits_end_nothing_and_what_is_used_counts_on() {
        let (dir, file) = room();
        let ring = KeyRing::open(dir.path(), None);
        let one = add(&file, "one");
        let before = valid(&ring, &one).await.unwrap();
        let under_way = before.account.begin(None).unwrap();
        emberd_keys::limit(&file, "one", |limits| limits.requests = Some(1)).unwrap();
        assert!(ring.catch_up().await && !before.ended.is_cancelled());
        let after = valid(&ring, &one).await.unwrap();
        let most = after.record.limits.requests;
        assert!(most == Some(1) && after.account.begin(most).is_none());
        let again = rotate(&file, "one", None).unwrap().1;
        assert!(ring.catch_up().await && before.ended.is_cancelled() && after.ended.is_cancelled());
        let rotated = valid(&ring, &again).await.unwrap();
        assert!(!rotated.ended.is_cancelled() && rotated.account.begin(most).is_none());
        drop(under_way);
        assert!(rotated.account.begin(most).is_some());
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_opens_nothing_and_ends_nothing() {
        let (dir, file) = room();
        let one = add(&file, "one");
        let whole = fs::read(file.path()).unwrap();
        fs::write(file.path(), &whole[..whole.len() / 2]).unwrap();
        let ring = KeyRing::open(dir.path(), None);
        assert!(ring.is_in_use());
        assert!(matches!(ring.judge(&presented(&one)).await, Judged::Unreadable));
        assert!(ring.summary().1.unwrap().contains("is not a file of keys"));
        fs::write(file.path(), &whole).unwrap();
        let key = valid(&ring, &one).await.unwrap();
        assert_eq!(ring.summary(), (1, None));
        let broken: [&dyn Fn(); 4] = [
            &|| fs::write(file.path(), "").unwrap(),
            &|| fs::write(file.path(), &whole[..9]).unwrap(),
            &|| fs::set_permissions(file.path(), Permissions::from_mode(0o644)).unwrap(),
            &|| fs::remove_file(file.path()).unwrap(),
        ];
        for break_it in broken {
            break_it();
            assert!(ring.catch_up().await);
            assert!(ring.summary().1.is_some() && ring.is_in_use());
            assert!(valid(&ring, &one).await.is_some() && !key.ended.is_cancelled());
            assert!(!ring.catch_up().await, "it is not read again until it changes");
        }
        let two = add(&file, "two");
        assert!(valid(&ring, &two).await.is_some());
        assert!(valid(&ring, &one).await.is_none() && key.ended.is_cancelled());
    }

    #[tokio::test]
    async fn an_expired_key_ends_and_is_told_from_an_unknown_one() {
        let (dir, file) = room();
        let secret = add(&file, "one");
        let text = fs::read_to_string(file.path()).unwrap();
        let expired = text.replace("\"created_at_ms\"", "\"expires_at_ms\": 1,\n\"created_at_ms\"");
        let ring = KeyRing::open(dir.path(), None);
        let key = valid(&ring, &secret).await.unwrap();
        ring.end_expired();
        assert!(!key.ended.is_cancelled());
        fs::write(file.path(), expired).unwrap();
        assert!(ring.catch_up().await && key.ended.is_cancelled());
        assert!(matches!(ring.judge(&presented(&secret)).await, Judged::Expired));
        let forged = secret.expose().replace(&secret.expose()[13..], &"0".repeat(32));
        let forged = Presented::parse(forged.as_bytes()).unwrap();
        assert!(matches!(ring.judge(&forged).await, Judged::Unknown));
        ring.end_expired();
        let state = ring.0.state.read();
        assert!(state.keys.iter().flat_map(HashMap::values).all(|key| key.ended.is_cancelled()));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_answer_is_wrong_while_the_file_is_replaced() {
        let (dir, file) = room();
        let secret = add(&file, "kept");
        let ring = KeyRing::open(dir.path(), None);
        let forged = secret.expose().replace(&secret.expose()[13..], &"0".repeat(32));
        let forged = Presented::parse(forged.as_bytes()).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let replacing = tokio::task::spawn_blocking({
            let (file, done) = (file.clone(), Arc::clone(&done));
            move || {
                for n in 0..50 {
                    add(&file, &format!("other-{n}"));
                    rotate(&file, &format!("other-{n}"), None).unwrap();
                    remove(&file, &[format!("other-{n}")]).unwrap();
                }
                done.store(true, Ordering::Relaxed);
            }
        });
        let kept = valid(&ring, &secret).await.unwrap();
        let mut asked = 0_u32;
        while !done.load(Ordering::Relaxed) || asked < 1_000 {
            assert!(matches!(ring.judge(&forged).await, Judged::Unknown));
            let found = valid(&ring, &secret).await.unwrap();
            assert!(Arc::ptr_eq(&found, &kept), "the key did not change");
            asked += 1;
            tokio::task::yield_now().await;
        }
        replacing.await.unwrap();
        assert!(!kept.ended.is_cancelled());
    }

    #[tokio::test]
    async fn the_most_keys_are_read_and_one_more_is_not() {
        let (dir, file) = room();
        let secret = add(&file, "0");
        let pattern = file.read().unwrap().unwrap().remove(0);
        let others = (1..emberd_keys::KEYS_MAX).map(|n| KeyRecord {
            id: format!("{n:08}").parse().unwrap(),
            name: n.to_string().parse().unwrap(),
            ..pattern.clone()
        });
        let keys: Vec<_> = std::iter::once(pattern.clone()).chain(others).collect();
        let content = serde_json::json!({ "version": 1, "keys": keys });
        fs::write(file.path(), content.to_string()).unwrap();
        let ring = KeyRing::open(dir.path(), None);
        assert_eq!(ring.summary(), (emberd_keys::KEYS_MAX, None));
        assert!(valid(&ring, &secret).await.is_some());
        // One more is too many, and the others stay.
        let more =
            [&keys[..], &[KeyRecord { id: "zzzzzzzz".parse().unwrap(), ..pattern }]].concat();
        let content = serde_json::json!({ "version": 1, "keys": more });
        fs::write(file.path(), content.to_string()).unwrap();
        assert!(ring.catch_up().await && ring.summary().1.unwrap().contains("more than 10000"));
        assert!(valid(&ring, &secret).await.is_some());
    }
}
