//! The keys of creations: a creation that is asked for again is answered as the first time.
//!
//! ```text
//! first ─▶ under way ─┬─ created ─▶ remembered ── 24 h ──▶ forgotten
//!                ▲    └─ failed, hung up ─┬─▶ forgotten
//!                └───── another waits ◀───┘
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emberd_api::{CreateSandbox, IDEMPOTENCY_KEY_BYTES_MAX};
use emberd_image::Digest;
use emberd_sandbox::SandboxId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::server::principal::Principal;

/// How long a key is remembered after it was first used.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// Most keys that are remembered, of all callers: some hundred bytes each.
const KEYS_MAX: usize = 16_384;

/// A key as it is kept with the sandbox that was created, for the next daemon.
#[derive(Serialize, Deserialize)]
struct Tag {
    principal: Principal,
    key: String,
    /// Digest of the body.
    body: String,
    /// When the key was first used, in milliseconds since the Unix epoch.
    first_used_ms: u64,
}

/// Why a creation with such a key is refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The header is not a key.
    #[error(
        "`Idempotency-Key` is not one of 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters"
    )]
    Malformed,
    /// The key came with another body before.
    #[error("`Idempotency-Key` was used for another request within the last 24 hours")]
    Reused,
    /// Every key that is remembered belongs to a creation under way.
    #[error("{KEYS_MAX} creations with an `Idempotency-Key` are under way")]
    TooMany,
}

/// The keys of one daemon's creations. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Keys(Arc<Mutex<Remembered>>);

/// A caller, and its key.
pub(super) type Key = (Principal, String);

#[derive(Debug, Default)]
struct Remembered {
    by_key: HashMap<Key, Entry>,
    /// Keys in the order of their first use.
    by_age: BTreeMap<u64, Key>,
    next_serial: u64,
}

#[derive(Debug)]
struct Entry {
    serial: u64,
    first_used: Instant,
    digest: Digest,
    /// Requests under way.
    users: usize,
    /// Held by the request that creates the sandbox; others wait for it.
    turn: Arc<tokio::sync::Mutex<()>>,
    created: Option<SandboxId>,
}

/// The one request with its key that may create a sandbox now.
#[derive(Debug)]
pub struct Turn {
    // Before the use: another may go on as soon as this is dropped.
    _turn: OwnedMutexGuard<()>,
    used: Used,
}

impl Turn {
    /// The sandbox that an earlier request created.
    pub fn created(&self) -> Option<SandboxId> {
        self.used.with(|entry| entry.created)
    }

    /// Returns the key as text, for [`Keys::recall`].
    pub fn tag(&self) -> String {
        let (principal, key) = self.used.key.clone();
        let (body, used_for) =
            self.used.with(|entry| (entry.digest.to_string(), entry.first_used.elapsed()));
        let first_used_ms = epoch_ms(SystemTime::now() - used_for);
        let tag = Tag { principal, key, body, first_used_ms };
        serde_json::to_string(&tag).expect("it has string keys only")
    }

    /// Remembers what this request created.
    pub fn remember(&self, id: SandboxId) {
        self.used.with(|entry| entry.created = Some(id));
    }
}

/// A use of a key, until dropped. Where nothing was created, the key is forgotten with the last.
#[derive(Debug)]
struct Used {
    keys: Keys,
    key: Key,
}

impl Used {
    fn with<T>(&self, act: impl FnOnce(&mut Entry) -> T) -> T {
        let mut remembered = self.keys.0.lock();
        act(remembered.by_key.get_mut(&self.key).expect("it stays while it is used"))
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        let mut remembered = self.keys.0.lock();
        let entry = remembered.by_key.get_mut(&self.key).expect("it stays while it is used");
        entry.users -= 1;
        if entry.users == 0 && entry.created.is_none() {
            remembered.forget(&self.key);
        }
    }
}

impl Keys {
    /// Waits until no other request with `key` is under way.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn turn(&self, key: Key, wanted: &CreateSandbox) -> Result<Turn, KeyError> {
        let body = serde_json::to_vec(wanted).expect("bodies have string keys only");
        let used = self.enter(key, Digest::of(&body), Instant::now())?;
        let turn = used.with(|entry| Arc::clone(&entry.turn));
        let turn = turn.lock_owned().await;
        Ok(Turn { _turn: turn, used })
    }

    /// Remembers that the sandbox `id` was created by an earlier daemon for the request of `tag`,
    /// unless that is too long ago.
    pub(super) fn recall(&self, id: SandboxId, tag: &str) {
        let Ok(tag) = serde_json::from_str::<Tag>(tag) else { return };
        let Ok(digest) = tag.body.parse() else { return };
        let age_ms = epoch_ms(SystemTime::now()).saturating_sub(tag.first_used_ms);
        let now = Instant::now();
        let first_used = now.checked_sub(Duration::from_millis(age_ms)).unwrap_or(now);
        if let Ok(used) = self.enter((tag.principal, tag.key), digest, first_used) {
            used.with(|entry| entry.created = Some(id));
        }
    }

    /// Begins a use of `key` for a request of `digest`.
    fn enter(&self, key: Key, digest: Digest, now: Instant) -> Result<Used, KeyError> {
        let mut remembered = self.0.lock();
        remembered.forget_old(now);
        if let Some(entry) = remembered.by_key.get_mut(&key) {
            if entry.digest != digest {
                return Err(KeyError::Reused);
            }
            entry.users += 1;
            return Ok(Used { keys: self.clone(), key });
        }
        if remembered.by_key.len() >= KEYS_MAX {
            let oldest = remembered.by_age.values().find(|key| remembered.by_key[key].users == 0);
            let oldest = oldest.cloned().ok_or(KeyError::TooMany)?;
            remembered.forget(&oldest);
        }
        let serial = remembered.next_serial;
        remembered.next_serial += 1;
        remembered.by_age.insert(serial, key.clone());
        let (users, turn, created) = (1, Arc::default(), None);
        let entry = Entry { serial, first_used: now, digest, users, turn, created };
        remembered.by_key.insert(key.clone(), entry);
        Ok(Used { keys: self.clone(), key })
    }
}

