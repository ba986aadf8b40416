//! `setup kernel` and `vmconfig`, over images just real enough to be accepted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::{ADDR_DEAD, complaint, printed, run};

struct Images {
    dir: tempfile::TempDir,
}

impl Images {
    /// A kernel, an initramfs and the pack `mine`.
    fn build() -> Self {
        let images = Self { dir: tempfile::tempdir().unwrap() };
        let kernel = images.write("vmlinux", &elf(b"Linux version 6.1.155 (somebody)"));
        let agent = images.write("agent", &elf(b"agent"));
        let root = images.dir.path().join("root");
        for dir in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        images.setup_kernel(&kernel);
        let agent = ["image", "build", "initramfs", "--agent", agent.to_str().unwrap()];
        printed(&images.run(&agent));
        let pack = ["image", "build", "--name", "mine", "--run", "/bin/sh", "--from-rootfs"];
        printed(&images.run(&[&pack[..], &[root.to_str().unwrap()]].concat()));
        images
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn run(&self, args: &[&str]) -> Output {
        let data = self.dir.path().join("data");
        run(ADDR_DEAD, &[args, &["--data-dir", data.to_str().unwrap()]].concat())
    }

    fn setup_kernel(&self, kernel: &Path) -> Value {
        let sha256 = crate::setup::sha256(kernel);
        let args = ["setup", "kernel", "--json", "--sha256", &sha256, "--from"];
        let output = self.run(&[&args[..], &[kernel.to_str().unwrap()]].concat());
        serde_json::from_str(printed(&output)).unwrap()
    }

    fn vmconfig(&self, args: &[&str]) -> Value {
        let output = self.run(&[&["vmconfig"], args].concat());
        serde_json::from_str(printed(&output)).unwrap()
    }
}

/// The least that passes for a 64-bit x86 ELF file, static and without sections.
fn elf(content: &[u8]) -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 62;
    [&elf, content, b" "].concat()
}

#[test]
fn a_kernel_from_a_file_is_the_guests_kernel_and_is_not_built_twice() {
    let images = Images::build();
    let kernel = images.dir.path().join("vmlinux");
    let again = images.setup_kernel(&kernel);
    assert_eq!(again["up_to_date"], true);
    let summary = again["what"].as_str().unwrap();
    assert!(summary.starts_with("Linux 6.1.155 from "), "{summary}");
    assert_eq!(fs::read(again["path"].as_str().unwrap()).unwrap(), fs::read(&kernel).unwrap());
    let other = images.write("other", &elf(b"Linux version 6.1.156 (somebody)"));
    assert_eq!(images.setup_kernel(&other)["up_to_date"], false);
}

#[test]
fn a_configuration_names_the_images_and_has_a_console() {
    let images = Images::build();
    let config = images.vmconfig(&["mine", "--guest-ram-mib", "512", "--guest-vcpus", "2"]);
    assert_eq!(config["machine-config"], serde_json::json!({"vcpu_count": 2, "mem_size_mib": 512}));
    let boot = &config["boot-source"];
    let paths = [&boot["kernel_image_path"], &boot["initrd_path"]];
    for path in paths.into_iter().chain([&config["drives"][0]["path_on_host"]]) {
        assert!(Path::new(path.as_str().unwrap()).is_file(), "{path}");
    }
    let args = boot["boot_args"].as_str().unwrap();
    assert!(args.contains("console=ttyS0") && args.ends_with("loglevel=7"), "{args}");
}

#[test]
fn images_and_kernel_arguments_can_be_replaced() {
    let images = Images::build();
    let args = ["mine", "--kernel", "lab/vmlinux", "--kernel-args", "A=B  quiet"];
    let config = images.vmconfig(&args);
    let kernel = config["boot-source"]["kernel_image_path"].as_str().unwrap();
    assert!(kernel.starts_with('/') && kernel.ends_with("/lab/vmlinux"), "{kernel}");
    let args = config["boot-source"]["boot_args"].as_str().unwrap();
    assert!(args.ends_with(" loglevel=7 A=B quiet"), "{args}");
}

#[test]
fn what_is_missing_comes_with_the_command_that_makes_it() {
    let images = Images::build();
    let output = images.run(&["vmconfig", "cobol"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(complaint(&output).contains("emberctl image build pack cobol"));
    let empty = tempfile::tempdir().unwrap();
    let args = ["vmconfig", "mine", "--data-dir", empty.path().to_str().unwrap()];
    let output = run(ADDR_DEAD, &args);
    assert!(complaint(&output).contains("emberctl image build kernel"), "{}", complaint(&output));
    let long = "x".repeat(2048);
    let output = images.run(&["vmconfig", "mine", "--kernel-args", &long]);
    assert!(complaint(&output).contains("over the limit"), "{}", complaint(&output));
}

#[test]
fn the_installed_kernel_is_checked_with_the_configuration_it_came_with() {
    let images = Images { dir: tempfile::tempdir().unwrap() };
    let none = images.run(&["image", "check"]);
    assert_eq!(none.status.code(), Some(125));
    assert!(complaint(&none).contains("emberctl image build kernel"), "{}", complaint(&none));
    let kernel = images.write("vmlinux", &elf(b"Linux version 6.1.155 (somebody)"));
    let options = ["VIRTIO", "VIRTIO_MMIO", "VIRTIO_BLK", "SQUASHFS", "OVERLAY_FS"];
    let mut config: String = options.map(|option| format!("CONFIG_{option}=y\n")).concat();
    config += "CONFIG_VIRTIO_CONSOLE=y\nCONFIG_HZ=250\n";
    let config = images.write("config", config.as_bytes());
    let [kernel, config] = [&kernel, &config].map(|path| path.to_str().unwrap());
    let build = ["image", "build", "kernel", "--kernel", kernel, "--config", config];
    printed(&images.run(&build));
    for args in [&["image", "check", "--json"][..], &["image", "check", "--json", kernel]] {
        let output = images.run(args);
        assert_eq!(output.status.code(), Some(1), "{}", complaint(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["hz"], 250);
        let squashfs = report["options"].as_array().unwrap().iter();
        let provisions: Vec<_> = squashfs
            .filter(|option| option["option"] == "SQUASHFS")
            .map(|option| option["provision"].as_str().unwrap())
            .collect();
        assert_eq!(provisions, ["built in"]);
    }
}
