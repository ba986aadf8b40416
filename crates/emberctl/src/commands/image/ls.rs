//! `emberctl image ls`: what guests boot from, as the data directory has it.

use std::process::ExitCode;

use emberd_image::{DataDir, Installed, Profiles};
use serde::Serialize;

use crate::output::{self, Output};

/// Hexadecimal digits of a digest that are shown to people.
const DIGEST_DIGITS: usize = 12;

/// One image, as `--json` prints it.
#[derive(Debug, Serialize)]
pub struct Image {
    artifact: String,
    summary: String,
    path: String,
    sha256: String,
    size_bytes: u64,
    #[serde(skip_serializing_if = "Profiles::is_empty")]
    profiles: Profiles,
}

impl From<&Installed> for Image {
    fn from(installed: &Installed) -> Self {
        Self {
            artifact: name(installed),
            summary: installed.summary.clone(),
            path: installed.path.display().to_string(),
            sha256: installed.sha256.to_string(),
            size_bytes: installed.size_bytes,
            profiles: installed.profiles.clone(),
        }
    }
}

fn name(installed: &Installed) -> String {
    match &installed.artifact {
        emberd_image::Artifact::Kernel => "kernel".to_owned(),
        emberd_image::Artifact::Initramfs => "initramfs".to_owned(),
        emberd_image::Artifact::Pack(name) => format!("pack {name}"),
    }
}

impl Image {
    /// Name, size, digest and summary: the cells of a table.
    pub fn cells(&self) -> [String; 4] {
        let digest = self.sha256.chars().take(DIGEST_DIGITS).collect();
        [self.artifact.clone(), output::bytes(self.size_bytes), digest, self.summary.clone()]
    }
}

/// Prints the table.
///
/// # Errors
/// The data directory's records are damaged or cannot be read.
pub fn run(data_dir: &DataDir, output: Output) -> anyhow::Result<ExitCode> {
    let installed = emberd_image::installed(data_dir)?;
    let images: Vec<Image> = installed.iter().map(Image::from).collect();
    output.print(&images, || {
        let rows: Vec<_> = images.iter().map(Image::cells).collect();
        output::table(["IMAGE", "SIZE", "SHA256", "WHAT"], &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}
