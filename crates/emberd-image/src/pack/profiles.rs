//! Egress profiles of a pack: where the package managers in its image download from, as their own
//! configuration there says.
//!
//! The files are read out of the finished image, which is never unpacked. A manager without
//! configuration has a default in its own source, which is where the profile takes it from; cargo's
//! is compiled into it and cannot be read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use crate::command::{Tool, ToolError};

/// Entries of an egress policy (`HOST:PORT`) for each package manager, by name.
pub type Profiles = BTreeMap<String, Vec<String>>;

/// Most bytes read of one manager's files.
const FILES_BYTES_MAX: u64 = 4 << 20;

/// Most entries of one profile. An image with more is configured by hand, by entries of its own.
const ENTRIES_MAX: usize = 64;

/// Pip's own source, which names the default index.
const PIP_SOURCE: [&str; 2] = [
    "usr/lib/python3*/*-packages/pip/_internal/models/index.py",
    "usr/local/lib/python3*/*-packages/pip/_internal/models/index.py",
];

/// Pip's configuration for all users, and for root.
const PIP_CONFIG: [&str; 5] = [
    "etc/pip.conf",
    "etc/xdg/pip/pip.conf",
    "usr/local/etc/pip.conf",
    "root/.config/pip/pip.conf",
    "root/.pip/pip.conf",
];

/// Pip's variables, and the settings they stand for.
const PIP_VARIABLES: [(&str, &str); 3] = [
    ("PIP_INDEX_URL", "index-url"),
    ("PIP_EXTRA_INDEX_URL", "extra-index-url"),
    ("PIP_FIND_LINKS", "find-links"),
];

/// Npm's own source, which names the default registry.
const NPM_SOURCE: [&str; 6] = [
    "usr/share/nodejs/npm/lib/utils/config/definitions.js",
    "usr/share/nodejs/@npmcli/config/lib/definitions/definitions.js",
    "usr/lib/node_modules/npm/lib/utils/config/definitions.js",
    "usr/lib/node_modules/npm/node_modules/@npmcli/config/lib/definitions/definitions.js",
    "usr/local/lib/node_modules/npm/lib/utils/config/definitions.js",
    "usr/local/lib/node_modules/npm/node_modules/@npmcli/config/lib/definitions/definitions.js",
];

/// Npm's configuration for all users, and for root.
const NPM_CONFIG: [&str; 6] = [
    "etc/npmrc",
    "usr/etc/npmrc",
    "usr/local/etc/npmrc",
    "usr/share/nodejs/npm/npmrc",
    "usr/local/lib/node_modules/npm/npmrc",
    "root/.npmrc",
];

/// Npm's variables, and the settings they stand for.
const NPM_VARIABLES: [(&str, &str); 2] =
    [("NPM_CONFIG_REGISTRY", "registry"), ("npm_config_registry", "registry")];

/// Apt's sources.
const APT_SOURCES: [&str; 3] =
    ["etc/apt/sources.list", "etc/apt/sources.list.d/*.list", "etc/apt/sources.list.d/*.sources"];

/// Apt itself: its sources are there without it where the image was made by another one.
const APT_PROGRAM: [&str; 1] = ["usr/bin/apt-get"];

/// Cargo itself, or what stands for it.
const CARGO_PROGRAM: [&str; 6] = [
    "usr/bin/cargo",
    "usr/lib/rust-*/bin/cargo",
    "usr/local/cargo/bin/cargo",
    "usr/local/cargo/bin/rustup",
    "root/.cargo/bin/cargo",
    "root/.cargo/bin/rustup",
];

/// Directories of cargo's configuration, besides the one that its variable names: the one above
/// every project, and its homes. Of two settings of one name, the first counts.
const CARGO_DIRS: [&str; 3] = [".cargo", "usr/local/cargo", "root/.cargo"];

/// Names of cargo's configuration. The older one counts where both exist.
const CARGO_CONFIG: [&str; 2] = ["config", "config.toml"];

/// Most sources that replace one another before the last one.
const CARGO_REPLACEMENTS_MAX: usize = 16;

