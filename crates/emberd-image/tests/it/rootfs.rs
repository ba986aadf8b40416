//! Packs from directories and archives, friendly and hostile.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use emberd_image::{BuildError, Compression, Outcome, PackOptions};

use crate::sample::{Place, archive, entry, listed, unsquashfs};

/// Builds the same root in two places and returns the bytes, which must be the same.
fn same_bytes_twice(root: &Path) -> Vec<u8> {
    let images = [Place::new(), Place::new()].map(|place| {
        let build = place.pack("lua", root).unwrap();
        assert_eq!(build.outcome, Outcome::Built);
        fs::read(&build.installed.path).unwrap()
    });
    assert!(images[0] == images[1]);
    let [image, _] = images;
    image
}

fn tar(root: &Path, out: &Path) {
    let status = Command::new("tar").arg("-C").arg(root).arg("-cf").arg(out).arg(".").status();
    assert!(status.unwrap().success());
}

#[test]
fn a_directory_becomes_the_same_image_twice() {
    let place = Place::new();
    same_bytes_twice(&place.root());
}

#[test]
fn an_archive_becomes_the_same_image_twice_and_compressed_as_well() {
    let place = Place::new();
    let plain = place.path("root.tar");
    tar(&place.root(), &plain);
    let image = same_bytes_twice(&plain);
    let compressed = place.path("root.tar.gz");
    let file = File::create(&compressed).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::default());
    gzip.write_all(&fs::read(&plain).unwrap()).unwrap();
    gzip.finish().unwrap();
    assert!(same_bytes_twice(&compressed) == image);
}

#[test]
fn directories_an_archive_does_not_list_have_a_fixed_time() {
    let place = Place::new();
    let tar = archive(&[entry("usr/share/deep/file", b'0', "", b"content")]);
    same_bytes_twice(&place.write("root.tar", &tar));
}

#[test]
fn the_image_holds_the_root_and_how_its_code_runs() {
    let place = Place::new();
    let image = place.pack("lua", &place.root()).unwrap().installed.path;
    let listing = unsquashfs(&["-lln"], &image, &[]);
    assert!(listed(&listing, "/bin").unwrap().ends_with("-> usr/bin"), "{listing}");
    assert!(listed(&listing, "/usr/bin/lua5").is_some(), "{listing}");
    for mount_point in ["/dev", "/proc", "/sys"] {
        assert!(listed(&listing, mount_point).unwrap().starts_with("drwxr-xr-x 0/0"));
    }
    assert!(
        listing
            .lines()
            .any(|line| line.starts_with("drwxr-xr-x 0/0") && line.ends_with(" squashfs-root"))
    );
    let passwd = unsquashfs(&["-cat"], &image, &["etc/passwd"]);
    assert_eq!(passwd, "root:x:0:0::/root:/bin/sh\n");
    let spec = unsquashfs(&["-cat"], &image, &["etc/emberd/pack.json"]);
    let expect = r#"{"name":"lua","run":["/bin/lua","{file}"],"file_name":"main.lua","env":{"LANG":"C.UTF-8"}}"#;
    assert_eq!(spec, expect);
}

#[test]
fn profiles_are_what_the_package_managers_in_the_image_are_configured_for() {
    let place = Place::new();
    let root = place.root();
    let write = |path: &str, content: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    assert!(place.pack("bare", &root).unwrap().installed.profiles.is_empty());
    write(
        "usr/lib/python3/dist-packages/pip/_internal/models/index.py",
        "PyPI = PackageIndex(\"https://a.example/\", file_storage_domain=\"b.example\")\n",
    );
    write("usr/bin/apt-get", "not really apt");
    write("etc/apt/sources.list", "deb http://c.example/debian stable main\n");
    write("etc/apt/sources.list.d/more.sources", "Types: deb\nURIs: https://d.example/more\n");
    write(
        "usr/share/nodejs/npm/lib/utils/config/definitions.js",
        "define('registry', { default: 'https://e.example/' })\n",
    );
    let built = place.pack("plain", &root).unwrap().installed;
    let expected = |profiles: &[(&str, &[&str])]| {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        profiles.iter().map(|(name, entries)| ((*name).to_owned(), texts(entries))).collect()
    };
    let apt: &[&str] = &["c.example:80", "d.example:443"];
    let defaults =
        [("apt", apt), ("npm", &["e.example:443"]), ("pip", &["a.example:443", "b.example:443"])];
    assert_eq!(built.profiles, expected(&defaults));
    // The manifest keeps them.
    let listed = emberd_image::installed(&place.data_dir).unwrap();
    assert!(listed.iter().any(|installed| installed.profiles == built.profiles));

    write("etc/pip.conf", "[global]\nindex-url = http://mirror.example:3141/simple\n");
    write("etc/npmrc", "registry=http://mirror.example:4873/\n");
    let cargo = "[source.crates-io]\nreplace-with = 'm'\n[source.m]\nregistry = '";
    write(
        "usr/local/cargo/config.toml",
        &format!("{cargo}sparse+https://mirror.example:8443/index/'\n"),
    );
    let without_cargo = place.pack("no-cargo", &root).unwrap().installed;
    assert_eq!(without_cargo.profiles.get("cargo"), None);
    write("usr/local/cargo/bin/cargo", "not really cargo");
    let mirrored = place.pack("mirrored", &root).unwrap().installed;
    let mirrors = [
        ("apt", apt),
        ("cargo", &["mirror.example:8443"]),
        ("npm", &["mirror.example:4873"]),
        ("pip", &["mirror.example:3141"]),
    ];
    assert_eq!(mirrored.profiles, expected(&mirrors));

    let env = [("PIP_INDEX_URL".to_owned(), "https://other.example/simple".to_owned())].into();
    let told = place.pack_in("told", &root, &PackOptions::default(), env).unwrap().installed;
    assert_eq!(told.profiles["pip"], ["other.example:443"]);

    write("opt/cargo/config.toml", &format!("{cargo}https://home.example/'\n"));
    let env = [("CARGO_HOME".to_owned(), "/opt/cargo".to_owned())].into();
    let told = place.pack_in("home", &root, &PackOptions::default(), env).unwrap().installed;
    assert_eq!(told.profiles["cargo"], ["home.example:443"]);
}

