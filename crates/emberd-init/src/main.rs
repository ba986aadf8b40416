//! PID 1 and agent of an emberd guest.
//!
//! As PID 1, it turns kernel, initramfs and root image into a machine, then serves the host.
//! Otherwise it is the agent only, on a Unix socket:
//! `emberd-init --listen SOCKET --pack PACK_JSON [--scratch DIR] [--ready SOCKET]
//! [--egress RESOLV_CONF]`.

use std::convert::Infallible;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

mod accept;
mod agent;
mod boot;
mod connection;
mod console;
mod context;
mod dial;
mod disk;
mod duplex;
mod egress;
mod environment;
mod exec;
mod files;
mod flags;
mod gather;
mod machine;
mod metrics;
mod process;
mod process_tree;
mod programs;
mod reaper;
mod residents;
mod serve;
mod sys;
mod uevents;
mod users;
mod zygote;

use agent::{Agent, BootTimes, Scratch};
use egress::Egress;
use environment::Environment;
use flags::Flags;
use process_tree::Cgroups;
use uevents::Uevents;

/// File that names the resolver of a guest.
const RESOLV_CONF: &str = "/etc/resolv.conf";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        let Err(error) = be_init();
        boot::give_up(error.as_ref())
    }
    match be_agent() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::report(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

/// Boots the guest and serves the host until the machine ends.
fn be_init() -> Result<Infallible, Box<dyn Error>> {
    let init_started_us = machine::boot_time_us();
    boot::mount_kernel_filesystems()?;
    let uevents = Uevents::subscribe()?;
    boot::load_modules();
    let bounds = boot::Bounds::of_machine()?;
    let disk = boot::mount_root(&uevents, &bounds)?;
    boot::switch_root()?;
    boot::mount_runtime_filesystems(&bounds)?;
    bounds.hold_shared_objects();
    boot::name_host()?;
    boot::raise_open_file_limit()?;
    sys::bring_loopback_up()?;
    let egress = Egress::set_up(Path::new(RESOLV_CONF));
    let pack = agent::read_pack(Path::new(emberd_proto::pack::PACK_FILE))?;
    let scratch = Scratch::open(boot::SCRATCH.into())?;
    let environment = Environment::inherited().normalised(users::shell_of_root());
    let mut agent = Agent::new(pack, &environment, scratch);
    agent.cgroups = Cgroups::probe();
    agent.boot_times = Some(BootTimes { init_started_us, serving_us: machine::boot_time_us() });
    agent.owns_machine = true;
    agent.disk = disk;
    agent.egress = egress;
    agent.residents.bytes_max = bounds.events_bytes();
    console::tell_ready();
    Ok(serve::guest(agent, uevents)?)
}

/// Serves a Unix socket until SIGTERM or SIGINT.
fn be_agent() -> Result<(), Box<dyn Error>> {
    let flags = Flags::parse(std::env::args_os().skip(1))?;
    sys::shed_inheritance();
    process_tree::adopt_orphans()?;
    let pack = agent::read_pack(&flags.pack)?;
    let scratch = Scratch::open(flags.scratch)?;
    let mut agent = Agent::new(pack, &Environment::inherited(), scratch);
    if let Some(resolv_conf) = flags.egress {
        sys::bring_loopback_up()?;
        agent.egress = Egress::set_up(&resolv_conf);
    }
    Ok(serve::unix(agent, &flags.listen, flags.ready)?)
}
