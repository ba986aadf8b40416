//! Whether microVMs would be jailed, and what the host limits.

use std::path::Path;

use emberd_config::{CgroupOption, Config};
use emberd_vmm::JailChoice;
use emberd_vmm::firecracker::{Version, find_binary, needs_interpreter};

use super::firecracker::ask_version;
use super::{Reading, Row, choices, read};

/// Controllers the drivers set limits with.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Name of the row about limits.
const CGROUPS: &str = "cgroups";

/// Facts that decide whether microVMs are jailed, in the driver as here.
#[derive(Debug)]
pub struct JailFacts {
    choice: JailChoice,
    is_root: bool,
    jailer: Option<Result<Version, String>>,
    firecracker: Option<Version>,
    /// Whether Firecracker needs libraries, which a jail has not.
    is_dynamic: bool,
}

impl JailFacts {
    /// The facts of this host and user.
    pub fn read(config: &Config, binary: &Path, firecracker: Option<Version>) -> Self {
        let binary = binary.canonicalize().unwrap_or_else(|_| binary.to_owned());
        let beside: Vec<_> = binary.parent().map(Path::to_owned).into_iter().collect();
        let jailer = find_binary("jailer", config.jail.jailer.as_deref(), &beside);
        Self {
            choice: choices::jail(config),
            is_root: rustix::process::geteuid().is_root(),
            jailer: jailer.map(|jailer| ask_version(&jailer)),
            firecracker,
            is_dynamic: needs_interpreter(&binary),
        }
    }

    /// Whether microVMs are jailed.
    pub fn is_jailed(&self) -> bool {
        self.choice != JailChoice::Off && self.obstacle().is_none()
    }

    fn obstacle(&self) -> Option<String> {
        match (&self.jailer, &self.firecracker) {
            _ if !self.is_root => Some("the user is not root".to_owned()),
            (None, _) => Some("no jailer found".to_owned()),
            (Some(Err(error)), _) => Some(error.clone()),
            (_, None) => Some("the version of Firecracker is not known".to_owned()),
            (Some(Ok(jailer)), Some(firecracker)) if jailer != firecracker => {
                Some(format!("the jailer has version {jailer} and Firecracker {firecracker}"))
            }
            _ if self.is_dynamic && self.choice == JailChoice::Auto => {
                Some("Firecracker is linked dynamically, and a jail has no libraries".to_owned())
            }
            _ => None,
        }
    }
}

/// Whether microVMs are jailed.
pub fn jail(facts: &JailFacts) -> Row {
    const WHAT: &str = "jail";
    match (facts.choice, facts.obstacle()) {
        (JailChoice::Off, _) => {
            Row::warn(WHAT, "switched off: VMMs share the user and the file system of the daemon")
        }
        (_, None) => Row::ok(WHAT, "each VMM has its own user and its own file system"),
        (JailChoice::On, Some(reason)) => {
            Row::fail(WHAT, format!("required by --jail on, but {reason}")).advise(
                "run the daemon as root with the jailer of the same release, or with --jail off",
            )
        }
        (JailChoice::Auto, Some(reason)) => {
            Row::warn(WHAT, format!("none ({reason}): VMMs run as the user of the daemon"))
                .advise("run the daemon as root with the jailer of the same release")
        }
    }
}

/// The limits of VMMs on this host.
pub fn cgroups(config: &Config) -> Row {
    let is_root = rustix::process::geteuid().is_root();
    let controllers_of = |dir: &Path| read(dir.join("cgroup.controllers"));
    match &config.cgroup {
        CgroupOption::Off => Row::info(CGROUPS, "switched off: what VMMs take is not limited"),
        CgroupOption::Auto if !is_root => Row::info(
            CGROUPS,
            "used if the cgroup that the daemon is started in was delegated to it",
        ),
        CgroupOption::Auto => limits(&controllers_of(Path::new("/sys/fs/cgroup")), false),
        CgroupOption::In(dir) => limits(&controllers_of(dir), true),
    }
}

/// By what `cgroup.controllers` lists.
fn limits(controllers: &Reading, is_given: bool) -> Row {
    let (seen, missing) = match controllers {
        Err(error) if is_given => return Row::fail(CGROUPS, format!("the given one: {error}")),
        Err(error) => (format!("version 2 is missing ({error})"), CONTROLLERS.to_vec()),
        Ok(text) => {
            let has = |name: &&str| text.split_whitespace().any(|word| word == *name);
            let missing: Vec<_> = CONTROLLERS.into_iter().filter(|name| !has(name)).collect();
            (format!("version 2 with {text}"), missing)
        }
    };
    if missing.is_empty() {
        return Row::ok(CGROUPS, seen);
    }
    let seen = format!("{seen}; not limited: {}", missing.join(", "));
    Row::warn(CGROUPS, seen).advise("boot the host with systemd.unified_cgroup_hierarchy=1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict::{self, Fail, Ok as Good, Warn};

    fn version(text: &str) -> Version {
        Version::parse(&format!("Firecracker v{text}")).unwrap()
    }

    fn facts(choice: JailChoice) -> JailFacts {
        JailFacts {
            choice,
            is_root: true,
            jailer: Some(Ok(version("1.16.2"))),
            firecracker: Some(version("1.16.2")),
            is_dynamic: false,
        }
    }

    #[track_caller]
    fn check(edit: impl Fn(&mut JailFacts), auto: Verdict, on: Verdict) {
        for (choice, expect) in [(JailChoice::Auto, auto), (JailChoice::On, on)] {
            let mut facts = facts(choice);
            edit(&mut facts);
            assert_eq!(jail(&facts).verdict, expect, "{facts:?}");
            assert_eq!(facts.is_jailed(), expect == Good, "{facts:?}");
        }
        let mut off = facts(JailChoice::Off);
        edit(&mut off);
        assert_eq!((jail(&off).verdict, off.is_jailed()), (Warn, false));
    }

    #[test]
    fn an_obstacle_fails_only_who_demands_a_jail() {
        check(|_| {}, Good, Good);
        check(|facts| facts.is_root = false, Warn, Fail);
        check(|facts| facts.jailer = None, Warn, Fail);
        check(|facts| facts.jailer = Some(Err("cannot run".into())), Warn, Fail);
        check(|facts| facts.jailer = Some(Ok(version("1.15.1"))), Warn, Fail);
        check(|facts| facts.firecracker = None, Warn, Fail);
        check(|facts| facts.is_dynamic = true, Warn, Good);
    }

    #[test]
    fn limits_that_are_missing_are_named() {
        let all = Ok("cpuset cpu io memory pids".to_owned());
        let some = Ok("cpu".to_owned());
        let none = Err("/sys/x: No such file or directory".to_owned());
        for (controllers, found, given) in [(all, Good, Good), (none, Warn, Fail)] {
            assert_eq!(limits(&controllers, false).verdict, found);
            assert_eq!(limits(&controllers, true).verdict, given);
        }
        let row = limits(&some, true);
        assert_eq!(row.verdict, Warn);
        assert_eq!(row.seen, "version 2 with cpu; not limited: memory, pids");
    }
}
