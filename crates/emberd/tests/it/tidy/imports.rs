//! Rules on the dependency graph: who may import whom, and under which licences.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use super::tree::workspace_root;

/// What each crate must not import, as the design states it: emberd crates first, then
/// what would make the crate do what is not its business.
const ABSENCES: [(&str, &[&str]); 15] = [
    ("emberd-proto", &["emberd*", "tokio", "hyper", "axum", "nix", "rustix"]),
    ("emberd-stamp", &["emberd*", "tokio", "hyper", "axum"]),
    ("emberd-tar", &["emberd*", "tokio", "hyper", "axum", "serde"]),
    ("emberd-guest", &["emberd", "emberd-v*", "emberd-i*", "emberd-s*", "emberd-a*", "emberd-t*"]),
    (
        "emberd-egress",
        &[
            "emberd",
            "emberd-v*",
            "emberd-i*",
            "emberd-s*",
            "emberd-a*",
            "emberd-t*",
            "emberd-g*",
            "axum",
        ],
    ),
    // Anything but `emberd-stamp`.
    (
        "emberd-vmm",
        &[
            "emberd",
            "emberd-a*",
            "emberd-c*",
            "emberd-e*",
            "emberd-g*",
            "emberd-i*",
            "emberd-k*",
            "emberd-m*",
            "emberd-p*",
            "emberd-sa*",
            "emberd-t*",
            "axum",
        ],
    ),
    ("emberd-image", &["emberd-vmm", "emberd-sandbox", "emberd-api", "axum", "hyper"]),
    ("emberd-sandbox", &["emberd-api", "emberd-client", "axum", "hyper"]),
    ("emberd-api", &["emberd-vmm", "emberd-image", "emberd-sandbox", "axum", "tokio"]),
    (
        "emberd-audit",
        &[
            "emberd",
            "emberd-c*",
            "emberd-e*",
            "emberd-g*",
            "emberd-i*",
            "emberd-p*",
            "emberd-s*",
            "emberd-v*",
            "axum",
            "hyper",
        ],
    ),
    (
        "emberd-config",
        &[
            "emberd-vmm",
            "emberd-sandbox",
            "emberd-client",
            "emberd-proto",
            "axum",
            "hyper",
            "tokio",
        ],
    ),
    ("emberd-keys", &["emberd*", "axum", "hyper", "tokio"]),
    ("emberd-client", &["emberd", "emberd-vmm", "emberd-image", "emberd-sandbox", "axum"]),
    (
        "emberd-bench",
        &["emberd", "emberd-vmm", "emberd-sandbox", "fake-firecracker", "axum", "hyper"],
    ),
    ("emberd-init", &["emberd-vmm", "emberd-image", "emberd-sandbox", "emberd-api", "hyper"]),
];

/// Licences a dependency may be under; `deny.toml` holds the same list.
const LICENCES: [&str; 11] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "0BSD",
    "CC0-1.0",
];

pub fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(workspace_root().join("Cargo.toml"))
        .other_options(
            ["--offline", "--filter-platform", "x86_64-unknown-linux-gnu"].map(String::from),
        )
        .exec()
        .expect("cargo metadata")
}

pub fn workspace_problems(metadata: &Metadata) -> Vec<String> {
    let packages = metadata.workspace_packages();
    for (name, _) in ABSENCES {
        assert!(packages.iter().any(|package| package.name == name), "no crate {name}");
    }
    packages
        .iter()
        .flat_map(|package| {
            let normal = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind == DependencyKind::Normal)
                .map(|dependency| dependency.name.as_str());
            import_problems(&package.name, normal)
        })
        .collect()
}

fn import_problems<'a>(package: &str, dependencies: impl Iterator<Item = &'a str>) -> Vec<String> {
    let absent = ABSENCES.iter().find(|(name, _)| *name == package).map_or(&[][..], |(_, a)| *a);
    dependencies
        .filter(|dependency| absent.iter().any(|pattern| matches(pattern, dependency)))
        .map(|dependency| format!("{package} must not import {dependency}"))
        .collect()
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(name == pattern, |prefix| name.starts_with(prefix))
}

pub fn licence_problems(metadata: &Metadata) -> Vec<String> {
    metadata
        .packages
        .iter()
        .filter(|package| !allowed(package.license.as_deref().unwrap_or("none")))
        .map(|package| format!("{} is under {:?}", package.name, package.license))
        .collect()
}

/// Whether an SPDX expression can be met with allowed licences alone. Lax parsing takes
/// `/`, the old way to write `OR`.
fn allowed(expression: &str) -> bool {
    spdx::Expression::parse_mode(expression, spdx::ParseMode::LAX).is_ok_and(|parsed| {
        parsed.evaluate(|wanted| LICENCES.contains(&wanted.to_string().as_str()))
    })
}

/// The rules above, on what they must refuse.
pub fn check_rules_bite() {
    let refused = |package: &str, dependency: &str| {
        !import_problems(package, std::iter::once(dependency)).is_empty()
    };
    assert!(refused("emberd-proto", "tokio"));
    assert!(refused("emberd-vmm", "emberd-proto") && !refused("emberd-vmm", "emberd-stamp"));
    assert!(refused("emberd-guest", "emberd-vmm") && !refused("emberd-guest", "emberd-proto"));
    assert!(refused("emberd-client", "emberd"));
    assert!(refused("emberd-config", "emberd-vmm"));
    assert!(!refused("emberd-sandbox", "emberd-vmm"));
    assert!(allowed("MIT/Apache-2.0") && allowed("(MIT OR GPL-3.0) AND Unicode-3.0"));
    assert!(!allowed("GPL-3.0") && !allowed("MIT AND GPL-3.0") && !allowed("none"));
}
