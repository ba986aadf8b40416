//! QEMU's command line and the guest kernel's, each word with its reason.
//!
//! What is not named here does not exist in the guest: no default devices, no network, no
//! display, no monitor.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::{BootError, BootSpec};

/// QEMU's end of the agent channel, in the microVM's directory and relative to it: a socket
/// path has room for 107 bytes.
pub(super) const CHANNEL: &str = "agent.sock";

/// Name the guest finds the agent's virtio port by.
const PORT_NAME: &str = "emberd.agent";

/// No fork, no other user, no scheduling games, no obsolete system calls for a QEMU that a
/// guest has broken into.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The emulated processor: what binaries built for x86-64-v2 need, and the instructions
/// cryptography and the kernel's random numbers gain by. Wider models make the kernel save
/// and patch more: `max` takes a sixth more processor time to boot.
const CPU_TCG: &str = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf-lm,+aes,+rdrand,\
                       +rdseed,+smep";

/// Translated code QEMU keeps, in MiB. As quick as the default of a quarter of the guest's
/// memory, and less of the host's.
const TRANSLATION_MIB: u32 = 32;

/// What guests run on, with what that needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accel {
    Kvm,
    /// Software emulation on a host whose cycle counter runs at this frequency.
    Tcg {
        tsc_khz: u64,
    },
}

/// All that decides the command line.
pub(super) struct Arguments<'a> {
    pub(super) accel: Accel,
    pub(super) console: bool,
    pub(super) spec: &'a BootSpec,
}

impl Arguments<'_> {
    /// The words after the program's name.
    ///
    /// # Errors
    /// [`BootError::Prepare`] for a path that is not Unicode.
    pub(super) fn words(&self) -> Result<Vec<OsString>, BootError> {
        let spec = self.spec;
        let (accel, cpu) = match self.accel {
            Accel::Kvm => ("kvm".to_owned(), "host"),
            Accel::Tcg { .. } => (format!("tcg,tb-size={TRANSLATION_MIB}"), CPU_TCG),
        };
        let mut words: Vec<OsString> = Vec::new();
        let mut add = |option: &str, value: OsString| words.extend([option.into(), value]);
        // For people who look at process lists.
        if let Some(name) = spec.dir.file_name() {
            add("-name", name.into());
        }
        add("-machine", self.machine().into());
        add("-accel", accel.into());
        add("-cpu", cpu.into());
        add("-smp", spec.vcpu_count.to_string().into());
        add("-m", format!("{}M", spec.mem_size_mib).into());
        add("-kernel", absolute(&spec.kernel)?.into());
        add("-initrd", absolute(&spec.initramfs)?.into());
        add("-append", self.kernel_arguments().into());
        add("-blockdev", block_device(&spec.rootfs)?.into());
        add("-device", "virtio-blk-device,drive=root".into());
        add("-device", "virtio-rng-device".into());
        add("-device", "virtio-serial-device".into());
        // QEMU listens, so that the host can leave and come back.
        add("-chardev", format!("socket,id=agent,path={CHANNEL},server=on,wait=off").into());
        add("-device", format!("virtserialport,chardev=agent,name={PORT_NAME}").into());
        if self.console {
            // Signals stay signals: stdin is /dev/null and types nothing.
            add("-chardev", "stdio,id=console,signal=off".into());
            add("-serial", "chardev:console".into());
        }
        add("-display", "none".into());
        add("-sandbox", SANDBOX.into());
        // A guest that reboots, as it does when it panics, ends its VMM.
        words.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(OsString::from));
        Ok(words)
    }

    /// The board. Its virtio devices are described in ACPI, which is on by default: the
    /// distribution kernels do not read them from the command line. The clock chip stays,
    /// because kernels wait a second for one that does not answer; the timer and interrupt
    /// controller of the PC of 1981 go.
    fn machine(&self) -> String {
        let serial = if self.console { "on" } else { "off" };
        format!("microvm,x-option-roms=off,pit=off,pic=off,rtc=on,isa-serial={serial}")
    }

    /// The kernel's command line: the driver's words, then the caller's.
    fn kernel_arguments(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        let mut add = |word: &str| words.push(word.to_owned());
        if self.console {
            add("console=ttyS0");
        }
        add("quiet");
        add("rdinit=/init");
        // A panic is a reboot is the end of the VMM. By triple fault, because the board has no
        // keyboard controller, and the kernel looks for it for two seconds.
        add("panic=-1");
        add("reboot=t");
        // The self-tests of the kernel's ciphers take a tenth of an emulated boot.
        add("cryptomgr.notests");
        // The random numbers of an emulated processor are the host's.
        add("random.trust_cpu=on");
        if let Accel::Tcg { tsc_khz } = self.accel {
            // The board has no timer the kernel could hold the cycle counter against. It
            // would guess, and hang in about every second boot.
            add(&format!("tsc_early_khz={tsc_khz}"));
            if let Some(hz) = self.spec.kernel_hz.filter(|hz| *hz > 0) {
                add(&format!("lpj={}", tsc_khz * 1000 / u64::from(hz)));
            }
            // Nor one to watch it with: under load the watchdog would take lost ticks for a
            // broken counter.
            add("tsc=reliable");
        }
        words.extend(self.spec.kernel_args.iter().cloned());
        words.join(" ")
    }
}

