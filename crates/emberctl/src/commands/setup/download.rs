//! Downloads one file with the host's curl, whose business TLS, proxies and redirects are.
//!
//! ```text
//! nothing ─▶ part ─▶ whole ─▶ digest right ─▶ done
//!   ▲        │ ▲ └─ cut off: kept, continued at once if it grew, else by the next run
//!   └────────┘ └── the server cannot continue it: restarted
//!      wrong digest: removed
//! ```

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use emberd_image::{Digest, Progress};

/// Attempts at one file before the user is told.
const ATTEMPTS_MAX: u32 = 5;

/// Redirects followed.
const REDIRECTS_MAX: &str = "10";

/// How long a connection may take to open, and a transfer to stand still, in seconds.
const PATIENCE_S: &str = "30";

/// Bytes taken from curl at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Most of what curl says that is read, in bytes.
const SAID_BYTES_MAX: u64 = 16 << 10;

/// curl's exit code when a server cannot continue a file (curl(1)).
const CURL_NO_RANGES: i32 = 33;

/// HTTP's status when nothing of the file comes after what is there.
const STATUS_NO_SUCH_RANGE: &str = "416";

/// A file somewhere else.
#[derive(Debug)]
pub struct Remote<'a> {
    /// Where: `http` or `https`.
    pub url: &'a str,
    /// The digest it must have.
    pub sha256: Digest,
    /// Where the download is given up, in bytes.
    pub bytes_max: u64,
}

/// Why a file was not downloaded.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// curl is not installed.
    #[error("cannot run curl")]
    Curl(#[source] io::Error),
    /// The download failed or is incomplete.
    #[error("cannot download {url}: {said}")]
    Transfer {
        /// The URL.
        url: String,
        /// The message of curl.
        said: String,
    },
    /// The file is over the size limit.
    #[error("{url} is larger than {bytes_max} bytes")]
    TooLarge {
        /// The URL.
        url: String,
        /// The limit.
        bytes_max: u64,
    },
    /// The file has another digest.
    #[error("{url} has the SHA-256 {found}, not {wanted}")]
    WrongDigest {
        /// The URL.
        url: String,
        /// The digest of the downloaded file.
        found: Digest,
        /// The expected digest.
        wanted: Digest,
    },
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl FetchError {
    /// Advice for this error, if it has any of its own.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Curl(_) => {
                Some("install curl: apt-get install curl, or give the file with --from FILE")
            }
            Self::WrongDigest { .. } => {
                Some("nothing was installed and the download was removed; do not use that source")
            }
            Self::Write { .. } => Some("check that the data directory is writable and not full"),
            Self::Transfer { .. } | Self::TooLarge { .. } => None,
        }
    }
}

/// How one run of curl ended.
enum End {
    Whole,
    Cut {
        said: String,
    },
    /// The server, or the file there, does not go on where the part ends.
    NoRange {
        said: String,
    },
}

/// Makes `part` the whole file, beginning with what it holds.
///
/// # Errors
/// [`FetchError`]; after one of the network, `part` keeps what came.
pub fn fetch(
    remote: &Remote<'_>,
    part: &Path,
    progress: &mut dyn Progress,
) -> Result<(), FetchError> {
    let failed = |source| FetchError::Write { path: part.to_owned(), source };
    let open = File::options().create(true).truncate(false).read(true).write(true).open(part);
    let mut file = open.map_err(failed)?;
    if digest(&mut file).map_err(failed)? == remote.sha256 {
        return Ok(());
    }
    let ended = transfer(remote, &mut file, part, progress);
    match ended.and_then(|()| digest(&mut file).map_err(failed)) {
        Ok(found) if found == remote.sha256 => file.sync_all().map_err(failed),
        Ok(found) => {
            std::fs::remove_file(part).map_err(failed)?;
            Err(FetchError::WrongDigest { url: remote.url.into(), found, wanted: remote.sha256 })
        }
        Err(error) => {
            let is_worthless = matches!(error, FetchError::TooLarge { .. });
            if is_worthless || file.metadata().map_err(failed)?.len() == 0 {
                std::fs::remove_file(part).map_err(failed)?;
            }
            Err(error)
        }
    }
}