fn epoch_ms(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

impl Remembered {
    /// Forgets the keys whose time is over, up to the first that has time left or is in use.
    fn forget_old(&mut self, now: Instant) {
        while let Some(entry) = self.by_age.first_entry() {
            let old = &self.by_key[entry.get()];
            if old.users > 0 || now.saturating_duration_since(old.first_used) < REMEMBERED {
                return;
            }
            let key = entry.remove();
            self.by_key.remove(&key);
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.by_key.remove(key) {
            self.by_age.remove(&entry.serial);
        }
    }
}

#[cfg(test)]
mod tests {
    use emberd_sandbox::NodeKey;

    use super::*;
    use crate::server::principal::Source;

    fn id() -> SandboxId {
        SandboxId::with_key(NodeKey::default())
    }

    fn key(text: &str) -> Key {
        (Principal::Local(Source::User(1)), text.to_owned())
    }

    fn count(keys: &Keys) -> usize {
        let remembered = keys.0.lock();
        assert_eq!(remembered.by_age.len(), remembered.by_key.len());
        remembered.by_key.len()
    }

    #[test]
    fn what_was_created_is_remembered_for_a_day_and_a_failure_is_not() {
        let (keys, start, one) = (Keys::default(), Instant::now(), Digest::of(b"1"));
        drop(keys.enter(key("failed"), one, start).unwrap());
        assert_eq!(count(&keys), 0);
        let used = keys.enter(key("a"), one, start).unwrap();
        let waiting = keys.enter(key("a"), one, start).unwrap();
        drop(used);
        assert_eq!(count(&keys), 1, "another still waits");
        let made = id();
        waiting.with(|entry| entry.created = Some(made));
        drop(waiting);
        let created = |now| keys.enter(key("a"), one, now).unwrap().with(|entry| entry.created);
        assert_eq!(created(start + REMEMBERED - Duration::from_secs(1)), Some(made));
        let other = keys.enter(key("a"), Digest::of(b"2"), start).map(drop);
        assert!(matches!(other, Err(KeyError::Reused)));
        assert_eq!(created(start + REMEMBERED), None);
        assert_eq!(count(&keys), 0);
    }

    #[test]
    fn the_next_daemon_knows_the_keys_of_sandboxes_that_it_has() {
        let (before, after, one) = (Keys::default(), Keys::default(), Digest::of(b"1"));
        let used = before.enter(key("a"), one, Instant::now()).unwrap();
        let turn = used.with(|entry| Arc::clone(&entry.turn)).try_lock_owned().unwrap();
        let (turn, made) = (Turn { _turn: turn, used }, id());
        after.recall(made, &turn.tag());
        after.recall(id(), "{}");
        let created = |digest| {
            let used = after.enter(key("a"), digest, Instant::now())?;
            Ok(used.with(|entry| entry.created))
        };
        assert!(matches!(created(one), Ok(Some(id)) if id == made));
        assert!(matches!(created(Digest::of(b"2")), Err(KeyError::Reused)));
        assert_eq!(count(&after), 1);
    }

    #[test]
    fn keys_of_others_are_others() {
        let (keys, now) = (Keys::default(), Instant::now());
        let _used = keys.enter(key("a"), Digest::of(b"1"), now).unwrap();
        let other = (Principal::Local(Source::User(2)), "a".to_owned());
        keys.enter(other, Digest::of(b"2"), now).unwrap();
    }

    #[test]
    fn the_oldest_keys_go_and_none_that_is_in_use() {
        let (keys, now, digest) = (Keys::default(), Instant::now(), Digest::of(b"1"));
        let first = keys.enter(key("first"), digest, now).unwrap();
        let enter = |n: usize| keys.enter(key(&n.to_string()), digest, now).unwrap();
        let done = |used: Used| used.with(|entry| entry.created = Some(id()));
        for n in 0..KEYS_MAX {
            done(enter(n));
        }
        assert_eq!(count(&keys), KEYS_MAX);
        // The oldest that was not in use went.
        assert_eq!(enter(0).with(|entry| entry.created), None);
        assert!(enter(1).with(|entry| entry.created).is_none());
        assert!(enter(KEYS_MAX - 1).with(|entry| entry.created).is_some());
        done(first);
        let in_use: Vec<_> = (0..KEYS_MAX).map(|n| enter(KEYS_MAX + n)).collect();
        let refused = keys.enter(key("more"), digest, now).map(drop);
        assert!(matches!(refused, Err(KeyError::TooMany)));
        drop(in_use);
        assert_eq!(count(&keys), 0);
    }
}