/// Returns the profiles of the package managers in a squashfs image, whose programs have the
/// environment `env`.
///
/// # Errors
/// [`ToolError`] of `unsquashfs`.
pub(super) fn of_image(
    image: &Path,
    env: &BTreeMap<String, String>,
) -> Result<Profiles, ToolError> {
    let read = |names: &[&str]| contents(image, names);
    let mut profiles = Profiles::new();
    let mut add = |name: &str, hosts: BTreeSet<String>| {
        if !hosts.is_empty() {
            profiles.insert(name.to_owned(), hosts.into_iter().take(ENTRIES_MAX).collect());
        }
    };
    // The environment is configuration, too.
    let configuration = |names: &[&str], variables: &[(&str, &str)]| {
        let mut text = read(names)?;
        for (variable, key) in variables {
            if let Some(value) = env.get(*variable) {
                text.extend(["\n", key, " = ", value, "\n"]);
            }
        }
        Ok(text)
    };
    add("pip", pip(&read(&PIP_SOURCE)?, &configuration(&PIP_CONFIG, &PIP_VARIABLES)?));
    add("npm", npm(&read(&NPM_SOURCE)?, &configuration(&NPM_CONFIG, &NPM_VARIABLES)?));
    if !read(&APT_PROGRAM)?.is_empty() {
        add("apt", apt(&read(&APT_SOURCES)?));
    }
    if !read(&CARGO_PROGRAM)?.is_empty() {
        let home = env.get("CARGO_HOME").map(|home| home.trim_matches('/'));
        let dirs = [CARGO_DIRS[0]].into_iter().chain(home).chain(CARGO_DIRS[1..].iter().copied());
        let files = dirs.flat_map(|dir| CARGO_CONFIG.map(|name| format!("{dir}/{name}")));
        let configs = files.map(|file| read(&[&*file])).collect::<Result<Vec<_>, _>>()?;
        add("cargo", cargo(&configs, env));
    }
    Ok(profiles)
}