/// Runs curl until the file is whole, or an attempt brings nothing more.
fn transfer(
    remote: &Remote<'_>,
    file: &mut File,
    part: &Path,
    progress: &mut dyn Progress,
) -> Result<(), FetchError> {
    let failed = |source| FetchError::Write { path: part.to_owned(), source };
    let refused = |said| FetchError::Transfer { url: remote.url.into(), said };
    for attempt in 1.. {
        let before = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let end = run_curl(remote, before, file, part, progress)?;
        let after = file.stream_position().map_err(failed)?;
        let last = attempt == ATTEMPTS_MAX;
        match end {
            End::Whole => break,
            End::Cut { .. } if after > before && !last => {}
            End::NoRange { .. } if before > 0 && !last => file.set_len(0).map_err(failed)?,
            End::Cut { said } | End::NoRange { said } => return Err(refused(said)),
        }
    }
    Ok(())
}

/// Appends to `file` what comes after its first `offset` bytes.
fn run_curl(
    remote: &Remote<'_>,
    offset: u64,
    file: &mut File,
    part: &Path,
    progress: &mut dyn Progress,
) -> Result<End, FetchError> {
    let mut curl = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--location", "--output", "-"])
        .args(["--proto", "=http,https", "--proto-redir", "=http,https"])
        .args(["--max-redirs", REDIRECTS_MAX, "--connect-timeout", PATIENCE_S])
        .args(["--speed-limit", "1", "--speed-time", PATIENCE_S])
        .args(["--write-out", "%{stderr}\\nstatus %{http_code}\\n"])
        .args(["--continue-at", &offset.to_string(), "--url", remote.url])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(FetchError::Curl)?;
    let body = curl.stdout.take().expect("it is piped");
    let said = curl.stderr.take().expect("it is piped");
    // Closes curl's standard output, which ends a curl that has more to say.
    let stored = append(body, file, offset, remote, part, progress);
    let mut text = String::new();
    let heard = said.take(SAID_BYTES_MAX).read_to_string(&mut text);
    let status = curl.wait().map_err(FetchError::Curl)?;
    stored?;
    heard.map_err(FetchError::Curl)?;
    Ok(end(status, &text))
}

fn append(
    mut body: impl Read,
    file: &mut File,
    offset: u64,
    remote: &Remote<'_>,
    part: &Path,
    progress: &mut dyn Progress,
) -> Result<(), FetchError> {
    let failed = |source| FetchError::Write { path: part.to_owned(), source };
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done = offset;
    loop {
        let count = body.read(&mut chunk).map_err(FetchError::Curl)?;
        if count == 0 {
            return Ok(());
        }
        done += count as u64;
        if done > remote.bytes_max {
            let bytes_max = remote.bytes_max;
            return Err(FetchError::TooLarge { url: remote.url.into(), bytes_max });
        }
        file.write_all(&chunk[..count]).map_err(failed)?;
        progress.bytes(done, None);
    }
}

/// Interprets the exit status and the messages of curl.
fn end(status: ExitStatus, text: &str) -> End {
    let http_status = text.lines().find_map(|line| line.strip_prefix("status "));
    let said =
        text.lines().find_map(|line| Some(line.strip_prefix("curl: (")?.split_once(") ")?.1));
    let said = said.map_or_else(|| format!("curl: {status}"), str::to_owned);
    if status.success() {
        End::Whole
    } else if status.code() == Some(CURL_NO_RANGES) || http_status == Some(STATUS_NO_SUCH_RANGE) {
        End::NoRange { said }
    } else {
        End::Cut { said }
    }
}

fn digest(file: &mut File) -> io::Result<Digest> {
    file.rewind()?;
    Ok(Digest::of_reader(file)?.0)
}
