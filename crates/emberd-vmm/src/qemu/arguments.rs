//! QEMU's command line and the guest kernel's, each word with its reason.
//!
//! The guest has only the devices named here: no default devices, no network, no display, no
//! monitor.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::block;
use crate::{BootError, BootSpec, RestoreSpec};

/// QEMU's end of the agent channel, in the microVM's directory and relative to it: a socket
/// path has room for 107 bytes.
pub(super) const CHANNEL: &str = "agent.sock";

/// QEMU's control socket, likewise.
pub(super) const CONTROL: &str = "qmp.sock";

/// QEMU's end of the port over which the agent is asked for a fresh session, likewise.
pub(super) const SYNC: &str = "sync.sock";

/// File of the guest's memory in the directory of a microVM that becomes a template.
pub(super) const MEMORY: &str = "memory";

/// A QEMU that a guest has broken into can neither fork, change its user or its scheduling, nor
/// use obsolete system calls.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The emulated processor: what binaries built for x86-64-v2 need, and the instructions
/// cryptography and the kernel's random numbers gain by. Wider models make the kernel save
/// and patch more: `max` takes up to a tenth more processor time to boot. It looks like an
/// Opteron, and `OpenBLAS` uses the 3DNow! of one without asking whether it is there.
///
/// With `arat` its timer runs in deep sleep. Without, Linux wants another timer to wake it, which
/// the board does not have, and ticks 250 times a second instead of sleeping.
const CPU_TCG: &str = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf-lm,+aes,+rdrand,+smep,\
                       +3dnow,+3dnowext,+arat";

/// Translated code QEMU keeps, in MiB. Memory is used as code is translated, so a guest that
/// does little does not pay for the limit. Starting Python, including the kernel's part, fills
/// about 40. With 32 the whole cache is dropped and translated again each time, for three times
/// the processor time; 128 brings no gain.
const TRANSLATION_MIB: u32 = 64;

/// The accelerator, with its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accel {
    Kvm,
    /// Software emulation on a host whose cycle counter runs at this frequency.
    Tcg {
        tsc_khz: u64,
    },
}

/// Inputs of the command line.
pub(super) struct Arguments<'a> {
    hardware: Hardware,
    dir: &'a Path,
    rootfs: &'a Path,
    disk: Option<&'a Path>,
    vcpu_count: u8,
    mem_size_mib: u32,
    start: Start<'a>,
}

