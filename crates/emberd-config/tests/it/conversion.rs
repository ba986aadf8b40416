//! Defaults, limits and what options mean together.

use std::path::Path;
use std::time::Duration;

use emberd_api::Address;
use emberd_config::{
    AccelChoice, Config, DEFINITIONS, Given, Key, Origin, RUN_DIR_BYTES_MAX, Surroundings,
    VmmChoice,
};

use crate::{config, surroundings};

#[test]
fn definitions_are_in_the_order_of_their_keys_and_have_names_of_their_own() {
    for (index, definition) in DEFINITIONS.iter().enumerate() {
        assert_eq!(definition.key as usize, index, "{}", definition.name);
        assert_eq!(definition.key.definition().name, definition.name);
        assert!(!definition.about.is_empty() && !definition.about.ends_with('.'));
        let same = DEFINITIONS.iter().filter(|other| other.name == definition.name);
        assert_eq!(same.count(), 1, "{}", definition.name);
    }
    assert_eq!(Key::GuestRamMib.definition().variable(), "EMBERD_GUEST_RAM_MIB");
}

#[test]
fn defaults() {
    let config = config(&[]).unwrap();
    assert_eq!(config.addr, Address::Tcp("127.0.0.1:7777".into()));
    assert_eq!(config.data_dir.path(), Path::new("/data"));
    assert_eq!((config.guest_ram_mib, config.guest_vcpus), (256, 1));
    assert_eq!((config.max_sandboxes, config.boot_timeout), (64, Duration::from_secs(60)));
    assert_eq!(config.template_dir, Path::new("/data/templates"));
    let pool = config.pool_in_use().unwrap();
    assert_eq!((pool.size, pool.memory_mib), (2, 2048));
    assert_eq!((config.node_key.as_str(), config.seccomp, config.console), ("", true, None));
}

#[test]
fn the_run_directory_follows_the_user() {
    for (user_id, runtime_dir, expect) in [
        (0, Some("/run/user/0"), "/var/lib/emberd/run"),
        (7, Some("/run/user/7"), "/run/user/7/emberd"),
        (7, None, "/tmp/emberd-7"),
    ] {
        let runtime_dir = runtime_dir.map(Into::into);
        let surroundings = Surroundings { user_id, runtime_dir, ..surroundings() };
        let config = Config::new(Given::default(), &surroundings).unwrap();
        assert_eq!(config.run_dir, Path::new(expect));
    }
}

#[test]
fn the_socket_goes_with_the_default_address() {
    let socket = |options: &[(Key, &str)], user_id, runtime_dir: Option<&str>| {
        let mut given = Given::default();
        for (key, value) in options {
            given.set(*key, value, Origin::Flag);
        }
        let runtime_dir = runtime_dir.map(Into::into);
        let surroundings = Surroundings { user_id, runtime_dir, ..surroundings() };
        let socket = Config::new(given, &surroundings).unwrap().socket;
        socket.map(|socket| (socket.path.display().to_string(), socket.is_needed))
    };
    let root = Some(("/run/emberd/emberd.sock".to_owned(), false));
    assert_eq!(socket(&[], 0, None), root);
    assert_eq!(socket(&[(Key::Addr, "127.0.0.1:7777"), (Key::Socket, "auto")], 0, None), root);
    let mine = Some(("/run/user/7/emberd/emberd.sock".to_owned(), false));
    assert_eq!(socket(&[], 7, Some("/run/user/7")), mine);
    assert_eq!(socket(&[], 7, None), None);
    for addr in ["127.0.0.1:7778", "0.0.0.0:7777", "unix:/s"] {
        assert_eq!(socket(&[(Key::Addr, addr)], 0, None), None, "{addr}");
    }
    assert_eq!(socket(&[(Key::Socket, "off")], 0, None), None);
    let named = Some(("/s".to_owned(), true));
    assert_eq!(socket(&[(Key::Addr, "127.0.0.1:1"), (Key::Socket, "/s")], 0, None), named);
    assert!(config(&[(Key::Socket, &"x".repeat(108))]).is_err());
}

