//! `emberctl info`: what the daemon is and has.

use std::process::ExitCode;

use emberd_api::{AccessInfo, AccessOverTcp, Info, Pool, UnclaimedMicroVm};
use emberd_client::Client;
use serde::Serialize;

use crate::output::{self, Output};
use crate::resources;

/// Prints the daemon's description of itself.
///
/// # Errors
/// No daemon, or its refusal.
pub async fn run(client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    let info = client.info().await?;
    let endpoint = client.address().to_string();
    let document = Document { info: &info, endpoint: &endpoint };
    output.print(&document, || text(&info, &endpoint))?;
    Ok(ExitCode::SUCCESS)
}

/// The JSON output of `info`.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    info: &'a Info,
    /// Where the daemon was asked.
    endpoint: &'a str,
}

fn text(info: &Info, endpoint: &str) -> String {
    let vmm = &info.vmm;
    let or_nothing = |list: &[String]| match list {
        [] => "nothing".to_owned(),
        list => list.join(", "),
    };
    let mut facts = vec![
        ("version", info.version.clone()),
        ("asked at", endpoint.to_owned()),
        ("VMM", format!("{} {}, {}", vmm.driver, vmm.version, vmm.accelerator)),
        ("chosen because", vmm.reason.clone()),
        ("guest", format!("{} MiB, {} vCPU", info.guest_ram_mib, info.guest_vcpus)),
        ("boot path", info.boot_path.clone()),
        ("sandboxes", format!("{} of {}", info.sandboxes, info.sandboxes_max)),
        (
            "memory",
            format!("{} of {} MiB", info.sandboxes_memory_mib, info.sandboxes_memory_mib_max),
        ),
        ("limits", or_nothing(&info.limits)),
        ("directory", info.work_dir.clone()),
        ("access", access(&info.access)),
    ];
    if let Some(egress) = &info.egress {
        facts.push(("egress default", or_nothing(&egress.default)));
        facts.push(("egress ceiling", or_nothing(&egress.ceiling)));
    }
    if info.draining {
        facts.push(("draining", "no sandbox is created any more".to_owned()));
    }
    for UnclaimedMicroVm { dir, vmm_pid, why } in &info.unclaimed {
        facts.push(("left alone", format!("{dir} (process {vmm_pid}): {why}")));
    }
    if info.reaping > 0 {
        facts.push(("being removed", info.reaping.to_string()));
    }
    let labels = ["pools"].into_iter().chain(std::iter::repeat(""));
    facts.extend(labels.zip(info.pools.iter().map(pool)));
    let packs = info.packs.iter().map(|name| match info.pack_descriptions.get(name) {
        Some(description) => format!("{name}: {description}"),
        None => name.clone(),
    });
    let labels = ["packs"].into_iter().chain(std::iter::repeat(""));
    facts.extend(labels.zip(packs));
    output::facts(&facts)
}

fn access(AccessInfo { tcp, keys, problem }: &AccessInfo) -> String {
    let who = match tcp {
        AccessOverTcp::Open => "no key is needed".to_owned(),
        AccessOverTcp::Key => format!("TCP needs one of {keys} keys"),
        AccessOverTcp::Insecure => "TCP needs no key (--insecure-no-auth)".to_owned(),
    };
    problem.as_ref().map_or_else(|| who.clone(), |problem| format!("{who}; {problem}"))
}

fn pool(pool: &Pool) -> String {
    let Pool { language_pack, ready, filling, standing_by, target, .. } = pool;
    let Pool { vcpus, memory_mib, ceiling, handed_out, missed, discarded, .. } = pool;
    let raised = if ceiling > target { format!(", raised to {ceiling}") } else { String::new() };
    format!(
        "{language_pack} ({}): {ready} ready of {target}{raised}, {filling} filling, \
         {standing_by} standing by; {handed_out} handed out, {missed} missed, {discarded} discarded",
        resources::text((*vcpus).into(), (*memory_mib).into()),
    )
}
