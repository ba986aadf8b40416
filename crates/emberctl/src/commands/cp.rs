//! `emberctl cp SRC DST`: files and directories into a sandbox, and out of it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use emberd_api::{FileEntry, FileType};
use emberd_client::{Client, ClientError, Download, FileOptions, FileSpan};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::interrupt::Interrupt;
use crate::output::{self, Output, printable};
use crate::place::{Place, SandboxPath};
use crate::report::Hinted;

mod archive;
mod pipe;

/// Progress where the size is known: a bar, what is done, what there is, the rate.
const BAR: &str = "{bar:30} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left";
/// Progress where the size is not known.
const COUNTER: &str = "{spinner} {bytes}, {binary_bytes_per_sec}";

/// Arguments of `cp`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Source: a path of this host, ID:PATH in a sandbox, or `-` for standard input. Directories
    /// are copied with everything in them.
    src: OsString,
    /// Destination: ID:PATH in a sandbox, a path of this host, or `-` for standard output. A copy
    /// to an existing directory goes into it.
    dst: OsString,
    /// User in the sandbox who owns the copies, and whose home relative paths start at.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

/// The JSON output of `cp`.
#[derive(Serialize)]
struct Copied {
    /// Path of the copy.
    to: String,
    /// Bytes that crossed: of a file its size, of a directory its archive's.
    bytes: u64,
}

