//! Configures the VM: each resource is checked, and its files are opened, when it is set.

use std::fs::File;
use std::io;
use std::path::Path;

use super::{Answer, Machine, PCI_ONLY, Phase, Refusal};
use crate::api::request::Call;
use crate::resources::{
    Drive, DriveUpdate, HugePages, IoEngine, Logger, MachineConfig, Metrics, Vsock,
};
use crate::vsock::{Device, Settings};

/// Maximum length of the kernel command line, in bytes. reference §1.2.
const BOOT_ARGS_BYTES_MAX: usize = 2048;

impl Machine {
    /// Calls after which no snapshot can be loaded. reference §1.4.
    pub(super) fn configure(&mut self, call: Call) -> Result<(), Refusal> {
        self.boot_path = true;
        match call {
            Call::PutBootSource(source) => {
                let opened = |what, path: &Path| {
                    File::open(path)
                        .map_err(|error| Refusal::new(format!("Boot source error: {what}{error}")))
                };
                let kernel =
                    opened("The kernel file cannot be opened: ", &source.kernel_image_path)?;
                if let Some(initrd) = &source.initrd_path {
                    let what = "The initrd file cannot be opened due to invalid path or invalid \
                                permissions. ";
                    opened(what, initrd)?;
                }
                if source.boot_args.as_ref().is_some_and(|args| args.len() >= BOOT_ARGS_BYTES_MAX) {
                    let message = "Boot source error: The kernel command line is invalid: \
                                   Invalid cmdline capacity provided.";
                    return Err(Refusal::new(message));
                }
                self.kernel = Some(kernel);
                self.resources.boot_source = source;
            }
            Call::PutMachineConfig(config) => self.set_machine_config(config)?,
            Call::PatchMachineConfig(update) => {
                self.set_machine_config(update.applied_to(&self.resources.machine_config))?;
            }
            Call::PutVsock(vsock) => {
                // This is the only case in which Firecracker unlinks the socket. reference §1.1.
                if let Some(device) = self.vsock.take() {
                    std::fs::remove_file(device.uds_path()).ok();
                }
                self.vsock = Some(self.bind(&vsock, 0).map_err(|error| vsock_refusal(&error))?);
                self.resources.vsock = Some(Vsock { vsock_id: None, ..vsock });
            }
            Call::PutEntropy(entropy) => self.resources.entropy = Some(entropy),
            _ => unreachable!("every other call is handled before"),
        }
        Ok(())
    }

    pub(super) fn put_logger(&self, logger: &Logger) -> Result<(), Refusal> {
        if let Some(level) = logger.level {
            self.log.set_level(level);
        }
        if let Some(show) = logger.show_level {
            self.log.set_show_level(show);
        }
        if let Some(path) = &logger.log_path {
            let wrong =
                |error| Refusal::new(format!("Logger error: Failed to open target file: {error}"));
            self.log.send_to(path, self.makes_files()).map_err(wrong)?;
        }
        Ok(())
    }

    /// Opens the file, which stays empty.
    pub(super) fn put_metrics(&mut self, metrics: &Metrics) -> Result<(), Refusal> {
        let refusal = |reason: &str| {
            Refusal::new(format!(
                "Metrics error: Cannot initialize the metrics system due to bad user input: \
                 {reason}"
            ))
        };
        let path = &metrics.metrics_path;
        let file = File::options().append(true).create(self.makes_files()).open(path);
        let file = file.map_err(|error| refusal(&error.to_string()))?;
        if self.metrics.is_some() {
            return Err(refusal("Reinitialization of metrics not allowed."));
        }
        self.metrics = Some(file);
        Ok(())
    }

    /// Since 1.14, missing log and metrics files are created. reference §1.6.
    fn makes_files(&self) -> bool {
        self.config.version.since(1, 14)
    }