/// How the guest begins.
enum Start<'a> {
    /// At the kernel's entry.
    Boot(&'a BootSpec),
    /// Where a template was made, with the memory in this file, which QEMU opens for writing
    /// although it maps it privately. A later command loads the rest, so QEMU needs neither kernel
    /// nor initramfs.
    Load(&'a Path),
}

impl<'a> Arguments<'a> {
    /// For a boot of a guest whose own disk, if it has one, is the file `disk`.
    pub(super) fn boot(hardware: Hardware, spec: &'a BootSpec, disk: Option<&'a Path>) -> Self {
        let (vcpu_count, mem_size_mib) = (spec.vcpu_count, spec.mem_size_mib);
        let (dir, rootfs, start) = (&*spec.dir, &*spec.rootfs, Start::Boot(spec));
        Self { hardware, dir, rootfs, disk, vcpu_count, mem_size_mib, start }
    }

    /// For a start from a template whose guest's memory is in the file `memory`.
    pub(super) fn load(
        hardware: Hardware,
        spec: &'a RestoreSpec,
        memory: &'a Path,
        disk: Option<&'a Path>,
    ) -> Self {
        let (vcpu_count, mem_size_mib) = (spec.machine.vcpu_count, spec.machine.mem_size_mib);
        let (dir, rootfs, start) = (&*spec.dir, &*spec.rootfs, Start::Load(memory));
        Self { hardware, dir, rootfs, disk, vcpu_count, mem_size_mib, start }
    }

    /// Returns the arguments after the program's name.
    ///
    /// # Errors
    /// [`BootError::Prepare`] for a path that is not Unicode.
    pub(super) fn words(&self) -> Result<Vec<OsString>, BootError> {
        let mut words: Vec<OsString> = Vec::new();
        let mut add = |option: &str, value: OsString| words.extend([option.into(), value]);
        // Shown in process lists.
        if let Some(name) = self.dir.file_name() {
            add("-name", name.into());
        }
        let memory = self.memory()?;
        let backend = if memory.is_some() { ",memory-backend=mem" } else { "" };
        add("-machine", format!("{}{backend}", self.hardware.board()).into());
        add("-accel", self.hardware.acceleration().into());
        add("-cpu", self.hardware.cpu().into());
        add("-smp", self.vcpu_count.to_string().into());
        add("-m", format!("{}M", self.mem_size_mib).into());
        if let Some(memory) = memory {
            add("-object", memory.into());
        }
        match self.start {
            Start::Boot(spec) => {
                add("-kernel", absolute(&spec.kernel)?.into());
                add("-initrd", absolute(&spec.initramfs)?.into());
                add("-append", self.kernel_arguments(spec).into());
            }
            Start::Load(_) => add("-incoming", "defer".into()),
        }
        add("-blockdev", block::root_image(&absolute(self.rootfs)?).into());
        // QEMU listens, so that the host can disconnect and reconnect.
        let socket = |id, path| format!("socket,id={id},path={path},server=on,wait=off").into();
        add("-chardev", socket("agent", CHANNEL));
        add("-chardev", socket("sync", SYNC));
        for device in DEVICES {
            add("-device", device.into());
        }
        if let Some(disk) = self.disk {
            add("-blockdev", block::own_disk(&absolute(disk)?).into());
            add("-device", block::DISK_DEVICE.into());
        }
        add("-chardev", socket("control", CONTROL));
        add("-mon", "chardev=control,mode=control".into());
        if self.hardware.console {
            // Signals stay signals: stdin is /dev/null and sends no characters.
            add("-chardev", "stdio,id=console,signal=off".into());
            add("-serial", "chardev:console".into());
        }
        add("-display", "none".into());
        add("-sandbox", SANDBOX.into());
        // A guest that reboots, as it does when it panics, ends its VMM.
        words.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(OsString::from));
        Ok(words)
    }

    /// Returns the file of the guest's memory, if any. A clone's writes stay private.
    fn memory(&self) -> Result<Option<String>, BootError> {
        let (file, share) = match self.start {
            Start::Boot(spec) if spec.for_template => (MEMORY.to_owned(), "on"),
            Start::Boot(_) => return Ok(None),
            // QEMU's own syntax: a comma is doubled.
            Start::Load(memory) => (absolute(memory)?.replace(',', ",,"), "off"),
        };
        let size = self.mem_size_mib;
        Ok(Some(format!("memory-backend-file,id=mem,size={size}M,mem-path={file},share={share}")))
    }

    /// The kernel's command line: the driver's words, then the caller's.
    fn kernel_arguments(&self, spec: &BootSpec) -> String {
        let mut words: Vec<String> = Vec::new();
        let mut add = |word: &str| words.push(word.to_owned());
        if self.hardware.console {
            add("console=ttyS0");
        }
        add("quiet");
        add("rdinit=/init");
        // A panic reboots, and a reboot ends the VMM. By triple fault, because the board has no
        // keyboard controller and the kernel would search for it for two seconds.
        add("panic=-1");
        add("reboot=t");
        // The self-tests of the kernel's ciphers take a tenth of an emulated boot.
        add("cryptomgr.notests");
        // The random numbers of an emulated processor are the host's.
        add("random.trust_cpu=on");
        if let Accel::Tcg { tsc_khz } = self.hardware.accel {
            // The board has no timer for the kernel to calibrate the cycle counter against. It
            // would guess, and hang in about every second boot.
            add(&format!("tsc_early_khz={tsc_khz}"));
            if let Some(hz) = spec.kernel_hz.filter(|hz| *hz > 0) {
                add(&format!("lpj={}", tsc_khz * 1000 / u64::from(hz)));
            }
            // The board has no timer to watch the counter either: under load the watchdog would
            // take lost ticks for a broken counter.
            add("tsc=reliable");
            // Code at another address is translated again: with its libraries placed at random,
            // starting a program takes some five times as long.
            add("norandmaps");
        }
        words.extend(spec.kernel_args.iter().cloned());
        words.join(" ")
    }
}

