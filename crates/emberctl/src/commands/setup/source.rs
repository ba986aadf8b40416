//! Where a file comes from, and which file it must be.

use std::fs::File;
use std::io::{self, Seek as _};
use std::path::{Path, PathBuf};

use emberd_api::chain;
use emberd_image::{Digest, Progress};

use super::download::{self, FetchError, Remote};
use super::workshop::Workshop;
use crate::report::Hinted;

/// Advice for a host without a network, or with one that serves false files.
const OFFLINE_HINT: &str = "run the command again to continue, give a file fetched elsewhere with \
                            --from FILE, or name a mirror; with QEMU, emberd needs no Firecracker";

/// Options of everything that is fetched.
#[derive(Debug, clap::Args)]
pub struct SourceArgs {
    /// URL of the file, instead of the publisher's.
    #[arg(long, value_name = "URL", conflicts_with_all = ["mirror", "from"])]
    url: Option<String>,
    /// Base URL of a mirror of the publisher's files.
    #[arg(long, value_name = "BASE-URL", conflicts_with = "from")]
    mirror: Option<String>,
    /// Local copy of the file, instead of a download.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// SHA-256 digest that the file must have, instead of the built-in one.
    #[arg(long, value_name = "HEX")]
    sha256: Option<Digest>,
}

/// A file its makers publish.
#[derive(Debug)]
pub struct Published<'a> {
    /// Where their tree of files begins.
    pub base_url: &'a str,
    /// The file in that tree.
    pub path: String,
    /// Its digest, where known.
    pub sha256: Option<Digest>,
    /// No such file is larger, in bytes.
    pub bytes_max: u64,
}

/// A verified file. One that was downloaded is removed with it.
#[derive(Debug)]
pub struct Fetched {
    path: PathBuf,
    downloaded: bool,
}

impl Fetched {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        if self.downloaded {
            // What stays is only in the way: the next run overwrites it.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

impl Published<'_> {
    /// The file's name.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

impl SourceArgs {
    /// The digest that the file must have.
    ///
    /// # Errors
    /// No digest was given, and none is built in.
    pub fn digest(&self, published: &Published<'_>) -> anyhow::Result<Digest> {
        self.sha256.or(published.sha256).ok_or_else(|| {
            let message = format!("the SHA-256 of {} is not known", published.name());
            let hint = "give the published digest with --sha256".to_owned();
            Hinted { message, hint }.into()
        })
    }

    /// Fetches the file and verifies it.
    ///
    /// # Errors
    /// The file cannot be fetched, or has another digest.
    pub fn fetch(
        &self,
        published: &Published<'_>,
        workshop: &Workshop,
        progress: &mut dyn Progress,
    ) -> anyhow::Result<Fetched> {
        let sha256 = self.digest(published)?;
        if let Some(path) = &self.from {
            progress.stage(&format!("verifying {}", path.display()));
            let file = File::open(path).map_err(|error| unreadable(path, &error))?;
            verify(&file, sha256, &path.display().to_string())?;
            return Ok(Fetched { path: path.clone(), downloaded: false });
        }
        let base = self.mirror.as_deref().unwrap_or(published.base_url);
        let url = match &self.url {
            Some(url) => url.clone(),
            None => format!("{}/{}", base.trim_end_matches('/'), published.path),
        };
        progress.stage(&format!("downloading {url}"));
        let part = workshop.file(&format!("{}.{}.part", published.name(), short(sha256)));
        let remote = Remote { url: &url, sha256, bytes_max: published.bytes_max };
        download::fetch(&remote, &part, progress).map_err(|error| hinted(&error))?;
        let path = workshop.file(published.name());
        std::fs::rename(&part, &path)?;
        Ok(Fetched { path, downloaded: true })
    }
}

/// Enough of a digest to tell files of one name apart.
fn short(sha256: Digest) -> String {
    sha256.to_string().chars().take(12).collect()
}

fn verify(mut file: &File, sha256: Digest, what: &str) -> anyhow::Result<()> {
    file.rewind()?;
    let (found, _) = Digest::of_reader(file)?;
    if found == sha256 {
        return Ok(());
    }
    let message = format!("{what} has the SHA-256 {found}, not {sha256}");
    let hint = "nothing was installed; check that the file is complete and of the right release";
    Err(Hinted { message, hint: hint.to_owned() }.into())
}

fn unreadable(path: &Path, error: &io::Error) -> Hinted {
    let message = format!("cannot read {}: {error}", path.display());
    Hinted { message, hint: "give a file that this user can read with --from".to_owned() }
}

fn hinted(error: &FetchError) -> Hinted {
    let hint = error.hint().unwrap_or(OFFLINE_HINT).to_owned();
    Hinted { message: chain(error), hint }
}
