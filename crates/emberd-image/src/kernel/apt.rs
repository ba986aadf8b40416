//! The host's package tools, used without root and without changing the host.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::build::BuildError;
use crate::command::{Tool, ToolError};
use crate::store::StoreError;

/// apt with the host's package lists or with separate ones.
pub(super) struct Apt {
    options: Vec<OsString>,
}

impl Apt {
    /// Uses the host's package lists.
    pub fn host() -> Self {
        // Otherwise apt, run by root, would download as a user who may not write everywhere.
        Self { options: ["-o", "APT::Sandbox::User=root"].map(OsString::from).into() }
    }

    /// Uses current package lists, stored below `dir`.
    pub fn updated(dir: &Path) -> Result<Self, BuildError> {
        let mut apt = Self::host();
        for (option, name) in [("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")] {
            let path = dir.join(name);
            fs::create_dir_all(&path).map_err(StoreError::at(&path))?;
            let mut setting = OsString::from(format!("{option}="));
            setting.push(path);
            apt.options.extend(["-o".into(), setting]);
        }
        apt.tool("apt-get").with(|command| command.args(["-q", "update"])).output()?;
        Ok(apt)
    }

    /// Returns the packages that `package` needs.
    pub fn depends(&self, package: &str) -> Result<Vec<String>, ToolError> {
        let tool = self.tool("apt-cache").with(|command| command.args(["depends", package]));
        Ok(parse_depends(&String::from_utf8_lossy(&tool.output()?)))
    }

    /// Downloads archives into `dir`. apt verifies them with the distribution's signatures.
    pub fn download(&self, packages: &[String], dir: &Path) -> Result<(), ToolError> {
        let tool = self
            .tool("apt-get")
            .with(|command| command.args(["-q", "download"]).args(packages).current_dir(dir));
        tool.output().map(drop)
    }

    fn tool(&self, program: &'static str) -> Tool {
        Tool::new(program, "apt").with(|command| command.args(&self.options))
    }
}

/// Parses the output of `apt-cache depends`: the needed packages, including alternatives.
fn parse_depends(output: &str) -> Vec<String> {
    let lines = output.lines().map(|line| line.trim_start().trim_start_matches('|'));
    let needed = lines.filter_map(|line| {
        line.strip_prefix("Depends: ").or_else(|| line.strip_prefix("PreDepends: "))
    });
    needed.map(|name| name.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_packages_are_listed() {
        let output = "linux-image-virtual\n  Depends: linux-image-6.8.0-31-generic\n \
            |Depends: linux-a\n  PreDepends: debconf\n  Suggests: linux-doc\n";
        let expect = ["linux-image-6.8.0-31-generic", "linux-a", "debconf"];
        assert_eq!(parse_depends(output), expect);
    }
}
