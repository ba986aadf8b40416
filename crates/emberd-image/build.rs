//! Compiles the program of shell contexts, which this crate puts into language packs.
//!
//! The same compiler makes the same bytes wherever the sources lie: no flags of the
//! surroundings, no paths, no dates, no build id.

use std::env;
use std::path::Path;
use std::process::Command;

/// The source, below the crate's own directory.
const SOURCE: &str = "../../rootfs/packs/shell/context.c";

/// A library for other processes to load; every warning is an error. The C library's checks of
/// long jumps do not know of the jumps that a shell makes.
const FLAGS: [&str; 14] = [
    "-std=gnu11",
    "-shared",
    "-fPIC",
    "-O2",
    "-g0",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-U_FORTIFY_SOURCE",
    "-fvisibility=hidden",
    "-Wl,--build-id=none",
    "-Wl,-z,relro",
    "-Wl,-z,noexecstack",
    "-s",
];

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CC");
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let out_dir = env::var_os("OUT_DIR").expect("cargo sets it for build scripts");
    let library = Path::new(&out_dir).join("context.so");
    let mut command = Command::new(&compiler);
    command.args(FLAGS).arg("-o").arg(&library).arg(SOURCE);
    let compiler = compiler.display();
    match command.status() {
        Ok(status) => assert!(status.success(), "{compiler} cannot compile {SOURCE}: {status}"),
        Err(error) => panic!("cannot run the C compiler {compiler}: {error}"),
    }
}