/// The devices of every microVM, in their order on the bus. The guest finds the agent's ports
/// by their names.
const DEVICES: [&str; 5] = [
    "virtio-blk-device,drive=root",
    "virtio-rng-device",
    "virtio-serial-device",
    "virtserialport,chardev=agent,name=emberd.agent",
    "virtserialport,chardev=sync,name=emberd.control",
];

/// The guest's hardware, apart from its number of processors and its memory size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hardware {
    pub(super) accel: Accel,
    pub(super) console: bool,
}

impl Hardware {
    /// The board. Its virtio devices are described in ACPI, which is on by default: the
    /// distribution kernels do not read them from the command line. The clock chip stays,
    /// because kernels wait a second for one that does not answer; the timer and interrupt
    /// controller of the PC of 1981 go.
    fn board(self) -> String {
        let serial = if self.console { "on" } else { "off" };
        format!("microvm,x-option-roms=off,pit=off,pic=off,rtc=on,isa-serial={serial}")
    }

    /// Whether guests need `/dev/kvm`.
    pub(super) fn needs_kvm(self) -> bool {
        self.accel == Accel::Kvm
    }

    fn acceleration(self) -> String {
        match self.accel {
            Accel::Kvm => "kvm".to_owned(),
            Accel::Tcg { .. } => format!("tcg,tb-size={TRANSLATION_MIB}"),
        }
    }

    /// Returns the arguments of a trial of this board: the VMM starts no guest and reads commands
    /// from its standard input.
    pub(super) fn trial(self) -> Vec<String> {
        let (board, acceleration) = (self.board(), self.acceleration());
        let valued = [
            ("-machine", &*board),
            ("-accel", &acceleration),
            ("-cpu", self.cpu()),
            ("-display", "none"),
            ("-sandbox", SANDBOX),
            ("-monitor", "stdio"),
        ];
        let words = valued.into_iter().flat_map(|(option, value)| [option, value]);
        words.chain(["-S", "-nodefaults", "-no-user-config"]).map(str::to_owned).collect()
    }

    fn cpu(self) -> &'static str {
        match self.accel {
            Accel::Kvm => "host",
            Accel::Tcg { .. } => CPU_TCG,
        }
    }
}

