//! The jail over the double, with a script for a jailer: it changes into the jail's root
//! instead of making it the root. Jails need root; elsewhere these tests say so.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use emberd_vmm::firecracker::{FindError, Firecracker, FirecrackerConfig};
use emberd_vmm::{IdRange, JailChoice, Left, MicroVm as _, Vmm as _, left_in};
use fake_firecracker::write_program;

use super::lab::{Lab, restore};
use crate::agent::Agent;

const JAILER: &str = r#"PATH=/usr/bin:/bin
[ "$1" = --version ] && { echo "Jailer v$JAILER_VERSION"; exit; }
echo "jailer $*"
while [ "$1" != -- ]; do
    case $1 in
        --id) id=$2;;
        --exec-file) exec=$2;;
        --chroot-base-dir) base=$2;;
    esac
    shift 2
done
shift
cd "$base/${exec##*/}/$id/root" && exec "$exec" --id "$id" "$@"
"#;

fn jailed(lab: &Lab, version: &str) -> FirecrackerConfig {
    let jailer = lab.path("jailer");
    write_program(&jailer, &JAILER.replace("$JAILER_VERSION", version));
    let mut config = lab.config(&[]);
    config.jail.choice = JailChoice::On;
    config.jail.jailer = Some(jailer);
    config.jail.ids = IdRange { first: 1_900_000_000, count: 2 };
    config
}

fn is_root() -> bool {
    emberd_testing::needs(rustix::process::geteuid().is_root(), "jails need root")
}

#[tokio::test]
async fn a_jailed_guest_boots_is_cloned_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let driver = Firecracker::find(jailed(&lab, "1.16.2")).unwrap();
    let reason = &driver.description().reason;
    assert!(reason.contains("jailed: own user and root; not limited: memory"), "{reason}");

    let vm = driver.boot(lab.spec("sb_1")).await.unwrap();
    assert_eq!(Agent::connect(&vm).await.run("echo ok").await, "ok\n");
    let log = fs::read_to_string(vm.console_log()).unwrap();
    assert!(log.contains("--uid 1900000000 --gid 1900000000"), "{log}");

    let template = vm.snapshot(&lab.path("template"), Lab::images()).await.unwrap();
    let clone = restore(&driver, &template, lab.restore_spec("sb_2")).await.unwrap();
    assert_eq!(Agent::connect(&clone).await.run("echo ok").await, "ok\n");
    assert!(template.memory().metadata().unwrap().nlink() > 1, "the clone maps the very file");

    driver.boot(lab.spec("sb_3")).await.expect_err("a third user is not to be had");
    drop((vm, clone));
    lab.assert_empty();
    assert_eq!(template.memory().metadata().unwrap().nlink(), 1);
    driver.boot(lab.spec("sb_3")).await.unwrap();
}

#[tokio::test]
async fn a_jailed_microvm_that_is_adopted_keeps_its_user() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let first = Firecracker::find(jailed(&lab, "1.16.2")).unwrap();
    first.boot(lab.spec("sb_1")).await.unwrap().detach();
    let driver = Firecracker::find(jailed(&lab, "1.16.2")).unwrap();
    let left = left_in(&lab.path("vms"), |_| true).unwrap().pop();
    let Some(Left::Running(mut orphan)) = left else { panic!("{left:?}") };
    driver.reserve(&mut orphan);
    let other = driver.boot(lab.spec("sb_2")).await.unwrap();
    let log = fs::read_to_string(other.console_log()).unwrap();
    assert!(log.contains("--uid 1900000001 "), "{log}");
    driver.boot(lab.spec("sb_3")).await.expect_err("both users have a microVM");
    let adopted = driver.adopt(orphan).unwrap();
    assert_eq!(Agent::connect(&adopted).await.run("echo ok").await, "ok\n");
    driver.boot(lab.spec("sb_3")).await.expect_err("both users have a microVM");
    adopted.kill().await.unwrap();
    let third = driver.boot(lab.spec("sb_3")).await.unwrap();
    drop((other, third));
    lab.assert_empty();
}

#[test]
fn a_jail_that_cannot_be_is_an_error_if_demanded_and_a_reason_otherwise() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let mut config = jailed(&lab, "1.16.1");
    let error = Firecracker::find(config.clone()).map(drop).unwrap_err();
    let expect = "cannot jail microVMs: the jailer is version 1.16.1, Firecracker 1.16.2";
    assert_eq!(error.to_string(), expect);
    config.jail.choice = JailChoice::Auto;
    let driver = Firecracker::find(config.clone()).unwrap();
    let reason = &driver.description().reason;
    assert!(reason.contains("not jailed (the jailer is version 1.16.1"), "{reason}");
    config.jail.choice = JailChoice::On;
    config.jail.jailer = Some("/nonexistent/jailer".into());
    let error = Firecracker::find(config).map(drop).unwrap_err();
    assert!(matches!(error, FindError::Jail { .. }), "{error}");
}
