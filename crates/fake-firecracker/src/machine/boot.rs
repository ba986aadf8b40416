//! Starts the guest.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::thread;

use emberd_proto::message::{AGENT_PORT, READY_PORT};
use tokio::net::UnixListener;

use super::{Machine, Phase, Refusal};
use crate::exits::Exits;
use crate::guest::Guest;

/// Default kernel arguments. reference §2.
const BOOT_ARGS_DEFAULT: &str = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux \
                                 i8042.nomux i8042.dumbkbd swiotlb=noforce";
/// The first bytes of a kernel image.
const ELF_MAGIC: &[u8] = b"\x7fELF";

impl Machine {
    pub(super) fn start(&mut self) -> Result<(), Refusal> {
        let refusal = |reason: String| Refusal::new(format!("Start microvm error: {reason}"));
        let Some(kernel) = &self.kernel else {
            let reason = "Cannot start microvm without kernel configuration.";
            return Err(refusal(reason.to_owned()));
        };
        let mut magic = [0; ELF_MAGIC.len()];
        if kernel.read_exact_at(&mut magic, 0).is_err() || magic != ELF_MAGIC {
            return Err(refusal(
                "System configuration error: Cannot load kernel due to invalid memory \
                 configuration or invalid kernel image: Kernel Loader: failed to load ELF \
                 kernel image"
                    .to_owned(),
            ));
        }
        self.phase = Phase::Running;
        if let Some(code) = self.config.faults.death_at_boot() {
            Exits::last_words(&self.log, code);
            self.exits.after_answer(code);
            return Ok(());
        }
        self.run_guest().map_err(|error| refusal(format!("cannot start the agent: {error}")))
    }

    /// Starts the agent, and lets the device accept connections.
    pub(super) fn run_guest(&mut self) -> io::Result<()> {
        let boot_args = self.resources.boot_source.boot_args.as_deref();
        let boot_args = boot_args.unwrap_or(BOOT_ARGS_DEFAULT);
        let pack = self.resources.drives.first().and_then(|drive| drive.path_on_host.as_deref());
        if let Some(vsock) = &mut self.vsock {
            vsock.serve_guest(UnixListener::bind(self.guest_dir.host())?);
            vsock.serve_dials(UnixListener::bind(self.guest_dir.ready())?, READY_PORT);
        }
        let guest = Guest::start(&self.config.agent, &self.guest_dir, pack, boot_args)?;
        // reference §1.5: `reboot=k` resets through the i8042 and the VMM ends with 0, any
        // other reset is a triple fault and 1.
        let exit_code = u8::from(!boot_args.split_whitespace().any(|word| word == "reboot=k"));
        let end = guest.end()?;
        let (exits, log) = (self.exits.clone(), self.log.clone());
        thread::spawn(move || {
            end.wait();
            log.info("Vmm is stopping.");
            exits.now(exit_code);
        });
        self.guest = Some(guest);
        if let Some(vsock) = &self.vsock {
            vsock.set_running(true);
            match self.config.faults.boot_duration() {
                Some(_) if self.restored => vsock.activate_with_listener(AGENT_PORT),
                Some(boot) => vsock.activate_after(boot),
                None => {}
            }
        }
        Ok(())
    }
}
