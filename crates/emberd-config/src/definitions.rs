//! The definitions: one entry per option.

use crate::definition::{DefaultValue, Definition, Key};
use crate::form::Form;
use crate::value::{
    AccelChoice, JailChoice, LogFormat, NODE_KEY_BYTES_MAX, OnStart, OnStop, Switch,
    TIMEOUT_MS_MAX, VmmChoice, possible,
};

mod access;
mod audit;
mod tls;

impl Key {
    /// The definition of this option.
    pub fn definition(self) -> &'static Definition {
        &DEFINITIONS[self as usize]
    }
}

const BASE: Definition = Definition::BASE;

/// Every option, in the order of the reference page.
pub static DEFINITIONS: [Definition; 55] = [
    Definition {
        key: Key::Addr,
        name: "addr",
        value_name: "ADDR",
        default: DefaultValue::Text(emberd_api::ADDR_DEFAULT),
        form: Form::Address,
        about: "Address that the API is served on",
        detail: "Port 0 picks a free port.",
        ..BASE
    },
    Definition {
        key: Key::Socket,
        name: "socket",
        value_name: "auto|off|PATH",
        default: DefaultValue::Text("auto"),
        form: Form::PathOrNot,
        about: "Unix socket that the API is served on beside a TCP address",
        detail: "`auto` applies to the default address only: `/run/emberd/emberd.sock` for root, \
            else `$XDG_RUNTIME_DIR/emberd/emberd.sock`. Without that variable, there is none. \
            Clients try this socket first.",
        ..BASE
    },
    tls::CERT,
    tls::KEY,
    tls::CLIENT_CA,
    Definition {
        key: Key::AllowedHost,
        name: "allowed-host",
        value_name: "NAME",
        form: Form::HostNames { most: 64, bytes_max: 253 },
        about: "Additional host name in requests to the API",
        detail: "A reverse proxy needs this option. Repeat the flag, or separate names by commas. \
            `localhost`, IP addresses and the name in `--addr` are always allowed. A Unix socket \
            allows any name.",
        ..BASE
    },
    access::ALLOWED_ORIGIN,
    access::USERS,
    access::INSECURE_NO_AUTH,
    access::KEY_FILE,
    Definition {
        key: Key::RunDir,
        name: "run-dir",
        value_name: "DIR",
        default: DefaultValue::Described(
            "/var/lib/emberd/run for root, else $XDG_RUNTIME_DIR/emberd or /tmp/emberd-UID",
        ),
        about: "Directory of per-sandbox state",
        detail: "Each daemon needs its own directory. The path has at most 70 bytes, less the \
            length of the node key, because paths of Unix sockets start with it.",
        ..BASE
    },
    Definition {
        key: Key::OnStart,
        name: "on-start",
        value_name: "adopt|clean",
        default: DefaultValue::Text("adopt"),
        form: Form::Choice(possible::<OnStart>),
        about: "Fate of the sandboxes of an earlier daemon that still run",
        detail: "With `adopt`, this daemon takes them over. A microVM whose records it cannot read \
            is listed by `emberctl info` and left alone. `clean` removes all of them.",
        ..BASE
    },
    Definition {
        key: Key::OnStop,
        name: "on-stop",
        value_name: "delete|keep",
        default: DefaultValue::Text("delete"),
        form: Form::Choice(possible::<OnStop>),
        about: "Fate of the sandboxes when the daemon is stopped by SIGTERM",
        detail: "With `keep`, they run on until the next daemon adopts them. SIGINT always deletes \
            them.",
        ..BASE
    },
    Definition {
        key: Key::DataDir,
        name: "data-dir",
        value_name: "DIR",
        default: DefaultValue::Described(
            "/var/lib/emberd for root, else $XDG_DATA_HOME/emberd or ~/.local/share/emberd",
        ),
        about: "Directory of kernel, initramfs and language packs",
        ..BASE
    },
    Definition {
        key: Key::NodeKey,
        name: "node-key",
        value_name: "KEY",
        default: DefaultValue::Text(""),
        form: Form::NodeKey { bytes_max: NODE_KEY_BYTES_MAX },
        about: "Key of this daemon in the ids of new sandboxes",
        detail: "Ids are `sb_`, the key and 12 hexadecimal digits. Daemons behind one proxy take \
            different keys, so that an id identifies its daemon.",
        ..BASE
    },
    Definition {
        key: Key::Vmm,
        name: "vmm",
        value_name: "VMM",
        default: DefaultValue::Text("auto"),
        form: Form::Choice(possible::<VmmChoice>),
        about: "VMM that runs the sandboxes",
        detail: "`auto` uses Firecracker if it is installed and KVM is usable, else QEMU.",
        ..BASE
    },
    Definition {
        key: Key::Firecracker,
        name: "firecracker",
        value_name: "FILE",
        default: DefaultValue::Described(
            "firecracker/current/firecracker in the data directory, else from the search path",
        ),
        about: "Firecracker binary",
        ..BASE
    },
    Definition {
        key: Key::Jailer,
        name: "jailer",
        value_name: "FILE",
        default: DefaultValue::Described("beside Firecracker, else from the search path"),
        about: "Jailer binary of Firecracker",
        ..BASE
    },
    Definition {
        key: Key::Jail,
        name: "jail",
        value_name: "WHEN",
        default: DefaultValue::Text("auto"),
        form: Form::Choice(possible::<JailChoice>),
        about: "Whether each VMM runs in a jail",
        detail: "`auto` uses a jail if the daemon is root and the host allows one. Firecracker \
            needs the jailer of its own release. The jail of QEMU is part of emberd.",
        ..BASE
    },
    Definition {
        key: Key::JailUids,
        name: "jail-uids",
        value_name: "FIRST-LAST",
        default: DefaultValue::Described("1900000000-1900009999"),
        // Root has no place in a jail, and the last number means "no user" (chown(2)).
        form: Form::UserIds { least: 1, most: u32::MAX - 1 },
        about: "User and group ids of the jails, one per jail",
        detail: "No other user or program on the host may have these ids.",
        ..BASE
    },
    Definition {
        key: Key::Netns,
        name: "netns",
        value_name: "FILE",
        default: DefaultValue::Described(
            "the daemon's for Firecracker, one without devices for QEMU",
        ),
        about: "Network namespace that the jails join",
        ..BASE
    },
    Definition {
        key: Key::Cgroup,
        name: "cgroup",
        value_name: "auto|off|DIR",
        default: DefaultValue::Text("auto"),
        form: Form::PathOrNot,
        about: "Directory of the cgroup hierarchy (version 2) with a cgroup for each VMM",
        detail: "`auto` is `/sys/fs/cgroup/emberd` for root, else the daemon's own cgroup if it was \
            delegated. A directory that is given must exist, and only the daemon may use it. \
            Controllers that it lacks limit nothing.",
        ..BASE
    },
    Definition {
        key: Key::NoSeccomp,
        name: "no-seccomp",
        value_name: "BOOL",
        default: DefaultValue::Text("false"),
        form: Form::Flag,
        about: "Run Firecracker without its system call filter, for experiments only",
        hidden: true,
        ..BASE
    },
    Definition {
        key: Key::Qemu,
        name: "qemu",
        value_name: "FILE",
        default: DefaultValue::Described("qemu-system-x86_64 from the search path"),
        about: "QEMU binary",
        ..BASE
    },
    Definition {
        key: Key::Accel,
        name: "accel",
        value_name: "ACCEL",
        default: DefaultValue::Text("auto"),
        form: Form::Choice(possible::<AccelChoice>),
        about: "Accelerator of the guests",
        detail: "`auto` uses KVM if it is usable, else `tcg`. `kvm` always uses KVM. `tcg` is software \
            emulation by QEMU.",
        ..BASE
    },
    Definition {
        key: Key::Console,
        name: "console",
        value_name: "on|off",
        default: DefaultValue::Described("on for QEMU, off for Firecracker"),
        form: Form::Choice(possible::<Switch>),
        about: "Whether guests write their console to a log",
        detail: "Firecracker boots more slowly with a console.",
        ..BASE
    },
    Definition {
        key: Key::GuestRamMib,
        name: "guest-ram-mib",
        value_name: "MIB",
        default: DefaultValue::Text("256"),
        // A guest with less does not boot; a value above 1 TiB is a typing error.
        form: Form::SizeMib { least: 64, most: 1 << 20 },
        about: "Memory of a sandbox whose creation names none, in MiB or with a unit such as 2GiB",
        ..BASE
    },
    Definition {
        key: Key::GuestRamMaxMib,
        name: "guest-ram-max-mib",
        value_name: "MIB",
        default: DefaultValue::Described("the memory of the host"),
        form: Form::SizeMib { least: 64, most: 1 << 20 },
        about: "Most memory that a creation may ask for, in MiB or with a unit such as 2GiB",
        detail: "The default of `--guest-ram-mib` is always allowed.",
        ..BASE
    },
    Definition {
        key: Key::GuestVcpus,
        name: "guest-vcpus",
        value_name: "N",
        default: DefaultValue::Text("1"),
        // The limit of Firecracker.
        form: Form::Count { least: 1, most: 32 },
        about: "Virtual processors of a sandbox whose creation names none",
        detail: "A creation may ask for as many as the host has, at most 32.",
        ..BASE
    },
    Definition {
        key: Key::Templates,
        name: "templates",
        value_name: "on|off",
        default: DefaultValue::Text("on"),
        form: Form::Choice(possible::<Switch>),
        about: "Whether sandboxes are restored from templates",
        detail: "A template is a snapshot of a booted microVM. `off` also switches pools off.",
        ..BASE
    },
    Definition {
        key: Key::TemplateDir,
        name: "template-dir",
        value_name: "DIR",
        default: DefaultValue::Described("templates in the data directory"),
        about: "Directory of templates",
        detail: "Daemons of one user can share the directory.",
        ..BASE
    },
    Definition {
        key: Key::TemplateDiskMib,
        name: "template-disk-mib",
        value_name: "MIB",
        // Some 40 templates of Python.
        default: DefaultValue::Text("4096"),
        form: Form::SizeMib { least: 64, most: 1 << 24 },
        about: "Most disk space of all templates, in MiB or with a unit such as 2GiB",
        detail: "Templates of other sizes than the default are removed when it is full, those used \
            longest ago first. Defaults and pinned ones stay.",
        ..BASE
    },
    Definition {
        key: Key::DiskMib,
        name: "disk-mib",
        value_name: "MIB|off",
        default: DefaultValue::Text("2048"),
        form: Form::SizeMibOrOff { least: 64, most: 1 << 24 },
        about: "Size of each guest's own disk, in MiB or with a unit such as 2GiB",
        detail: "Without a disk, what a guest writes is in its memory.",
        ..BASE
    },
    Definition {
        key: Key::DiskMaxMib,
        name: "disk-max-mib",
        value_name: "MIB",
        // Eight times the default. Disks are sparse, but one that is full is full on the host.
        default: DefaultValue::Text("16384"),
        form: Form::SizeMib { least: 64, most: 1 << 24 },
        about: "Largest disk that a creation may ask for, in MiB or with a unit such as 2GiB",
        detail: "The default of `--disk-mib` is always allowed.",
        ..BASE
    },
    Definition {
        key: Key::DiskDir,
        name: "disk-dir",
        value_name: "DIR",
        default: DefaultValue::Described("disks in the data directory"),
        about: "Directory in whose file system the disks of guests are",
        ..BASE
    },
    Definition {
        key: Key::PoolSize,
        name: "pool-size",
        value_name: "N|off",
        // A caller that asks for two sandboxes at once waits for neither.
        default: DefaultValue::Text("2"),
        // Each is a process and its memory.
        form: Form::CountOrOff { most: 256 },
        about: "Restored microVMs of each language pack that wait in the warm pool",
        ..BASE
    },
    Definition {
        key: Key::PoolMemoryMib,
        name: "pool-memory-mib",
        value_name: "MIB",
        default: DefaultValue::Described("a quarter of the memory of the host"),
        // At least one guest, which the conversion checks; a value above 16 TiB is a typing error.
        form: Form::SizeMib { least: 64, most: 1 << 24 },
        about: "Most memory of all waiting microVMs, in MiB or with a unit such as 2GiB",
        detail: "Each microVM counts with its full memory. The minimum is the memory of one \
            guest.",
        ..BASE
    },
    Definition {
        key: Key::MaxSandboxes,
        name: "max-sandboxes",
        value_name: "N",
        default: DefaultValue::Text("64"),
        form: Form::Count { least: 1, most: 4096 },
        about: "Most sandboxes at the same time",
        ..BASE
    },
    Definition {
        key: Key::MemoryMib,
        name: "memory-mib",
        value_name: "MIB",
        default: DefaultValue::Described("one and a half times the memory of the host"),
        // At least one guest, which the conversion checks; a value above 16 TiB is a typing error.
        form: Form::SizeMib { least: 64, most: 1 << 24 },
        about: "Most memory of all sandboxes together, in MiB or with a unit such as 2GiB",
        detail: "Each sandbox counts with its full memory, frozen ones too. Guests seldom use all of \
            it, and share what they have in common, so it may be more than the host has.",
        ..BASE
    },
    Definition {
        key: Key::BootTimeout,
        name: "boot-timeout",
        value_name: "DURATION",
        // Several times a boot under software emulation on a busy host.
        default: DefaultValue::Text("60s"),
        form: Form::Duration { least_ms: 1, most_ms: 3_600_000 },
        about: "Longest time a guest may take to boot, such as 500ms, 90s or 5m",
        detail: "Units are ms, s, m, h and d. A number without a unit is in seconds.",
        ..BASE
    },
    Definition {
        key: Key::Timeout,
        name: "timeout",
        value_name: "DURATION|never",
        default: DefaultValue::Text("never"),
        form: Form::DurationOrNever { least_ms: 1_000, most_ms: TIMEOUT_MS_MAX },
        about: "Timeout of sandboxes whose caller asks for none, such as 10m or 1h",
        detail: "A sandbox is deleted at its timeout.",
        ..BASE
    },
    Definition {
        key: Key::TimeoutMax,
        name: "timeout-max",
        value_name: "DURATION",
        default: DefaultValue::Text("30d"),
        form: Form::Duration { least_ms: 1_000, most_ms: TIMEOUT_MS_MAX },
        about: "Longest timeout that a caller may ask for",
        detail: "A caller may also ask for none.",
        ..BASE
    },
    Definition {
        key: Key::IdleFreeze,
        name: "idle-freeze",
        value_name: "DURATION|never",
        default: DefaultValue::Described("30s in software emulation, never with KVM"),
        form: Form::DurationOrNever { least_ms: 1_000, most_ms: 2_592_000_000 },
        about: "Time without use after which a sandbox is frozen whose caller does not say when",
        detail: "The guest of a frozen sandbox is stopped until the next request. An idle guest takes \
            processor time in software emulation, and hardly any with KVM.",
        ..BASE
    },
    Definition {
        key: Key::Kernel,
        name: "kernel",
        value_name: "FILE",
        default: DefaultValue::Described("the one in the data directory"),
        about: "Guest kernel (vmlinux)",
        ..BASE
    },
    Definition {
        key: Key::Initramfs,
        name: "initramfs",
        value_name: "FILE",
        default: DefaultValue::Described("the one in the data directory"),
        about: "Guest initramfs",
        ..BASE
    },
    Definition {
        key: Key::KernelArgs,
        name: "kernel-args",
        value_name: "WORDS",
        form: Form::Words,
        about: "Words to add to the kernel arguments of guests, separated by spaces",
        ..BASE
    },
    Definition {
        key: Key::Egress,
        name: "egress",
        value_name: "on|off",
        default: DefaultValue::Text("on"),
        form: Form::Choice(possible::<Switch>),
        about: "Whether sandboxes can reach other hosts, within their policies",
        detail: "With `on`, a sandbox reaches nothing until its creation or the operator's file \
            says what.",
        ..BASE
    },
    Definition {
        key: Key::EgressPolicy,
        name: "egress-policy",
        value_name: "FILE",
        about: "File with the most that sandboxes may reach, and the default",
        detail: "Without a file, callers may allow everything public, and the default is nothing. \
            SIGHUP reads the file again; the daemon keeps the old content if the new is invalid.",
        ..BASE
    },
    Definition {
        key: Key::Mcp,
        name: "mcp",
        value_name: "on|off",
        default: DefaultValue::Text("on"),
        form: Form::Choice(possible::<Switch>),
        about: "Whether agents can use sandboxes over MCP, by POST /mcp",
        detail: "Calls need the keys and scopes of the requests of the API that they make.",
        ..BASE
    },
    audit::AUDIT,
    audit::DIR,
    audit::FILE_MIB,
    audit::KEEP,
    audit::KEEP_MIB,
    Definition {
        key: Key::LogFormat,
        name: "log-format",
        value_name: "FORMAT",
        default: DefaultValue::Text("text"),
        form: Form::Choice(possible::<LogFormat>),
        about: "Format of the log on standard error",
        detail: "`RUST_LOG` filters the log.",
        ..BASE
    },
];