#[test]
fn values_out_of_their_limits_are_refused_and_the_edges_pass() {
    let long = "x".repeat(RUN_DIR_BYTES_MAX);
    let cases = [
        (Key::Addr, "nowhere", false),
        (Key::GuestRamMib, "64", true),
        (Key::GuestRamMib, "63", false),
        (Key::GuestRamMib, "2GiB", true),
        (Key::GuestRamMib, "2TiB", false),
        (Key::GuestRamMib, "-5", false),
        (Key::GuestVcpus, "32", true),
        (Key::GuestVcpus, "0", false),
        (Key::GuestVcpus, "256", false),
        (Key::MaxSandboxes, "0", false),
        (Key::MaxSandboxes, "4096", true),
        (Key::BootTimeout, "0s", false),
        (Key::BootTimeout, "3600001ms", false),
        (Key::BootTimeout, "60m", true),
        (Key::BootTimeout, "1h", true),
        (Key::BootTimeout, "1d", false),
        (Key::BootTimeout, "7", true),
        (Key::BootTimeout, "99999999999999999999", false),
        (Key::JailUids, "1-4294967294", true),
        (Key::JailUids, "0-9", false),
        (Key::JailUids, "9-4294967295", false),
        (Key::JailUids, "9-8", false),
        (Key::JailUids, "1900000000", false),
        (Key::JailUids, "7-7", true),
        (Key::PoolSize, "256", true),
        (Key::PoolSize, "257", false),
        (Key::PoolSize, "off", true),
        (Key::PoolSize, "many", false),
        (Key::PoolMemoryMib, "256", true),
        (Key::PoolMemoryMib, "255", false),
        (Key::PoolMemoryMib, "18446744073709551615", false),
        (Key::NodeKey, "", true),
        (Key::NodeKey, "eu12", true),
        (Key::NodeKey, "eu123", false),
        (Key::NodeKey, "EU", false),
        (Key::NodeKey, "é", false),
        (Key::RunDir, "", false),
        (Key::RunDir, &long, false),
        (Key::Vmm, "xen", false),
        (Key::Templates, "perhaps", false),
        (Key::NoSeccomp, "off", true),
        (Key::NoSeccomp, "perhaps", false),
        (Key::AllowedHost, "a-1.example", true),
        (Key::AllowedHost, "a:80", false),
        (Key::AllowedHost, "http://a", false),
        (Key::AllowedHost, "", false),
        (Key::AllowedOrigin, "https://a-1.example", true),
        (Key::AllowedOrigin, "http://localhost:3000", true),
        (Key::AllowedOrigin, "https://a/", false),
        (Key::AllowedOrigin, "null", false),
        (Key::AllowedOrigin, "*", false),
        (Key::AllowedOrigin, "", false),
        (Key::AllowedOrigin, "https://8000-sb-0123456789ab.example", false),
    ];
    for (key, value, valid) in cases {
        let name = key.definition().flag();
        match config(&[(key, value)]) {
            Ok(_) => assert!(valid, "{name} {value}"),
            Err(problems) => {
                assert!(!valid, "{name} {value}: {problems}");
                let [problem] = &problems.0[..] else { panic!("{problems}") };
                assert!(problem.error.starts_with(&name), "{problem:?}");
                assert!(!problem.hint.is_empty(), "{problem:?}");
            }
        }
    }
}

#[test]
fn a_node_key_leaves_less_room_for_the_run_directory() {
    let path = format!("/{}", "x".repeat(RUN_DIR_BYTES_MAX - 1));
    assert!(config(&[(Key::RunDir, &path)]).is_ok());
    assert!(config(&[(Key::RunDir, &path), (Key::NodeKey, "a")]).is_err());
    assert!(config(&[(Key::RunDir, &path[..path.len() - 1]), (Key::NodeKey, "a")]).is_ok());
}

#[test]
fn every_problem_is_reported_at_once() {
    let wrong = [(Key::Vmm, "xen"), (Key::GuestRamMib, "1"), (Key::BootTimeout, "soon")];
    let problems = config(&wrong).unwrap_err();
    assert_eq!(problems.0.len(), wrong.len(), "{problems}");
    let report = problems.report();
    assert!(report.contains("error: --vmm is `xen`, not one of auto, firecracker, qemu\nhint: "));
    assert!(report.contains("--guest-ram-mib is `1`, not between 64 and 1048576 MiB"), "{report}");
}

#[test]
fn a_pool_needs_templates_and_memory() {
    let pool = |options: &[(Key, &str)]| {
        config(options).unwrap().pool_in_use().map(|pool| (pool.size, pool.memory_mib))
    };
    assert_eq!(pool(&[(Key::PoolSize, "off")]), None);
    assert_eq!(pool(&[(Key::PoolSize, "0")]), None);
    assert_eq!(pool(&[(Key::PoolSize, "9")]), Some((9, 2048)));
    assert_eq!(pool(&[(Key::PoolSize, "9"), (Key::Templates, "off")]), None);
    // A quarter of this host does not hold one such guest.
    assert_eq!(pool(&[(Key::GuestRamMib, "2049")]), None);
    assert!(config(&[(Key::GuestRamMib, "512"), (Key::PoolMemoryMib, "511")]).is_err());
}

#[test]
fn all_sandboxes_have_memory_for_one_guest_at_least() {
    let memory = |options: &[(Key, &str)]| config(options).map(|config| config.memory_mib);
    assert_eq!(memory(&[]).unwrap(), 12288, "one and a half times this host's");
    assert_eq!(memory(&[(Key::GuestRamMib, "16GiB")]).unwrap(), 16384);
    assert_eq!(memory(&[(Key::MemoryMib, "1GiB")]).unwrap(), 1024);
    let refused = memory(&[(Key::GuestRamMib, "512"), (Key::MemoryMib, "511")]).unwrap_err();
    assert!(refused.to_string().contains("less than one guest of 512 MiB"), "{refused}");
}

#[test]
fn only_qemu_emulates_in_software() {
    let vmm = |options: &[(Key, &str)]| config(options).map(|config| (config.vmm, config.accel));
    let chosen = vmm(&[(Key::Accel, "tcg")]).unwrap();
    assert_eq!(chosen, (VmmChoice::Qemu, AccelChoice::Tcg));
    assert_eq!(vmm(&[(Key::Accel, "kvm")]).unwrap(), (VmmChoice::Auto, AccelChoice::Kvm));
    let refused = vmm(&[(Key::Vmm, "firecracker"), (Key::Accel, "tcg")]).unwrap_err();
    assert!(refused.to_string().contains("Firecracker needs KVM"), "{refused}");
}

#[test]
fn paths_become_absolute_and_kernel_arguments_words() {
    let config = config(&[
        (Key::RunDir, "run"),
        (Key::Kernel, "vmlinux"),
        (Key::TemplateDir, "templates"),
        (Key::KernelArgs, " quiet  loglevel=3 "),
    ]);
    let config = config.unwrap();
    assert!(config.run_dir.is_absolute() && config.template_dir.is_absolute());
    assert!(config.kernel.unwrap().is_absolute());
    assert_eq!(config.kernel_args, ["quiet", "loglevel=3"]);
}
