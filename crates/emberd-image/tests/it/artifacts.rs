//! Kernel, initramfs and packs together: load, damage, repair, full disks, many builders.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use emberd_image::{
    Artifact, BuildError, Images, KernelError, LoadError, Outcome, Silent, installed, prune,
    remove_pack, write_initramfs,
};

use crate::sample::{Place, archive, elf, entry};

/// A place with everything built.
fn complete() -> Place {
    let place = Place::new();
    place.kernel("6.1.0-sample").unwrap();
    place.initramfs().unwrap();
    place.pack("lua", &place.root()).unwrap();
    place
}

fn load_error(place: &Place) -> LoadError {
    Images::load(&place.data_dir).unwrap_err()
}

#[test]
fn what_is_built_is_loaded() {
    let place = complete();
    let images = Images::load(&place.data_dir).unwrap();
    assert_eq!((images.kernel.release.as_str(), images.kernel.hz), ("6.1.0-sample", None));
    assert_eq!(fs::read(&images.kernel.path).unwrap(), fs::read(place.path("vmlinux")).unwrap());
    let initramfs = fs::read(&images.initramfs.path).unwrap();
    assert!(initramfs.starts_with(b"070701"));
    let packs: Vec<_> = images.packs.iter().map(|(name, pack)| (name.as_str(), pack)).collect();
    let [("lua", lua)] = packs[..] else { panic!("{packs:?}") };
    assert_eq!(lua.description, "a sample");
    assert!(fs::read(&lua.rootfs).unwrap().starts_with(b"hsqs"));
    let artifacts = installed(&place.data_dir).unwrap();
    assert_eq!(artifacts.len(), 3);
}

#[test]
fn a_packs_warm_up_is_loaded_and_older_manifests_have_none() {
    let place = complete();
    let warm_up = || {
        let images = Images::load(&place.data_dir).unwrap();
        images.packs.into_values().next().unwrap().warm_up
    };
    assert_eq!(warm_up(), None);
    let path = place.data_dir.path().join("packs/lua.json");
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert!(manifest.get("warm_up").is_none());
    manifest["warm_up"] = "print(1)".into();
    fs::write(&path, manifest.to_string()).unwrap();
    assert_eq!(warm_up().as_deref(), Some("print(1)"));
}

#[test]
fn a_second_build_only_looks() {
    let place = complete();
    assert_eq!(place.kernel("6.1.0-sample").unwrap().outcome, Outcome::UpToDate);
    assert_eq!(place.initramfs().unwrap().outcome, Outcome::UpToDate);
}

#[test]
fn each_missing_artifact_is_named_with_its_command_in_build_order() {
    let place = Place::new();
    let check = |expect: &str| {
        let text = load_error(&place).to_string();
        assert!(text.ends_with(&format!("`{expect}`")), "{text}");
    };
    check("emberctl image build kernel");
    place.kernel("6.1.0").unwrap();
    check("emberctl image build initramfs");
    place.initramfs().unwrap();
    check("emberctl image build pack python");
    place.pack("lua", &place.root()).unwrap();
    Images::load(&place.data_dir).unwrap();
}

#[test]
fn initramfs_before_the_kernel_is_refused() {
    let place = Place::new();
    let error = place.initramfs().unwrap_err();
    assert!(matches!(error, BuildError::Load(LoadError::Missing { .. })), "{error}");
}

#[test]
fn every_damaged_file_is_named_and_mended_by_building_again() {
    let place = complete();
    for file in installed(&place.data_dir).unwrap() {
        let mut content = fs::read(&file.path).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::set_permissions(&file.path, Permissions::from_mode(0o644)).unwrap();
        fs::write(&file.path, content).unwrap();
        let error = load_error(&place);
        assert_eq!(error.artifact(), Some(&file.artifact));
        assert!(error.to_string().contains(file.path.to_str().unwrap()), "{error}");
        let build = match file.artifact {
            Artifact::Kernel => place.kernel("6.1.0-sample"),
            Artifact::Initramfs => place.initramfs(),
            Artifact::Pack(_) => place.pack("lua", &place.path("root")),
        };
        assert_eq!(build.unwrap().outcome, Outcome::Built);
        Images::load(&place.data_dir).unwrap();
        fs::remove_file(&file.path).unwrap();
        let error = load_error(&place);
        assert!(matches!(error, LoadError::Damaged { .. }), "{error}");
        fs::remove_dir_all(place.data_dir.path()).unwrap();
        place.kernel("6.1.0-sample").unwrap();
        place.initramfs().unwrap();
        place.pack("lua", &place.path("root")).unwrap();
    }
}

#[test]
fn a_damaged_manifest_is_named() {
    let place = complete();
    for name in ["kernel.json", "initramfs.json", "packs/lua.json"] {
        let path = place.data_dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let error = load_error(&place);
        assert!(matches!(&error, LoadError::Damaged { path: at, .. } if *at == path), "{error}");
        fs::write(&path, whole).unwrap();
    }
}

