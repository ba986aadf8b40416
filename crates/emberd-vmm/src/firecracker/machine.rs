//! Configuration of a microVM, as API calls and as a configuration file.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::api::types::{BootSource, Drive, Entropy, MachineConfig, Serial, TokenBucket, Vsock};
use crate::BootSpec;

/// Name of the vsock socket in the VMM's directory. Relative, so that every clone of one
/// template has its own in its own directory.
pub(super) const VSOCK_SOCKET: &str = "v.sock";

/// Id of the guest's own disk.
pub(super) const DISK_ID: &str = "disk";

/// Name of the guest's own disk in the VMM's directory.
pub(super) const DISK_STAGED: &str = "disk.img";

/// Every guest's vsock address. It is not visible on the host, so all may have the same.
const GUEST_CID: u32 = 3;

/// Most bytes of kernel arguments (Firecracker's limit), less what Firecracker adds itself:
/// `pci=off` and one `virtio_mmio.device=` for each of four devices.
const KERNEL_ARGS_BYTES_MAX: usize = 2048 - 192;

/// Arguments of every guest kernel. A guest that reboots (`reboot=k`) or panics ends its
/// VMM; the rest shortens the boot: no probing for a keyboard controller's ports, no bounce
/// buffer, no self-tests, no waiting for entropy.
const KERNEL_ARGS: &str = "reboot=k panic=-1 i8042.noaux i8042.nomux i8042.nopnp \
    i8042.dumbkbd swiotlb=noforce cryptomgr.notests random.trust_cpu=on quiet rdinit=/init";

/// No serial port: each byte of console output is an exit to the VMM.
const CONSOLE_OFF: &str = "8250.nr_uarts=0 loglevel=0";

/// Kernel messages from warnings up, and whatever init prints.
const CONSOLE_ON: &str = "console=ttyS0";

/// Bytes of console output per second a guest may write, and at first (the log's size).
const SERIAL_LIMIT: TokenBucket =
    TokenBucket { size: 64 << 10, refill_time: 1000, one_time_burst: crate::LOG_BYTES_MAX };

/// The kernel arguments are longer than the VMM takes.
#[derive(Debug, thiserror::Error)]
#[error("the kernel arguments are {bytes} bytes long, over the limit of {KERNEL_ARGS_BYTES_MAX}")]
pub struct KernelArgsTooLong {
    /// Their length.
    pub bytes: usize,
}

/// Where the VMM finds the files of a microVM.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    pub(super) rootfs: PathBuf,
    /// The guest's own disk, if it has one.
    pub(super) disk: Option<PathBuf>,
}

impl Files {
    /// Their names in the VMM's own directory, where a driver puts them.
    pub(super) fn staged(has_disk: bool) -> Self {
        Self {
            kernel: "vmlinux".into(),
            initramfs: "initramfs.cpio".into(),
            rootfs: "rootfs.img".into(),
            disk: has_disk.then(|| DISK_STAGED.into()),
        }
    }

    fn of(spec: &BootSpec) -> Self {
        Self {
            kernel: spec.kernel.clone(),
            initramfs: spec.initramfs.clone(),
            rootfs: spec.rootfs.clone(),
            disk: None,
        }
    }
}

/// A microVM's configuration. Serialised it is Firecracker's configuration file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::struct_field_names, reason = "the field is Firecracker's")]
pub(super) struct Machine {
    pub(super) machine_config: MachineConfig,
    pub(super) boot_source: BootSource,
    pub(super) drives: Vec<Drive>,
    pub(super) vsock: Vsock,
    pub(super) entropy: Entropy,
}

impl Machine {
    /// Returns the configuration for `spec`, with the files at `files`.
    pub(super) fn new(
        spec: &BootSpec,
        files: Files,
        console: bool,
    ) -> Result<Self, KernelArgsTooLong> {
        let drive = |drive_id, path_on_host, is_read_only| Drive {
            drive_id,
            path_on_host,
            // With an initramfs the kernel mounts no root itself; init mounts the image.
            is_root_device: false,
            is_read_only,
            // The other engine, Async, adds up to 110 ms to every boot and restore.
            io_engine: "Sync",
        };
        let image = drive("rootfs", files.rootfs, true);
        let disk = files.disk.map(|disk| drive(DISK_ID, disk, false));
        Ok(Self {
            machine_config: MachineConfig {
                vcpu_count: spec.vcpu_count,
                mem_size_mib: spec.mem_size_mib,
            },
            boot_source: BootSource {
                kernel_image_path: files.kernel,
                initrd_path: files.initramfs,
                boot_args: kernel_args(&spec.kernel_args, console)?,
            },
            drives: [image].into_iter().chain(disk).collect(),
            vsock: Vsock { guest_cid: GUEST_CID, uds_path: VSOCK_SOCKET },
            entropy: Entropy {},
        })
    }
}