    fn set_machine_config(&mut self, config: MachineConfig) -> Result<(), Refusal> {
        let odd_threads = config.smt && config.vcpu_count > 1 && config.vcpu_count % 2 == 1;
        if !(1..=32).contains(&config.vcpu_count) || odd_threads {
            return Err(Refusal::new(
                "Machine config error: The number of vCPUs must be greater than 0, less than 32 \
                 and must be 1 or an even number if SMT is enabled.",
            ));
        }
        let is_huge = config.huge_pages != HugePages::None;
        if config.mem_size_mib == 0 || (is_huge && config.mem_size_mib % 2 == 1) {
            return Err(Refusal::new(
                "Machine config error: The memory size (MiB) is either 0, or not a multiple of \
                 the configured page size.",
            ));
        }
        self.resources.machine_config = config;
        Ok(())
    }

    /// Before boot, a drive is configured; after it, it is plugged in, which needs PCI.
    pub(super) fn put_drive(&mut self, mut drive: Drive) -> Result<Answer, Refusal> {
        if self.phase != Phase::NotStarted {
            return Err(Refusal::new(PCI_ONLY));
        }
        self.boot_path = true;
        let drives = &mut self.resources.drives;
        let known = drives.iter().position(|other| other.drive_id == drive.drive_id);
        let has_root = drives.first().is_some_and(|first| first.is_root_device);
        if drive.is_root_device && has_root && known != Some(0) {
            return Err(Refusal::new("Drive config error: A root block device already exists!"));
        }
        open_drive(&drive).map_err(|reason| {
            Refusal::new(format!(
                "Drive config error: Unable to create the virtio block device: {reason}"
            ))
        })?;
        drive.io_engine.get_or_insert(IoEngine::Sync);
        match known {
            Some(at) => drives[at] = drive,
            None if drive.is_root_device => drives.insert(0, drive),
            None => drives.push(drive),
        }
        Ok(None)
    }

    pub(super) fn patch_drive(&mut self, update: DriveUpdate) -> Result<(), Refusal> {
        let refusal = |reason: &str| {
            Refusal::new(format!(
                "Drive config error: Unable to patch the block device: {reason} Please verify \
                 the request arguments."
            ))
        };
        let drives = &mut self.resources.drives;
        let drive = drives.iter_mut().find(|drive| drive.drive_id == update.drive_id);
        let Some(drive) = drive else {
            return Err(refusal("Failed perform action on device: Device not found"));
        };
        if update.path_on_host.is_none() && update.rate_limiter.is_none() {
            return Err(refusal("Block: Running method expected different backend."));
        }
        let mut changed = drive.clone();
        changed.path_on_host = update.path_on_host.or(changed.path_on_host);
        changed.rate_limiter = update.rate_limiter.or(changed.rate_limiter);
        open_drive(&changed).map_err(|reason| refusal(&format!("Block: {reason}")))?;
        *drive = changed;
        Ok(())
    }

    pub(super) fn bind(&self, vsock: &Vsock, host_port_last: u32) -> io::Result<Device> {
        Device::bind(Settings {
            uds_path: vsock.uds_path.clone(),
            guest_dir: self.guest_dir.path().to_owned(),
            no_listener: self.config.faults.no_listener(),
            cut: self.config.faults.vsock_cut(),
            host_port_last,
        })
    }
}

pub(super) fn open_drive(drive: &Drive) -> Result<(), String> {
    if drive.socket.is_some() {
        return Err("fake-firecracker does not imitate vhost-user".to_owned());
    }
    let Some(path) = &drive.path_on_host else {
        return Err("Invalid block config.".to_owned());
    };
    let read_only = drive.is_read_only.unwrap_or(false);
    File::options().read(true).write(!read_only).open(path).map(drop).map_err(|error| {
        format!(
            "Virtio backend error: Error manipulating the backing file: {error} {}",
            path.display()
        )
    })
}

fn vsock_refusal(error: &io::Error) -> Refusal {
    Refusal::new(format!(
        "Vsock config error: Cannot create backend for vsock device: Error binding to the \
         host-side Unix socket: {error}"
    ))
}