#[test]
fn an_initramfs_of_another_kernel_is_stale() {
    let place = complete();
    let path = place.data_dir.path().join("initramfs.json");
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["modules"] = "0".repeat(64).into();
    fs::write(&path, manifest.to_string()).unwrap();
    assert!(matches!(load_error(&place), LoadError::Stale));
}

#[test]
fn prune_frees_what_is_replaced_and_removed() {
    let place = complete();
    assert_eq!(prune(&place.data_dir, &mut Silent).unwrap().files, 0);
    place.kernel("6.2.0-sample").unwrap();
    assert!(remove_pack(&place.data_dir, &"lua".parse().unwrap(), &mut Silent).unwrap());
    assert!(!remove_pack(&place.data_dir, &"lua".parse().unwrap(), &mut Silent).unwrap());
    let pruned = prune(&place.data_dir, &mut Silent).unwrap();
    assert_eq!(pruned.files, 2);
    assert!(pruned.size_bytes > 4096);
    assert!(matches!(load_error(&place), LoadError::NoPacks(_)));
}

#[test]
fn what_is_no_kernel_is_refused_and_the_old_one_stays() {
    let place = complete();
    let source = emberd_image::KernelSource::File {
        kernel: place.write("program", &elf(b"no banner")),
        modules: None,
        config: None,
    };
    let refused = emberd_image::build_kernel(&place.data_dir, &source, false, &mut Silent);
    let no_release = |error: &BuildError| {
        matches!(error, BuildError::Kernel { source: KernelError::NoRelease, .. })
    };
    assert!(refused.as_ref().is_err_and(no_release), "{refused:?}");
    assert_eq!(Images::load(&place.data_dir).unwrap().kernel.release, "6.1.0-sample");
}

#[test]
fn a_kernel_that_lacks_what_guests_need_is_refused() {
    let place = Place::new();
    let source = emberd_image::KernelSource::File {
        kernel: place.write("vmlinux", &elf(b"Linux version 6.1.0 (builder)")),
        modules: None,
        config: Some(place.write("config", b"CONFIG_VIRTIO=y\nCONFIG_VIRTIO_MMIO=m\n")),
    };
    let refused = emberd_image::build_kernel(&place.data_dir, &source, false, &mut Silent);
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("`virtio_mmio`"), "{text}");
}

#[test]
fn builders_at_once_build_once_and_corrupt_nothing() {
    const BUILDERS: usize = 6;
    let place = Place::new();
    place.kernel("6.1.0").unwrap();
    place.initramfs().unwrap();
    let root = place.root();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let builders: Vec<_> = (0..BUILDERS)
            .map(|builder| {
                let name = ["lua", "moon"][builder % 2];
                let (place, root) = (&place, &root);
                scope.spawn(move || place.pack(name, root).unwrap().outcome)
            })
            .collect();
        builders.into_iter().map(|builder| builder.join().unwrap()).collect()
    });
    let built = outcomes.iter().filter(|outcome| **outcome == Outcome::Built).count();
    assert_eq!(built, 2, "{outcomes:?}");
    assert_eq!(Images::load(&place.data_dir).unwrap().packs.len(), 2);
    assert_eq!(place.path("data/tmp").read_dir().unwrap().count(), 0);
}

#[test]
fn a_file_that_takes_no_more_is_named() {
    let place = Place::new();
    let agent = place.write("agent", &elf(b""));
    let error = write_initramfs(&place.data_dir, &agent, Path::new("/dev/full")).unwrap_err();
    assert_eq!(error.to_string(), "cannot write /dev/full");
}

#[test]
fn an_initramfs_of_its_own_needs_no_data_directory() {
    let place = Place::new();
    let agent = place.write("agent", &elf(b"alone"));
    let out = place.path("initramfs.cpio");
    let written = write_initramfs(&place.data_dir, &agent, &out).unwrap();
    assert_eq!(written.size_bytes, fs::metadata(&out).unwrap().len());
    assert!(!place.data_dir.path().exists());
}

/// A file system of `kib` KiB at `path`; gone on drop.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path, kib: u32) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let size = format!("size={kib}k");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(self.0).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot unmount");
    }
}

#[test]
fn a_full_disk_is_an_error_that_says_so_and_leaves_nothing() {
    let place = Place::new();
    let data = place.path("data");
    let noise: Vec<u8> = (0..300_000_u64)
        .flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    let tar = place.write("root.tar", &archive(&[entry("noise", b'0', "", &noise)]));
    let Some(_disk) = SmallDisk::mount(&data, 512) else {
        emberd_testing::skip("mounting a small disk needs root");
        return;
    };
    let error = place.pack("lua", &tar).unwrap_err();
    assert!(matches!(error, BuildError::Tool(_)), "{error}");
    assert!(error.to_string().contains("No space left on device"), "{error}");
    for dir in ["data/blobs", "data/packs", "data/tmp"] {
        assert_eq!(place.path(dir).read_dir().unwrap().count(), 0, "{dir}");
    }
}