/// Copies.
///
/// # Errors
/// A local path cannot be read or written, the daemon refuses the request, or no daemon answers.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let mut interrupt = Interrupt::listen()?;
    let copied = tokio::select! {
        copied = copy(client, &args, output) => copied?,
        interrupted = interrupt.next() => return Err(interrupted.into()),
    };
    if let Some(copied) = copied {
        output.print(&copied, || {
            format!("{}  {}\n", printable(&copied.to), output::bytes(copied.bytes))
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn copy(client: &Client, args: &Args, output: Output) -> anyhow::Result<Option<Copied>> {
    let options = FileOptions { user: args.user.clone(), mode: None };
    let way = Way { client, options, output };
    match (Place::parse(&args.src), Place::parse(&args.dst)) {
        (Place::Host(from), Place::Sandbox(to)) if from.is_dir() => {
            way.directory_in(&from, to).await.map(Some)
        }
        (Place::Host(from), Place::Sandbox(to)) => way.file_in(&from, to).await.map(Some),
        (Place::Standard, Place::Sandbox(to)) => {
            way.content_in(io::stdin(), None, to).await.map(Some)
        }
        (Place::Sandbox(from), Place::Host(to)) => way.out(&from, to).await.map(Some),
        (Place::Sandbox(from), Place::Standard) => way.to_stdout(&from).await.map(|()| None),
        _ => Err(Hinted {
            message: "one path must be in a sandbox, and the other on this host".to_owned(),
            hint: "write the path in a sandbox as ID:PATH".to_owned(),
        }
        .into()),
    }
}

/// How it is copied, whichever way.
struct Way<'a> {
    client: &'a Client,
    options: FileOptions,
    output: Output,
}

impl Way<'_> {
    async fn file_in(&self, from: &Path, to: SandboxPath) -> anyhow::Result<Copied> {
        let named = || format!("cannot read {}", from.display());
        let file = File::open(from).with_context(named)?;
        let metadata = file.metadata().with_context(named)?;
        let to = self.within(to, from).await?;
        // What is no regular file, such as a pipe, has an end only when it comes.
        let length = metadata.is_file().then_some(metadata.len());
        let options = FileOptions {
            mode: metadata.is_file().then(|| metadata.permissions().mode() & 0o777),
            ..self.options.clone()
        };
        Way { options, ..*self }.content_in(file, length, to).await
    }

    async fn content_in(
        &self,
        content: impl Read + Send + 'static,
        length: Option<u64>,
        to: SandboxPath,
    ) -> anyhow::Result<Copied> {
        let bar = self.bar(length);
        let upload = pipe::upload(move |pipe| {
            let mut content = content;
            // A file that grows meanwhile is copied as long as it was.
            match length {
                Some(length) => io::copy(&mut content.take(length), pipe),
                None => io::copy(&mut content, pipe),
            }
        });
        let upload = match length {
            Some(length) => upload.of_length(length),
            None => upload,
        };
        let counted = bar.clone();
        let upload = upload.told(move |count| counted.inc(count as u64));
        let made = self.client.file_write(&to.id, &to.path, upload, &self.options).await;
        bar.finish_and_clear();
        let made = made?;
        Ok(Copied { to: to.with(made.path.0).to_string(), bytes: made.size })
    }

    async fn directory_in(&self, from: &Path, to: SandboxPath) -> anyhow::Result<Copied> {
        let named =
            from.canonicalize().with_context(|| format!("cannot find {}", from.display()))?;
        let to = self.within(to, &named).await?;
        let bar = self.bar(None);
        let counted = bar.clone();
        let upload = pipe::upload(move |pipe| archive::pack(&named, pipe));
        let upload = upload.told(move |count| counted.inc(count as u64));
        let unpacked = self.client.file_unpack(&to.id, &to.path, upload, &self.options).await;
        bar.finish_and_clear();
        unpacked?;
        Ok(Copied { to: to.to_string(), bytes: bar.position() })
    }

    /// `to`, or where what is called as `from` is goes in it if it is a directory.
    async fn within(&self, to: SandboxPath, from: &Path) -> anyhow::Result<SandboxPath> {
        let asked = self.client.file_stat(&to.id, &to.path, &self.options).await;
        let is_dir = match asked {
            Ok(entry) => leads_to(&entry) == FileType::Directory,
            Err(ClientError::Api { status: 404, body })
                if body.code == emberd_api::ErrorCode::NotFound =>
            {
                false
            }
            Err(error) => return Err(error.into()),
        };
        Ok(match from.file_name() {
            Some(name) if is_dir => to.with(to.path.join(name)),
            _ => to,
        })
    }

    async fn out(&self, from: &SandboxPath, to: PathBuf) -> anyhow::Result<Copied> {
        let entry = self.client.file_stat(&from.id, &from.path, &self.options).await?;
        let to = if to.is_dir() { to.join(own_name(from)?) } else { to };
        let bytes = if leads_to(&entry) == FileType::Directory {
            self.directory_out(from, &entry, &to).await?
        } else {
            self.file_out(from, &entry, &to).await?
        };
        Ok(Copied { to: to.display().to_string(), bytes })
    }

    async fn file_out(
        &self,
        from: &SandboxPath,
        entry: &FileEntry,
        to: &Path,
    ) -> anyhow::Result<u64> {
        let (client, span) = (self.client, FileSpan::default());
        let mut download = client.file_read(&from.id, &from.path, span, &self.options).await?;
        let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty());
        let named = || format!("cannot write {}", to.display());
        // Whole or not at all, as in the other direction.
        let mode = fs::Permissions::from_mode(entry.mode & 0o777);
        let mut file = tempfile::Builder::new()
            .prefix(".emberctl-")
            .tempfile_in(dir.unwrap_or(Path::new(".")))
            .with_context(named)?;
        let bytes = self.pour(&mut download, file.as_file_mut()).await?;
        // A link's own mode says nothing of the file.
        if entry.file_type == FileType::File {
            file.as_file().set_permissions(mode).with_context(named)?;
        }
        file.persist(to).with_context(named)?;
        Ok(bytes)
    }

    async fn directory_out(
        &self,
        from: &SandboxPath,
        entry: &FileEntry,
        to: &Path,
    ) -> anyhow::Result<u64> {
        let mut download = self.client.file_pack(&from.id, &from.path, &self.options).await?;
        let made = !to.exists();
        fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
        let bar = self.bar(None);
        let (pieces, unpacking) = pipe::download({
            let to = to.to_owned();
            move |pipe| archive::unpack(pipe, &to)
        });
        while let Some(piece) = download.next().await? {
            bar.inc(piece.len() as u64);
            if pieces.send(piece).await.is_err() {
                break;
            }
        }
        drop(pieces);
        unpacking.await?.with_context(|| format!("cannot unpack into {}", to.display()))?;
        bar.finish_and_clear();
        // A link's own mode and time say nothing of the directory.
        if made && entry.file_type == FileType::Directory {
            be_like(to, entry)
                .with_context(|| format!("cannot set the mode and time of {}", to.display()))?;
        }
        Ok(bar.position())
    }

    /// A file as it is, a directory as a tar archive.
    async fn to_stdout(&self, from: &SandboxPath) -> anyhow::Result<()> {
        if self.output.json {
            let message = "standard output cannot take both the file and JSON".to_owned();
            return Err(Hinted { message, hint: "leave out --json".to_owned() }.into());
        }
        let client = self.client;
        let entry = client.file_stat(&from.id, &from.path, &self.options).await?;
        let mut download = if leads_to(&entry) == FileType::Directory {
            client.file_pack(&from.id, &from.path, &self.options).await?
        } else {
            let span = FileSpan::default();
            client.file_read(&from.id, &from.path, span, &self.options).await?
        };
        self.pour(&mut download, &mut io::stdout()).await?;
        Ok(io::stdout().flush()?)
    }

    async fn pour(&self, download: &mut Download, to: &mut impl Write) -> anyhow::Result<u64> {
        let bar = self.bar(download.length());
        while let Some(piece) = download.next().await? {
            to.write_all(&piece)?;
            bar.inc(piece.len() as u64);
        }
        bar.finish_and_clear();
        Ok(bar.position())
    }

    /// Progress on standard error, if somebody watches.
    fn bar(&self, length: Option<u64>) -> ProgressBar {
        if self.output.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let (bar, template) = match length {
            Some(length) => (ProgressBar::new(length), BAR),
            None => (ProgressBar::new_spinner(), COUNTER),
        };
        bar.with_style(ProgressStyle::with_template(template).expect("a constant"))
    }
}

/// Name of a copy: the last part of the path the user gave. The name that the sandbox reports is
/// not trusted: it may be that of a file that the user's shell reads.
fn own_name(from: &SandboxPath) -> anyhow::Result<&OsStr> {
    from.path.file_name().ok_or_else(|| {
        let message = format!("{from} has no file name for its copy");
        let hint = "give the copy a name, such as DIR/NAME".to_owned();
        Hinted { message: printable(&message), hint }.into()
    })
}

/// Gives the directory `to` the mode and time of the sandbox's own.
fn be_like(to: &Path, entry: &FileEntry) -> io::Result<()> {
    let directory = File::open(to)?;
    let since = Duration::from_millis(entry.modified_ms.unsigned_abs());
    let modified = if entry.modified_ms < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(since)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(since)
    };
    if let Some(modified) = modified {
        directory.set_modified(modified)?;
    }
    directory.set_permissions(fs::Permissions::from_mode(entry.mode & 0o777))
}

/// Type of the file that a path leads to, symbolic links followed.
fn leads_to(entry: &FileEntry) -> FileType {
    entry.target_type.unwrap_or(entry.file_type)
}