/// Describes all of it: a saved guest needs the same hardware where it is loaded.
impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accel = match self.accel {
            Accel::Kvm => "kvm",
            Accel::Tcg { .. } => "tcg",
        };
        write!(f, "{accel} {} {}", self.board(), self.cpu())?;
        let devices = DEVICES.into_iter().chain([block::DISK_DEVICE]);
        devices.into_iter().try_for_each(|device| write!(f, " {device}"))
    }
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
    use crate::{ImageHashes, MachineShape};

    fn spec() -> BootSpec {
        BootSpec {
            dir: "/run/emberd/sb_0123456789ab".into(),
            kernel: "/data/vmlinux".into(),
            kernel_hz: Some(250),
            initramfs: "/data/initramfs.cpio".into(),
            rootfs: "/data/python,v1.squashfs".into(),
            disk: None,
            kernel_args: vec!["emberd.upper_mib=64".into()],
            vcpu_count: 1,
            mem_size_mib: 256,
            for_template: false,
        }
    }

    const BLOCK_DEVICE: &str = concat!(
        r#"-blockdev {"driver":"raw","file":{"driver":"file","#,
        r#""filename":"/data/python,v1.squashfs","locking":"off","read-only":true},"#,
        r#""node-name":"root","read-only":true}"#
    );

    /// Compares the command line with one option a string.
    fn check(arguments: &Arguments, expect: &[&str]) {
        let words = arguments.words().unwrap();
        let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
        let options = words.join(" ").replace(" -", "\n-");
        assert_eq!(options.lines().collect::<Vec<_>>(), expect);
    }

    const TCG: Accel = Accel::Tcg { tsc_khz: 2_500_000 };

    #[test]
    fn golden_command_line_in_software_emulation_with_console() {
        let expect = [
            "-name sb_0123456789ab",
            "-machine microvm,x-option-roms=off,pit=off,pic=off,rtc=on,isa-serial=on",
            "-accel tcg,tb-size=64",
            "-cpu qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf-lm,+aes,+rdrand,+smep,+3dnow,+3dnowext,+arat",
            "-smp 1",
            "-m 256M",
            "-kernel /data/vmlinux",
            "-initrd /data/initramfs.cpio",
            "-append console=ttyS0 quiet rdinit=/init panic=-1 reboot=t cryptomgr.notests \
             random.trust_cpu=on tsc_early_khz=2500000 lpj=10000000 tsc=reliable norandmaps \
             emberd.upper_mib=64",
            BLOCK_DEVICE,
            "-chardev socket,id=agent,path=agent.sock,server=on,wait=off",
            "-chardev socket,id=sync,path=sync.sock,server=on,wait=off",
            "-device virtio-blk-device,drive=root",
            "-device virtio-rng-device",
            "-device virtio-serial-device",
            "-device virtserialport,chardev=agent,name=emberd.agent",
            "-device virtserialport,chardev=sync,name=emberd.control",
            "-chardev socket,id=control,path=qmp.sock,server=on,wait=off",
            "-mon chardev=control,mode=control",
            "-chardev stdio,id=console,signal=off",
            "-serial chardev:console",
            "-display none",
            "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
        ];
        let hardware = Hardware { accel: TCG, console: true };
        check(&Arguments::boot(hardware, &spec(), None), &expect);
    }

    #[test]
    fn golden_command_line_on_kvm_without_console() {
        let expect = [
            "-name sb_0123456789ab",
            "-machine microvm,x-option-roms=off,pit=off,pic=off,rtc=on,isa-serial=off",
            "-accel kvm",
            "-cpu host",
            "-smp 1",
            "-m 256M",
            "-kernel /data/vmlinux",
            "-initrd /data/initramfs.cpio",
            "-append quiet rdinit=/init panic=-1 reboot=t cryptomgr.notests \
             random.trust_cpu=on emberd.upper_mib=64",
            BLOCK_DEVICE,
            "-chardev socket,id=agent,path=agent.sock,server=on,wait=off",
            "-chardev socket,id=sync,path=sync.sock,server=on,wait=off",
            "-device virtio-blk-device,drive=root",
            "-device virtio-rng-device",
            "-device virtio-serial-device",
            "-device virtserialport,chardev=agent,name=emberd.agent",
            "-device virtserialport,chardev=sync,name=emberd.control",
            "-chardev socket,id=control,path=qmp.sock,server=on,wait=off",
            "-mon chardev=control,mode=control",
            "-display none",
            "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
        ];
        let hardware = Hardware { accel: Accel::Kvm, console: false };
        check(&Arguments::boot(hardware, &spec(), None), &expect);
    }

    /// The words of a microVM that becomes a template, then of its clone.
    fn template_and_clone() -> [Vec<String>; 2] {
        let hardware = Hardware { accel: TCG, console: false };
        let boot = BootSpec { for_template: true, ..spec() };
        let restore = RestoreSpec {
            dir: boot.dir.clone(),
            rootfs: boot.rootfs.clone(),
            disk_dir: Some("/disks".into()),
            images: ImageHashes {
                kernel: "k".into(),
                initramfs: "i".into(),
                rootfs: "r".into(),
                warm_up: "w".into(),
            },
            machine: MachineShape {
                vcpu_count: boot.vcpu_count,
                mem_size_mib: boot.mem_size_mib,
                disk_size_mib: 2048,
                kernel_args: boot.kernel_args.clone(),
            },
        };
        let memory = Path::new("/templates/python,1/memory");
        let disks = ["/proc/self/fd/7", "/proc/self/fd/9"].map(Path::new);
        [
            Arguments::boot(hardware, &boot, Some(disks[0])),
            Arguments::load(hardware, &restore, memory, Some(disks[1])),
        ]
        .map(|arguments| {
            let words = arguments.words().unwrap().into_iter();
            words.map(|word| word.into_string().unwrap()).collect()
        })
    }

    #[test]
    fn a_clone_is_what_its_template_was_but_for_where_it_starts() {
        let [template, clone] = template_and_clone();
        let differ = |ours: &[String], theirs: &[String]| -> Vec<String> {
            ours.iter().filter(|word| !theirs.contains(word)).cloned().collect()
        };
        let memory = "memory-backend-file,id=mem,size=256M,mem-path";
        let board = "microvm,x-option-roms=off,pit=off,pic=off,rtc=on,isa-serial=off,\
                     memory-backend=mem";
        assert!(template.contains(&board.to_owned()) && clone.contains(&board.to_owned()));
        let disk = |number: u8| block::own_disk(&format!("/proc/self/fd/{number}"));
        assert_eq!(
            differ(&clone, &template),
            [
                &format!("{memory}=/templates/python,,1/memory,share=off"),
                "-incoming",
                "defer",
                &disk(9),
            ]
        );
        let kernel_arguments = &template[template.iter().position(|w| w == "-append").unwrap() + 1];
        assert_eq!(
            differ(&template, &clone),
            [
                &format!("{memory}=memory,share=on"),
                "-kernel",
                "/data/vmlinux",
                "-initrd",
                "/data/initramfs.cpio",
                "-append",
                kernel_arguments,
                &disk(7),
            ]
        );
    }

    #[test]
    fn hardware_in_words_tells_machines_apart_that_cannot_share_templates() {
        let tcg = Hardware { accel: TCG, console: false };
        assert_eq!(
            tcg.to_string(),
            "tcg microvm,x-option-roms=off,pit=off,pic=off,rtc=on,isa-serial=off \
             qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf-lm,+aes,+rdrand,+smep,+3dnow,\
             +3dnowext,+arat \
             virtio-blk-device,drive=root virtio-rng-device virtio-serial-device \
             virtserialport,chardev=agent,name=emberd.agent \
             virtserialport,chardev=sync,name=emberd.control \
             virtio-blk-device,drive=disk,werror=report,rerror=report"
        );
        let others = [Hardware { console: true, ..tcg }, Hardware { accel: Accel::Kvm, ..tcg }];
        assert!(others.iter().all(|other| other.to_string() != tcg.to_string()));
        // Each daemon measures it again, with a slightly different result.
        let remeasured = Hardware { accel: Accel::Tcg { tsc_khz: 2_500_001 }, ..tcg };
        assert_eq!(remeasured.to_string(), tcg.to_string());
    }

    #[test]
    fn kernel_of_unknown_hz_gets_no_delay_calibration() {
        let spec = BootSpec { kernel_hz: None, ..spec() };
        let accel = Accel::Tcg { tsc_khz: 2_500_000 };
        let line = Arguments::boot(Hardware { accel, console: false }, &spec, None)
            .kernel_arguments(&spec);
        assert!(!line.contains("lpj="), "{line}");
    }

    #[test]
    fn path_that_is_not_unicode_is_refused() {
        let rootfs = PathBuf::from(OsString::from_vec(b"/data/\xff".into()));
        let spec = BootSpec { rootfs: rootfs.clone(), ..spec() };
        let error =
            Arguments::boot(Hardware { accel: Accel::Kvm, console: false }, &spec, None).words();
        assert!(matches!(error, Err(BootError::Prepare { path, .. }) if path == rootfs));
    }
}
