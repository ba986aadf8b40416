//! What is known of a kernel's configuration.

use std::fs;

use emberd_image::check::{self, ConfigSource, Provision};
use emberd_image::pack::Compression;
use emberd_image::{KernelSource, Silent, build_kernel};

use crate::sample::{Place, elf};

/// A configuration with everything built in.
const CONFIG: &str = "CONFIG_HZ=250\nCONFIG_SQUASHFS=y\nCONFIG_OVERLAY_FS=y\n\
    CONFIG_VIRTIO=y\nCONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_MMIO=y\nCONFIG_VIRTIO_CONSOLE=y\n";

/// Installs a kernel that carries no configuration, with one beside it.
fn install(place: &Place) {
    let kernel = place.write("vmlinux", &elf(b"Linux version 6.1.0-sample (builder)"));
    let config = place.write("config", CONFIG.as_bytes());
    let source = KernelSource::File { kernel, modules: None, config: Some(config.clone()) };
    build_kernel(&place.data_dir, &source, false, &mut Silent).unwrap();
    fs::remove_file(config).unwrap();
}

#[test]
fn an_installed_kernel_keeps_its_configuration() {
    let place = Place::new();
    assert_eq!(check::installed(&place.data_dir).unwrap(), None);
    install(&place);
    let installed = check::installed(&place.data_dir).unwrap().unwrap();
    // The file it was made from is the same kernel, wherever it lies.
    for kernel in [installed, place.path("vmlinux")] {
        let report = check::kernel(&kernel, None, Compression::Zstd, &place.data_dir).unwrap();
        assert_eq!((report.config, report.hz), (ConfigSource::Installed, Some(250)));
        let squashfs = report.options.iter().find(|option| option.option == "SQUASHFS").unwrap();
        assert_eq!(squashfs.provision, Provision::BuiltIn);
    }
}

#[test]
fn another_kernel_has_no_part_in_it() {
    let place = Place::new();
    install(&place);
    let other = place.write("other", &elf(b"Linux version 6.1.0-other (builder)"));
    let check = |config| check::kernel(&other, config, Compression::Zstd, &place.data_dir).unwrap();
    assert_eq!(check(None).config, ConfigSource::Nowhere);
    let config = place.write("config", b"CONFIG_HZ=100\n");
    let report = check(Some(&config));
    assert_eq!((report.config, report.hz), (ConfigSource::File, Some(100)));
}
