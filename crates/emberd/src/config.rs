//! `emberd config`, and what the configuration means for sandboxes.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use emberd_config::{Config, NODE_KEY_BYTES_MAX, OnStart, RUN_DIR_BYTES_MAX, Shown};
use emberd_sandbox::{
    DiskConfig, EXEC_GRACE_DEFAULT, NodeKey, Pace, PoolConfig, SandboxesConfig, Size,
};
use emberd_vmm::VmmDescription;

// The options have the limits that sandboxes have.
const _: () = assert!(RUN_DIR_BYTES_MAX == emberd_sandbox::RUN_DIR_BYTES_MAX);
const _: () = assert!(NODE_KEY_BYTES_MAX == NodeKey::BYTES_MAX);

/// Time without use after which sandboxes are frozen where no option says it: an idle guest in
/// software emulation takes some per cent of a processor.
const IDLE_FREEZE_EMULATED: Duration = Duration::from_secs(30);

/// The settings of all sandboxes of a daemon with `config` over `vmm`.
///
/// # Panics
/// When the configuration holds a node key that it should have refused.
pub fn sandboxes(config: &Config, vmm: &VmmDescription) -> SandboxesConfig {
    let pool = config.pool_in_use().map(|pool| PoolConfig {
        size: pool.size,
        memory_mib_max: pool.memory_mib,
        pace: Pace::default(),
        pressure: PoolConfig::PRESSURE.into(),
    });
    SandboxesConfig {
        run_dir: config.run_dir.clone(),
        adopt: config.on_start == OnStart::Adopt,
        node_key: config.node_key.parse().expect("the configuration checks the node key"),
        sandboxes_max: config.max_sandboxes,
        memory_mib_total: config.memory_mib,
        boot_timeout: config.boot_timeout,
        exec_grace: EXEC_GRACE_DEFAULT,
        size: Size { vcpus: config.guest_vcpus, memory_mib: config.guest_ram_mib },
        memory_mib_max: config.guest_ram_max_mib,
        timeout: config.timeout,
        timeout_max: config.timeout_max,
        idle_freeze: config.idle_freeze.unwrap_or_else(|| idle_freeze(vmm)),
        kernel_args: config.kernel_args.clone(),
        template_dir: config.templates.then(|| config.template_dir.clone()),
        template_disk_bytes: config.template_disk_mib << 20,
        disk: (config.disk_mib > 0).then(|| DiskConfig {
            dir: config.disk_dir.clone(),
            size_mib: config.disk_mib,
            size_mib_max: config.disk_max_mib,
        }),
        pool,
        // The daemon starts its threads.
        egress: None,
    }
}

fn idle_freeze(vmm: &VmmDescription) -> Option<Duration> {
    (vmm.accelerator == "tcg").then_some(IDLE_FREEZE_EMULATED)
}

/// Prints every option of `config`, as a table or as one JSON document.
///
/// # Errors
/// Standard output is closed or full.
pub fn print(config: &Config, json: bool) -> io::Result<()> {
    let shown = config.shown();
    if json {
        let document = serde_json::json!({ "file": config.file, "options": shown });
        return writeln!(io::stdout(), "{document:#}");
    }
    write!(io::stdout(), "{}", table(&shown))
}

fn table(shown: &[Shown]) -> String {
    let rows = shown.iter().map(|option| {
        let place = option.place.as_ref().map_or_else(String::new, |place| format!(" ({place})"));
        [option.option.to_owned(), value_text(option), format!("{}{place}", option.origin)]
    });
    let heading = ["OPTION", "VALUE", "FROM"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let (option_width, value_width) = (width(0), width(1));
    rows.iter().fold(String::new(), |mut text, [option, value, from]| {
        writeln!(text, "{option:<option_width$}  {value:<value_width$}  {from}")
            .expect("strings take everything");
        text
    })
}

/// A value for people; a default that is not known yet is described in parentheses.
fn value_text(option: &Shown) -> String {
    let text = match (&option.value, option.described) {
        (serde_json::Value::Null, Some(described)) => format!("({described})"),
        (serde_json::Value::String(text), _) if !text.is_empty() => text.clone(),
        (value, _) => value.to_string(),
    };
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