/// Limits the guest's serial port; it can be switched on by the guest even if it is off.
pub(super) fn serial() -> Serial {
    Serial { rate_limiter: SERIAL_LIMIT }
}

fn kernel_args(extra: &[String], console: bool) -> Result<String, KernelArgsTooLong> {
    let console = if console { CONSOLE_ON } else { CONSOLE_OFF };
    let own = [KERNEL_ARGS, console];
    let args: Vec<&str> = own.into_iter().chain(extra.iter().map(String::as_str)).collect();
    let args = args.join(" ");
    if args.len() > KERNEL_ARGS_BYTES_MAX {
        return Err(KernelArgsTooLong { bytes: args.len() });
    }
    Ok(args)
}

/// The configuration file with which `firecracker --no-api --config-file` boots what
/// [`super::Firecracker`] would boot from `spec`, as JSON. Its vsock socket is made in the
/// directory Firecracker runs in.
///
/// # Errors
/// [`KernelArgsTooLong`].
///
/// # Panics
/// Never: the configuration is plain data.
pub fn vmconfig(spec: &BootSpec, console: bool) -> Result<String, KernelArgsTooLong> {
    let machine = Machine::new(spec, Files::of(spec), console)?;
    Ok(serde_json::to_string_pretty(&machine).expect("it is plain data"))
}

/// The name a VMM goes by: the last component of its directory, as Firecracker takes it
/// (letters, digits and `-`, at most 64).
pub(super) fn vm_id(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let id: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(64).collect();
    if id.is_empty() { "vm".to_owned() } else { id }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> BootSpec {
        BootSpec {
            dir: "/run/emberd/sb_1".into(),
            kernel: "/images/vmlinux".into(),
            kernel_hz: None,
            initramfs: "/images/initramfs".into(),
            rootfs: "/images/python.squashfs".into(),
            disk: None,
            kernel_args: vec!["mitigations=off".into(), "A=B".into()],
            vcpu_count: 2,
            mem_size_mib: 256,
            for_template: false,
        }
    }

    #[test]
    fn golden_configuration_file() {
        let expect = r#"{
  "machine-config": {
    "vcpu_count": 2,
    "mem_size_mib": 256
  },
  "boot-source": {
    "kernel_image_path": "/images/vmlinux",
    "initrd_path": "/images/initramfs",
    "boot_args": "reboot=k panic=-1 i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd swiotlb=noforce cryptomgr.notests random.trust_cpu=on quiet rdinit=/init console=ttyS0 mitigations=off A=B"
  },
  "drives": [
    {
      "drive_id": "rootfs",
      "path_on_host": "/images/python.squashfs",
      "is_root_device": false,
      "is_read_only": true,
      "io_engine": "Sync"
    }
  ],
  "vsock": {
    "guest_cid": 3,
    "uds_path": "v.sock"
  },
  "entropy": {}
}"#;
        assert_eq!(vmconfig(&spec(), true).unwrap(), expect);
    }

    #[test]
    fn console_is_off_unless_asked_for() {
        let args = kernel_args(&[], false).unwrap();
        assert!(args.contains("8250.nr_uarts=0") && !args.contains("console="), "{args}");
        let args = kernel_args(&[], true).unwrap();
        assert!(args.contains("console=ttyS0") && !args.contains("nr_uarts"), "{args}");
        assert!(args.contains("quiet"), "{args}");
    }

    #[test]
    fn kernel_arguments_have_a_limit() {
        let own = kernel_args(&[], false).unwrap().len() + 1;
        let fits = "x".repeat(KERNEL_ARGS_BYTES_MAX - own);
        assert_eq!(
            kernel_args(std::slice::from_ref(&fits), false).unwrap().len(),
            KERNEL_ARGS_BYTES_MAX
        );
        let error = kernel_args(&[fits + "x"], false).unwrap_err();
        assert_eq!(error.bytes, KERNEL_ARGS_BYTES_MAX + 1);
    }

    #[test]
    fn vm_ids_keep_to_firecrackers_letters() {
        let long = "x".repeat(80);
        let cases = [("/run/sb_0a1b", "sb-0a1b"), ("/", "vm"), (long.as_str(), &long[..64])];
        for (dir, expect) in cases {
            assert_eq!(vm_id(Path::new(dir)), expect);
        }
    }
}
