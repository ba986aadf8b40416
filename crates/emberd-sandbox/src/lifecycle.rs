//! Who exists, and in which phase: sandboxes from their creation to their end.

pub(crate) mod activity;
pub(crate) mod clock;
pub(crate) mod console;
pub(crate) mod events;
pub(crate) mod freeze;
pub(crate) mod handle;
pub(crate) mod holdings;
pub(crate) mod host;
pub(crate) mod journal;
pub(crate) mod lease;
pub(crate) mod lost;
pub(crate) mod machine;
pub(crate) mod phase;
pub(crate) mod reach;
pub(crate) mod sandbox;
pub(crate) mod signals;
pub(crate) mod state;
pub(crate) mod table;
pub(crate) mod url_key;
pub(crate) mod urls;
pub(crate) mod usage;
