//! Who may call a daemon with this configuration.

use std::net::ToSocketAddrs as _;

use emberd_api::Address;
use emberd_config::{Authentication, Config};
use emberd_keys::{KeyRecord, KeysError, KeysFile, list};

use crate::check::Verdict;
use crate::output::Clock;

/// Advice where everybody is served.
const ADVICE: &str = "create a key, and send it as EMBERD_API_KEY: emberctl key create NAME";

/// A finding.
#[derive(Debug)]
pub struct Finding {
    pub verdict: Verdict,
    pub text: String,
    pub advice: Option<&'static str>,
}

impl Finding {
    fn new(verdict: Verdict, text: impl Into<String>, advice: Option<&'static str>) -> Self {
        Self { verdict, text: text.into(), advice }
    }
}

/// Looks at the keys in the data directory, and at the address.
pub fn look(config: &Config) -> Finding {
    let keys = list(&KeysFile::new(config.data_dir.path()));
    let is_insecure = config.authentication == Authentication::Off;
    judge(keys, is_exposed(&config.addr), is_insecure)
}

fn judge(
    keys: Result<Option<Vec<KeyRecord>>, KeysError>,
    is_exposed: bool,
    is_insecure: bool,
) -> Finding {
    let keys = match keys {
        Ok(keys) => keys,
        Err(error) => {
            return Finding::new(Verdict::Fail, emberd_api::chain(&error), Some(error.hint()));
        }
    };
    if is_insecure {
        let seen = "--insecure-no-auth: everybody who can connect over TCP may do everything";
        return Finding::new(Verdict::Warn, seen, Some(ADVICE));
    }
    match keys {
        Some(keys) => {
            let now_ms = Clock::now().as_ms();
            let valid = keys.iter().filter(|key| !key.is_expired(now_ms)).count();
            let expired = keys.len() - valid;
            let seen =
                format!("requests over TCP need a key; {valid} are valid, {expired} expired");
            match valid {
                0 => Finding::new(Verdict::Warn, seen, Some(ADVICE)),
                _ => Finding::new(Verdict::Ok, seen, None),
            }
        }
        None if is_exposed => {
            let seen = "other hosts can reach the address, and there are no keys: emberd refuses";
            Finding::new(Verdict::Fail, seen, Some(ADVICE))
        }
        None => {
            let seen = "no keys: programs of this host that can connect may do everything";
            Finding::new(Verdict::Info, seen, None)
        }
    }
}

/// Whether other hosts can reach `address`. A name that cannot be resolved counts as one of them.
fn is_exposed(address: &Address) -> bool {
    let Address::Tcp(authority) = address else { return false };
    match authority.to_socket_addrs() {
        Ok(mut sockets) => !sockets.all(|socket| socket.ip().to_canonical().is_loopback()),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use emberd_keys::{NewKey, Role, create};

    use super::*;

    #[test]
    fn everybody_is_served_nowhere_without_a_word() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeysFile::new(dir.path());
        let verdict = |exposed, insecure| judge(list(&file), exposed, insecure).verdict;
        assert_eq!(verdict(false, false), Verdict::Info);
        assert_eq!(verdict(true, false), Verdict::Fail);
        assert_eq!(verdict(true, true), Verdict::Warn);
        create(&file, NewKey::of_role("ci".parse().unwrap(), Role::User)).unwrap();
        assert_eq!(verdict(true, false), Verdict::Ok);
        assert_eq!(verdict(false, true), Verdict::Warn);
        emberd_keys::remove(&file, &["ci".to_owned()]).unwrap();
        assert_eq!(verdict(false, false), Verdict::Warn, "nobody is served over TCP");
        std::fs::write(file.path(), "torn").unwrap();
        let row = judge(list(&file), false, true);
        assert_eq!((row.verdict, row.advice.is_some()), (Verdict::Fail, true));
        assert!(row.text.contains("is not a file of keys"), "{row:?}");
    }

    #[test]
    fn loopback_is_for_this_host() {
        for (address, exposed) in [
            ("127.0.0.1:7777", false),
            ("localhost:7777", false),
            ("[::1]:7777", false),
            ("unix:/s", false),
            ("0.0.0.0:7777", true),
            ("[::]:7777", true),
        ] {
            assert_eq!(is_exposed(&address.parse().unwrap()), exposed, "{address}");
        }
    }
}