/// Returns the contents of the files that match, one after the other, as text.
fn contents(image: &Path, names: &[&str]) -> Result<String, ToolError> {
    let tool = Tool::new("unsquashfs", "squashfs-tools")
        // A name without a file is not an error.
        .with(|command| command.args(["-no-exit-code", "-cat"]).arg(image).args(names));
    let mut tool = tool.start(|_line| {})?;
    let mut bytes = Vec::new();
    let mut output = tool.take_stdout();
    let read = output.by_ref().take(FILES_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(|source| ToolError::Run { program: "unsquashfs".to_owned(), source })?;
    // More than the limit is not read; the tool would wait for it.
    std::io::copy(&mut output, &mut std::io::sink())
        .map_err(|source| ToolError::Run { program: "unsquashfs".to_owned(), source })?;
    tool.finish()?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Pip's index, and the host of its files. A configured index is taken to have its files itself,
/// as mirrors do.
fn pip(source: &str, config: &str) -> BTreeSet<String> {
    let mut hosts = BTreeSet::new();
    if source.is_empty() {
        return hosts;
    }
    let mut key = String::new();
    // Of two settings of one name, the later counts.
    let mut configured = None;
    for line in config.lines().filter(|line| !is_comment(line)) {
        let continued = line.starts_with([' ', '\t']);
        let value = match line.split_once(['=', ':']) {
            Some((name, value)) if !continued => {
                // Pip takes both forms of a name.
                key = name.trim().to_ascii_lowercase().replace('_', "-");
                value
            }
            _ if continued => line,
            _ => continue,
        };
        match &*key {
            "index-url" if !value.trim().is_empty() => configured = Some(entry(value.trim())),
            "extra-index-url" | "find-links" => {
                hosts.extend(value.split_whitespace().filter_map(entry));
            }
            _ => {}
        }
    }
    if let Some(index) = configured {
        hosts.extend(index);
    } else if let Some(index) = source.split("PyPI = PackageIndex(").nth(1) {
        let mut texts = index.split('"').skip(1).step_by(2);
        hosts.extend(texts.next().and_then(entry));
        hosts.extend(texts.next().filter(|host| is_host(host)).map(|host| format!("{host}:443")));
    }
    hosts
}

/// Npm's registries: the default one, and those of scopes.
fn npm(source: &str, config: &str) -> BTreeSet<String> {
    let mut hosts = BTreeSet::new();
    if source.is_empty() {
        return hosts;
    }
    let mut configured = None;
    for line in config.lines().filter(|line| !is_comment(line)) {
        let Some((name, value)) = line.split_once('=') else { continue };
        let value = value.trim().trim_matches(['"', '\'']);
        match name.trim() {
            "registry" => configured = Some(entry(value)),
            name if name.ends_with(":registry") => hosts.extend(entry(value)),
            _ => {}
        }
    }
    if let Some(registry) = configured {
        hosts.extend(registry);
    } else if let Some(definition) = source.split("define('registry'").nth(1) {
        let default = definition.split("default:").nth(1).unwrap_or_default();
        hosts.extend(default.split(['\'', '"', '`']).nth(1).and_then(entry));
    }
    hosts
}

/// Apt's archives, in both forms of its sources: lines, and stanzas of fields (sources.list(5)).
fn apt(sources: &str) -> BTreeSet<String> {
    let mut hosts = BTreeSet::new();
    let mut stanza = Stanza::default();
    for line in sources.lines().filter(|line| !is_comment(line)) {
        if line.trim().is_empty() {
            hosts.extend(std::mem::take(&mut stanza).hosts());
        } else if line.starts_with("deb ") || line.starts_with("deb-src ") {
            hosts.extend(line.split_whitespace().filter_map(entry));
        } else {
            stanza.add(line);
        }
    }
    hosts.extend(stanza.hosts());
    hosts
}

/// A stanza of apt's sources.
#[derive(Default)]
struct Stanza {
    field: String,
    hosts: Vec<String>,
    disabled: bool,
}

impl Stanza {
    /// Adds a line: a field, or more of the one before.
    fn add(&mut self, line: &str) {
        let value = match line.split_once(':') {
            Some((name, value)) if !line.starts_with([' ', '\t']) => {
                self.field = name.trim().to_ascii_lowercase();
                value
            }
            _ => line,
        };
        match &*self.field {
            "uris" => self.hosts.extend(value.split_whitespace().filter_map(entry)),
            "enabled" => {
                let value = value.trim().to_ascii_lowercase();
                self.disabled = ["no", "false", "without", "off", "disable"].contains(&&*value);
            }
            _ => {}
        }
    }

    fn hosts(self) -> Vec<String> {
        if self.disabled { Vec::new() } else { self.hosts }
    }
}

/// Cargo's registries: the one that replaces its default, and others. Each is taken to serve its
/// files itself, as mirrors do. The earlier configuration counts.
fn cargo(configs: &[String], env: &BTreeMap<String, String>) -> BTreeSet<String> {
    // `-` of a name is `_` in a variable's.
    let plain = |name: &str| name.to_ascii_lowercase().replace('-', "_");
    let mut settings = BTreeMap::new();
    for (variable, value) in env {
        let name = variable.strip_prefix("CARGO_REGISTRIES_");
        if let Some(name) = name.and_then(|name| name.strip_suffix("_INDEX")) {
            settings.insert(("registries", plain(name), "index"), value.clone());
        }
    }
    let keys = [("source", "replace-with"), ("source", "registry"), ("registries", "index")];
    for config in configs {
        let Ok(config) = config.parse::<toml::Table>() else { continue };
        for (section, key) in keys {
            let tables = config.get(section).and_then(toml::Value::as_table);
            for (name, table) in tables.into_iter().flatten() {
                if let Some(value) = table.get(key).and_then(toml::Value::as_str) {
                    let setting = (section, plain(name), key);
                    settings.entry(setting).or_insert_with(|| value.to_owned());
                }
            }
        }
    }
    let mut source = plain("crates-io");
    for _ in 0..CARGO_REPLACEMENTS_MAX {
        let Some(next) = settings.get(&("source", source.clone(), "replace-with")) else { break };
        source = plain(next);
    }
    let indices = settings.iter().filter(|((section, ..), _)| *section == "registries");
    let indices = indices.map(|(_, index)| index);
    let urls = indices.chain(settings.get(&("source", source, "registry")));
    urls.filter_map(|url| entry(url.strip_prefix("sparse+").unwrap_or(url))).collect()
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with(['#', ';'])
}

/// Returns the entry for the server of a URL, or none for another text.
fn entry(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let port = match scheme {
        "https" => "443",
        "http" => "80",
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let server = authority.rsplit('@').next()?;
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, port),
        Some(_) => return None,
        None => (server, port),
    };
    is_host(host).then(|| format!("{}:{port}", host.to_ascii_lowercase()))
}

fn is_host(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !text.is_empty() && text.len() <= 253 && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIP: &str = r#"PyPI = PackageIndex("https://index.example/", file_storage_domain="files.example")
TestPyPI = PackageIndex("https://test.example/", file_storage_domain="test-files.example")"#;

    const NPM: &str = "define('proxy', { default: null })\ndefine('registry', {\n  \
                       default: 'https://registry.example/',\n  type: url,\n})";

    fn check(found: BTreeSet<String>, expected: &[&str]) {
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn pip_without_configuration_has_the_index_of_its_source() {
        check(pip(PIP, ""), &["files.example:443", "index.example:443"]);
        check(pip("", "index-url = https://a.example/simple"), &[]);
    }

    #[test]
    fn pip_with_an_index_has_that_alone() {
        let config = "[global]\nindex-url = https://user:word@Mirror.example:8443/simple\n\
                      extra-index-url =\n    http://more.example/simple\n    https://even.example\n\
                      timeout = 10\n";
        check(pip(PIP, config), &["even.example:443", "mirror.example:8443", "more.example:80"]);
        let extra = "[install]\nextra-index-url = https://more.example/simple";
        let other = "[global]\nIndex_URL: file:///srv/index\n# index-url = http://old.example\n";
        check(pip(PIP, other), &[]);
        check(pip(PIP, extra), &["files.example:443", "index.example:443", "more.example:443"]);
    }

    #[test]
    fn npm_has_its_registry_and_those_of_scopes() {
        check(npm(NPM, ""), &["registry.example:443"]);
        check(npm("", "registry=https://a.example"), &[]);
        let config =
            "registry = \"http://mirror.example:4873/\"\n@team:registry=https://t.example/";
        check(npm(NPM, config), &["mirror.example:4873", "t.example:443"]);
        let quoted = "registry='http://mirror.example/'\n; @a:registry=http://b.example/\n";
        check(npm(NPM, quoted), &["mirror.example:80"]);
        check(
            npm(NPM, "@team:registry=https://t.example/"),
            &["registry.example:443", "t.example:443"],
        );
    }

    #[test]
    fn apt_has_the_archives_of_both_forms() {
        let sources = "# deb http://old.example/ a\ndeb [arch=amd64] http://a.example/debian b main\n\
                       deb-src https://b.example:444/debian b main\ndeb cdrom:[Disc]/ b main\n\
                       Types: deb\nUris: http://c.example/debian\n https://d.example\nSuites: b\n\n\
                       Types: deb\nURIs: http://off.example\nEnabled: no\n";
        check(apt(sources), &["a.example:80", "b.example:444", "c.example:80", "d.example:443"]);
    }

    #[test]
    fn cargo_has_what_replaces_its_default_and_other_registries() {
        let found = |configs: &[&str], env: &[(&str, &str)]| {
            let configs: Vec<_> = configs.iter().map(|&config| config.to_owned()).collect();
            let own = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
            cargo(&configs, &env.iter().map(own).collect())
        };
        check(found(&["", "[net]\ngit-fetch-with-cli = true"], &[]), &[]);
        let replaced = "[source.crates-io]\nreplace-with = 'mirror'\n[source.mirror]\n\
                        replace-with = 'near'\nregistry = 'https://far.example'\n\
                        [source.near]\nregistry = 'sparse+https://near.example:8443/index/'";
        check(found(&[replaced], &[]), &["near.example:8443"]);
        let named = "[registries.my-own]\nindex = 'sparse+http://own.example/'\n\
                     [source.unused]\nregistry = 'https://unused.example'";
        check(found(&[named], &[]), &["own.example:80"]);
        check(found(&[replaced, named], &[]), &["near.example:8443", "own.example:80"]);
        let variable = [("CARGO_REGISTRIES_MY_OWN_INDEX", "https://variable.example/git")];
        check(found(&[named], &variable), &["variable.example:443"]);
    }

    #[test]
    fn cargo_takes_the_first_setting_and_follows_no_circle() {
        let own = |config: &str| config.to_owned();
        let near = "[registries.a]\nindex = 'https://near.example'";
        let far = "[registries.a]\nindex = 'https://far.example'";
        check(
            cargo(&[own(near), own("not = [toml"), own(far)], &BTreeMap::new()),
            &["near.example:443"],
        );
        let circle = "[source.crates-io]\nreplace-with = 'a'\n[source.a]\nreplace-with = 'b'\n\
                      [source.b]\nreplace-with = 'a'";
        check(cargo(&[own(circle)], &BTreeMap::new()), &[]);
        let vendored = "[source.crates-io]\nreplace-with = 'v'\n[source.v]\ndirectory = '/v'";
        check(cargo(&[own(vendored)], &BTreeMap::new()), &[]);
    }

    #[test]
    fn texts_that_are_not_urls_of_servers_are_left_out() {
        for text in [
            "",
            "https",
            "https://",
            "ftp://a.example",
            "file:///etc",
            "https://a b",
            "https://*",
            "https://a.example:99999/",
            "https://[::1]/",
            "https://a\u{e9}.example",
        ] {
            assert_eq!(entry(text), None, "{text}");
        }
    }
}