#[test]
fn every_compression_holds_the_same_files() {
    let place = Place::new();
    let root = place.root();
    for (compression, expect) in [
        (Compression::Zstd, "Compression zstd"),
        (Compression::Lz4, "Compression lz4"),
        (Compression::None, "Data is uncompressed"),
    ] {
        let options = PackOptions { compression, ..PackOptions::default() };
        let build = place.pack_with("lua", &root, &options).unwrap();
        assert_eq!(build.outcome, Outcome::Built);
        let image = build.installed.path;
        let super_block = unsquashfs(&["-s"], &image, &[]);
        assert!(super_block.contains(expect), "{super_block}");
        let lua = unsquashfs(&["-cat"], &image, &["usr/bin/lua"]);
        assert_eq!(lua, "not really Lua\n".repeat(100));
    }
}

#[test]
fn an_unchanged_root_is_up_to_date_until_forced() {
    let place = Place::new();
    let root = place.root();
    let first = place.pack("lua", &root).unwrap();
    let again = place.pack("lua", &root).unwrap();
    assert_eq!(again.outcome, Outcome::UpToDate);
    assert_eq!(again.installed, first.installed);
    let force = PackOptions { force: true, ..PackOptions::default() };
    let forced = place.pack_with("lua", &root, &force).unwrap();
    assert_eq!((forced.outcome, forced.installed), (Outcome::Built, first.installed));
    fs::write(root.join("etc/new"), "x").unwrap();
    assert_eq!(place.pack("lua", &root).unwrap().outcome, Outcome::Built);
}

#[test]
fn a_strangers_pack_file_does_not_win() {
    let place = Place::new();
    let tar = archive(&[
        entry("etc/emberd/", b'5', "", b""),
        entry("etc/emberd/pack.json", b'0', "", b"theirs"),
        entry("./etc/emberd/pack.json", b'0', "", b"theirs"),
        entry("/etc/emberd/pack.json", b'0', "", b"theirs"),
    ]);
    let image = place.pack("lua", &place.write("root.tar", &tar)).unwrap().installed.path;
    let spec = unsquashfs(&["-cat"], &image, &["etc/emberd/pack.json"]);
    assert!(spec.starts_with(r#"{"name":"lua""#), "{spec}");
}

#[test]
fn devices_and_outward_links_stay_entries_of_the_image() {
    let place = Place::new();
    let outside = place.path("outside");
    let outside = outside.to_str().unwrap();
    let tar = archive(&[
        entry("dev/sda", b'4', "", b""),
        entry("shadow", b'2', "/etc/shadow", b""),
        entry(outside, b'0', "", b"absolute"),
        entry("../../../up", b'0', "", b"above"),
        entry("hard", b'1', "/etc/passwd", b""),
    ]);
    let image = place.pack("lua", &place.write("root.tar", &tar)).unwrap().installed.path;
    let listing = unsquashfs(&["-lln"], &image, &[]);
    assert!(listed(&listing, "/dev/sda").unwrap().starts_with('b'), "{listing}");
    assert!(listed(&listing, "/shadow").unwrap().ends_with("-> /etc/shadow"), "{listing}");
    assert!(listed(&listing, outside).is_some(), "{listing}");
    assert!(listed(&listing, "/up").is_some(), "{listing}");
    assert_eq!(listed(&listing, "/hard"), None, "a hard link to what is not in the archive");
    assert!(!Path::new(outside).exists());
    assert_eq!(unsquashfs(&["-cat"], &image, &["up"]), "above");
}

#[test]
fn archives_that_contradict_themselves_are_refused_and_leave_nothing() {
    let place = Place::new();
    let contradictions = [
        ("dots", vec![entry("a/../../b", b'0', "", b"x")]),
        ("through a link", vec![entry("s", b'2', "/etc", b""), entry("s/x", b'0', "", b"x")]),
        ("etc is a link", vec![entry("etc", b'2', "/tmp", b"")]),
    ];
    for (case, entries) in contradictions {
        let tar = place.write("root.tar", &archive(&entries));
        let refused = place.pack("lua", &tar);
        assert!(matches!(refused, Err(BuildError::Tool(_))), "{case}: {refused:?}");
        for dir in ["data/blobs", "data/packs", "data/tmp"] {
            assert_eq!(place.path(dir).read_dir().unwrap().count(), 0, "{case}: {dir}");
        }
    }
}

#[test]
fn what_is_no_archive_is_refused() {
    let place = Place::new();
    let whole = archive(&[entry("file", b'0', "", &[b'x'; 4000])]);
    let empty = Vec::new();
    let noise: Vec<u8> = (0..4096_u32).flat_map(|word| (word * 7919).to_le_bytes()).collect();
    let damaged_gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\0 not deflate".to_vec();
    for content in [whole[..2000].to_vec(), empty, noise, damaged_gzip] {
        let tar = place.write("root.tar", &content);
        assert!(matches!(place.pack("lua", &tar), Err(BuildError::Root { .. })));
    }
    let absent = place.pack("lua", &place.path("absent.tar"));
    assert!(matches!(absent, Err(BuildError::Root { .. })));
}