/// The root image as a block device nobody can write to. Many VMMs share the file, so none
/// locks it. JSON, because commas in QEMU's own syntax would need escaping.
fn block_device(rootfs: &Path) -> Result<String, BootError> {
    let file = serde_json::json!({
        "driver": "file",
        "filename": absolute(rootfs)?,
        "read-only": true,
        "locking": "off",
    });
    let device = serde_json::json!({
        "driver": "raw",
        "node-name": "root",
        "read-only": true,
        "file": file,
    });
    Ok(device.to_string())
}

/// `path` as it is seen from any directory: QEMU runs in the microVM's.
fn absolute(path: &Path) -> Result<String, BootError> {
    let failed = |source| BootError::Prepare { path: path.into(), source };
    let absolute = std::path::absolute(path).map_err(failed)?;
    let not_unicode =
        |_: PathBuf| failed(io::Error::new(io::ErrorKind::InvalidInput, "the path is not Unicode"));
    absolute.into_os_string().into_string().map_err(|path| not_unicode(path.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn spec() -> BootSpec {
        BootSpec {
            dir: "/run/emberd/sb_0123456789ab".into(),
            kernel: "/data/vmlinux".into(),
            kernel_hz: Some(250),
            initramfs: "/data/initramfs.cpio".into(),
            rootfs: "/data/python,v1.squashfs".into(),
            kernel_args: vec!["emberd.upper_mib=64".into()],
            vcpu_count: 1,
            mem_size_mib: 256,
        }
    }

    fn check(accel: Accel, console: bool, expect: &str) {
        let words = Arguments { accel, console, spec: &spec() }.words().unwrap();
        let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
        // One option a line.
        let lines = words.join(" ").replace(" -", "\n-");
        assert_eq!(lines, expect, "\n{lines}");
    }

    #[test]
    fn golden_command_line_in_software_emulation_with_console() {
        let expect = r#"-name sb_0123456789ab
-machine microvm,x-option-roms=off,pit=off,pic=off,rtc=on,isa-serial=on
-accel tcg,tb-size=32
-cpu qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf-lm,+aes,+rdrand,+rdseed,+smep
-smp 1
-m 256M
-kernel /data/vmlinux
-initrd /data/initramfs.cpio
-append console=ttyS0 quiet rdinit=/init panic=-1 reboot=t cryptomgr.notests random.trust_cpu=on tsc_early_khz=2500000 lpj=10000000 tsc=reliable emberd.upper_mib=64
-blockdev {"driver":"raw","file":{"driver":"file","filename":"/data/python,v1.squashfs","locking":"off","read-only":true},"node-name":"root","read-only":true}
-device virtio-blk-device,drive=root
-device virtio-rng-device
-device virtio-serial-device
-chardev socket,id=agent,path=agent.sock,server=on,wait=off
-device virtserialport,chardev=agent,name=emberd.agent
-chardev stdio,id=console,signal=off
-serial chardev:console
-display none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-nodefaults
-no-user-config
-no-reboot"#;
        check(Accel::Tcg { tsc_khz: 2_500_000 }, true, expect);
    }

    #[test]
    fn golden_command_line_on_kvm_without_console() {
        let expect = r#"-name sb_0123456789ab
-machine microvm,x-option-roms=off,pit=off,pic=off,rtc=on,isa-serial=off
-accel kvm
-cpu host
-smp 1
-m 256M
-kernel /data/vmlinux
-initrd /data/initramfs.cpio
-append quiet rdinit=/init panic=-1 reboot=t cryptomgr.notests random.trust_cpu=on emberd.upper_mib=64
-blockdev {"driver":"raw","file":{"driver":"file","filename":"/data/python,v1.squashfs","locking":"off","read-only":true},"node-name":"root","read-only":true}
-device virtio-blk-device,drive=root
-device virtio-rng-device
-device virtio-serial-device
-chardev socket,id=agent,path=agent.sock,server=on,wait=off
-device virtserialport,chardev=agent,name=emberd.agent
-display none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-nodefaults
-no-user-config
-no-reboot"#;
        check(Accel::Kvm, false, expect);
    }

    #[test]
    fn kernel_of_unknown_hz_gets_no_delay_calibration() {
        let spec = BootSpec { kernel_hz: None, ..spec() };
        let accel = Accel::Tcg { tsc_khz: 2_500_000 };
        let line = Arguments { accel, console: false, spec: &spec }.kernel_arguments();
        assert!(!line.contains("lpj="), "{line}");
    }

    #[test]
    fn path_that_is_not_unicode_is_refused() {
        let rootfs = PathBuf::from(OsString::from_vec(b"/data/\xff".into()));
        let spec = BootSpec { rootfs: rootfs.clone(), ..spec() };
        let error = Arguments { accel: Accel::Kvm, console: false, spec: &spec }.words();
        assert!(matches!(error, Err(BootError::Prepare { path, .. }) if path == rootfs));
    }
}
