//! Runs the daemon from its configuration to an ordered shutdown.
//!
//! ```text
//! bind ─▶ open run dir ─▶ serve ──signal──▶ drain ──answered, limit, 2nd signal──▶
//!     microVMs removed, or left to the next daemon ─▶ last answers out ─▶ socket gone
//! ```

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, Write as _};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use emberd_api::Address;
use emberd_audit::OpenError as AuditOpenError;
use emberd_config::{Config, OnStop, Problems, SocketOption, Surroundings, Switch, TlsOptions};
use emberd_egress::Egress;
use emberd_image::Images;
use emberd_keys::{KeyFileError, read_key_file};
use emberd_sandbox::{OpenError, Sandboxes, SandboxesConfig};
use emberd_vmm::{AnyVmm, Vmm as _, hold_cgroup};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::access::{Access, Exposed, OverTcp};
use crate::args::{Args, Command, ConfigCommand};
use crate::audit::{self, Audit};
use crate::egress_file::{self, EgressFile, EgressFileError};
use crate::server::listener::{ListenError, Listener};
use crate::server::tls::Tls;
use crate::server::tls::files::{self as tls_files, Seen, TlsError};
use crate::server::{self, Server};
use crate::traces::{Traces, TracesError};
use crate::{config, http, log, notify};

/// Cgroup of the process that holds that of VMMs, below it.
const HOLD: &str = "hold";

/// How long requests under way may go on after the first signal. This is for programs that run;
/// creations end at once.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// How long responses may take to reach their clients once every microVM is removed.
const LAST_ANSWERS_MAX: Duration = Duration::from_secs(1);

/// Why the daemon did not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be listened on.
    #[error("cannot start")]
    Listen(#[from] ListenError),
    /// The run directory cannot be used.
    #[error("cannot use the run directory")]
    Open(#[from] OpenError),
    /// The threads of egress cannot be started.
    #[error("cannot start the threads of egress")]
    Egress(#[source] io::Error),
    /// The operator's egress file cannot be used.
    #[error(transparent)]
    EgressFile(#[from] EgressFileError),
    /// The certificate cannot be used.
    #[error("cannot start with TLS")]
    Tls(#[from] TlsError),
    /// The audit journal cannot be used.
    #[error("cannot start without the audit journal")]
    Audit(#[from] AuditOpenError),
    /// The file of `--key-file` gives no key.
    #[error("cannot use the key of --key-file")]
    KeyFile(#[from] KeyFileError),
    /// Spans cannot be exported.
    #[error("cannot export spans")]
    Traces(#[from] TracesError),
    /// Everybody on a network could use the daemon.
    #[error("cannot start")]
    Exposed(#[from] Exposed),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
}

impl RunError {
    /// A remedy that the user can try.
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Listen(ListenError::InUse(_)) => {
                Some("stop the other program, or choose another address with --addr")
            }
            Self::Tls(TlsError::Read { .. }) => {
                Some("the daemon's user must be able to read the files of --tls-cert and --tls-key")
            }
            Self::Tls(_) => Some("the files are in PEM; the key is that of the first certificate"),
            Self::KeyFile(_) => Some(
                "the file holds a key and nothing else: emb_, 8 of a-z and 0-9, _, and 32 letters \
                 and digits",
            ),
            Self::Audit(AuditOpenError::InUse(_)) => {
                Some("stop the other emberd, or choose another directory with --audit-dir")
            }
            Self::Audit(AuditOpenError::Io { .. }) => Some(
                "mend what is wrong, choose another directory with --audit-dir, or start \
                    with --audit off",
            ),
            Self::Exposed(_) => Some(
                "create a key (emberctl key create NAME), or listen on 127.0.0.1; \
                 --insecure-no-auth serves everybody",
            ),
            Self::Open(OpenError::RunDirInUse { .. }) => {
                Some("stop the other emberd, or choose another directory with --run-dir")
            }
            Self::Open(OpenError::RunDirTooLong { .. }) => {
                Some("choose a shorter path with --run-dir")
            }
            Self::Open(OpenError::RunDirShared { .. }) => {
                Some("choose a directory of this user with --run-dir")
            }
            _ => None,
        }
    }
}

/// The configuration that the command line, the environment and the file ask for; starts the
/// log. Nothing if the command line asks for `emberd config` instead, which is done then. Does not
/// return from `emberd hold`.
///
/// Wrong usage ends the process, as command lines do.
///
/// # Errors
/// [`Problems`]: everything that is wrong with the configuration.
pub fn configure() -> anyhow::Result<Option<Config>> {
    let Args { config: mut file, flags, command } = Args::parse();
    let command = match command {
        Some(Command::Hold) => match hold()? {},
        Some(Command::Config(command)) => Some(command),
        None => None,
    };
    if let Some(ConfigCommand::Check { file: Some(other) }) = &command {
        file = Some(other.clone());
    }
    let config = Config::load(flags.given, file.as_deref(), &Surroundings::of_process())?;
    match command {
        None => {
            log::start(config.log_format);
            return Ok(Some(config));
        }
        Some(ConfigCommand::Print { json }) => config::print(&config, json)?,
        Some(ConfigCommand::Check { .. }) => {
            EgressFile::open(config.egress_policy.as_deref())?;
            config.tls.as_ref().map(tls_files::open).transpose()?;
            config.key_file.as_deref().map(read_key_file).transpose()?;
            let file = config.file.as_ref().map(|file| format!(": {}", file.display()));
            let file = file.unwrap_or_default();
            writeln!(io::stdout(), "the configuration is valid{file}")?;
        }
    }
    Ok(None)
}

/// Holds the cgroup of VMMs, until SIGTERM ends this process.
fn hold() -> anyhow::Result<Infallible> {
    let held = hold_cgroup(HOLD).context("cannot hold a cgroup for VMMs")?;
    writeln!(io::stdout(), "holding {} for VMMs", held.display())?;
    notify::tell(notify::READY);
    loop {
        std::thread::park();
    }
}

/// Prints why the daemon did not run, with every cause, and a hint if there is one.
pub fn report(error: &anyhow::Error, hint: Option<&str>) -> ExitCode {
    let mut text = match error.downcast_ref::<Problems>() {
        Some(problems) => problems.report(),
        None => format!("error: {error:#}\n"),
    };
    if let Some(hint) = hint.or_else(|| error.downcast_ref().and_then(RunError::hint)) {
        text = format!("{text}hint: {hint}\n");
    }
    // This fails if standard error is closed.
    drop(io::stderr().write_all(text.as_bytes()));
    ExitCode::FAILURE
}

/// Runs the daemon until SIGINT or SIGTERM. Prints the address it listens on once it is ready,
/// and leaves no process, directory or socket behind, unless it was told to keep sandboxes.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: Config, images: Images, vmm: AnyVmm) -> Result<(), RunError> {
    server::raise_descriptors();
    let mut signals = Signals::listen().map_err(RunError::Signals)?;
    let traces = Traces::start()?;
    let access = access(&config)?;
    let secured = Certificate::open(config.tls.as_ref())?;
    let (listener, socket) = bind(&config, &access, secured.as_ref()).await?;
    let audit = Audit::open(&config.audit)?;
    audit.record(audit::event("start_daemon", audit::now()));
    let file = EgressFile::open(config.egress_policy.as_deref())?.recording(audit.clone());
    let egress = egress(&config, &file, &audit).map_err(RunError::Egress)?;
    let options = SandboxesConfig { egress, ..config::sandboxes(&config, vmm.description()) };
    let hangups = hangups(config.egress_policy.is_some() || secured.is_some())?;
    // Last: an error would end the sandboxes that are taken over.
    let sandboxes = Sandboxes::open(options, images, vmm)?;
    file.adopt(&sandboxes);
    egress_file::warn_of_unknown(&file.operator(), &sandboxes);
    warn(&config, &access);
    announce(&listener, socket.as_ref(), &sandboxes);
    let limits = http::Limits::recalling(audit.clone(), &sandboxes);
    let first = listener.address().clone();
    let beside = socket.map(|socket| (socket.address().clone(), socket));
    let listeners = [Some((config.addr.clone(), listener)), beside].into_iter().flatten();
    let listeners = listeners.map(|(addr, listener)| {
        let hosts = http::Hosts::new(&addr, &config.allowed_hosts);
        let (limits, file) = (limits.clone(), file.clone());
        let front = front(&config, listener.address(), &first);
        (listener, http::router(sandboxes.clone(), hosts, limits, file, access.clone(), front))
    });
    let server = Server::new(listeners);
    notify::tell(notify::READY);
    let told = tokio::select! {
        told = signals.next() => told,
        never = server.accept() => never,
        never = log::keep_reporting_dropped() => never,
        never = access.keep() => never,
        never = limits.meters().keep_looking(&sandboxes) => never,
        never = read_on_hangup(&file, secured.as_ref(), hangups, &sandboxes) => never,
        never = Certificate::keep_reading(secured.as_ref()) => never,
    };
    tracing::info!("{told}: draining requests");
    notify::tell(notify::STOPPING);
    let keeps = config.on_stop == OnStop::Keep && told == TERMINATE;
    sandboxes.close();
    let mut answered = pin!(server.stop());
    let drained = tokio::select! {
        drained = timeout(DRAIN_MAX, &mut answered) => drained.is_ok(),
        name = signals.next() => {
            tracing::warn!("{name} again: no longer waiting for the requests under way");
            false
        }
    };
    if !drained {
        tracing::warn!("ending the requests that are still under way");
    }
    if keeps {
        sandboxes.detach().await;
    } else {
        sandboxes.shutdown().await;
    }
    if !drained && timeout(LAST_ANSWERS_MAX, answered).await.is_err() {
        tracing::warn!("some clients did not receive their responses");
    }
    file.written().await;
    audit.close().await;
    traces.close().await;
    log::report_dropped();
    tracing::info!("stopped");
    Ok(())
}

/// The front of a listener at `own`, by the configuration.
fn front(config: &Config, own: &Address, first: &Address) -> http::Front {
    let pages = http::Pages::new(&config.allowed_origins);
    http::Front::new(own, first).with_mcp(config.mcp == Switch::On).with_pages(pages)
}

/// Permissions of callers, by the configuration.
fn access(config: &Config) -> Result<Access, KeyFileError> {
    let fixed = config.key_file.as_deref().map(read_key_file).transpose()?;
    let (data_dir, rules) = (config.data_dir.path(), &config.access);
    Ok(Access::with_fixed(fixed, data_dir, rules, config.authentication))
}

/// The egress of all sandboxes, if the configuration has it. What an audit journal records is kept
/// whatever policies list.
fn egress(config: &Config, file: &EgressFile, audit: &Audit) -> io::Result<Option<Arc<Egress>>> {
    if !config.egress {
        return Ok(None);
    }
    let egress = Egress::new(server::egress_connections_max(file.operator().connections()))?;
    let is_recorded = audit.journal().is_some();
    Ok(Some(Arc::new(if is_recorded { egress.keeping_all() } else { egress })))
}

/// A certificate that is replaced when its files are.
struct Certificate {
    tls: Tls,
    options: TlsOptions,
    seen: Seen,
}

impl Certificate {
    fn open(options: Option<&TlsOptions>) -> Result<Option<Self>, TlsError> {
        let Some(options) = options else { return Ok(None) };
        let (tls, seen) = tls_files::open(options)?;
        Ok(Some(Self { tls, options: options.clone(), seen }))
    }

    /// Reads the files again when they change, for as long as it is polled.
    async fn keep_reading(secured: Option<&Self>) -> ! {
        match secured {
            Some(Self { tls, options, seen }) => {
                tls_files::watch(tls.clone(), options.clone(), seen.clone()).await
            }
            None => pending().await,
        }
    }
}

/// Receives SIGHUP where something is read again; elsewhere, it ends the daemon.
fn hangups(reads_again: bool) -> Result<Option<Signal>, RunError> {
    let hangups = reads_again.then(|| signal(SignalKind::hangup()));
    hangups.transpose().map_err(RunError::Signals)
}

/// Reads the operator's egress file and the certificate again at each SIGHUP.
async fn read_on_hangup(
    file: &EgressFile,
    secured: Option<&Certificate>,
    hangups: Option<Signal>,
    sandboxes: &Sandboxes,
) -> ! {
    let mut hangups = hangups;
    loop {
        match &mut hangups {
            Some(hangups) => _ = hangups.recv().await,
            None => pending().await,
        }
        let (file, sandboxes) = (file.clone(), sandboxes.clone());
        let secured = secured.map(|secured| (secured.tls.clone(), secured.options.clone()));
        let read = spawn_blocking(move || {
            file.read_again(&sandboxes);
            if let Some((tls, options)) = secured {
                tls_files::read_again(&tls, &options);
            }
        });
        if let Err(panicked) = read.await {
            std::panic::resume_unwind(panicked.into_panic());
        }
    }
}

/// Listens on the address, and on the Unix socket beside it.
async fn bind(
    config: &Config,
    access: &Access,
    secured: Option<&Certificate>,
) -> Result<(Listener, Option<Listener>), RunError> {
    let mut listener = Listener::bind(&config.addr).await?;
    access.check(listener.address())?;
    if let Some(Certificate { tls, .. }) = secured {
        listener = listener.secured(tls.clone());
    }
    let socket = bind_socket(config.socket.as_ref()).await?;
    if access.admits_users() {
        for listener in [Some(&listener), socket.as_ref()].into_iter().flatten() {
            listener.admit_users()?;
        }
    }
    Ok((listener, socket))
}

/// Listens on the Unix socket beside the TCP address. Failing to is an error only if the user
/// asked for the socket.
async fn bind_socket(socket: Option<&SocketOption>) -> Result<Option<Listener>, ListenError> {
    let Some(SocketOption { path, is_needed }) = socket else { return Ok(None) };
    if *is_needed {
        return Listener::bind(&Address::Unix(path.clone())).await.map(Some);
    }
    match Listener::bind_private(path).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => {
            let (path, error) = (path.display(), &error as &dyn std::error::Error);
            tracing::warn!(error, %path, "cannot listen on the Unix socket; serving the TCP address only");
            Ok(None)
        }
    }
}

fn announce(listener: &Listener, socket: Option<&Listener>, sandboxes: &Sandboxes) {
    let vmm = sandboxes.vmm();
    tracing::info!(
        driver = vmm.driver,
        version = %vmm.version,
        accelerator = vmm.accelerator,
        reason = %vmm.reason,
        kernel = %sandboxes.images().kernel.release,
        boot_path = %sandboxes.boot_path(),
        run_dir = %sandboxes.config().run_dir.display(),
        addr = %listener.address(),
        socket = socket.map(|socket| socket.address().to_string()),
        "ready"
    );
    if let Err(error) = writeln!(io::stdout(), "listening on {}", listener.address()) {
        tracing::debug!(%error, "cannot write to standard output");
    }
}

/// Warns of callers who need no key, and of web pages that have none to send. A key that is made
/// later is in force at once, so that the daemon serves everybody else meanwhile.
fn warn(config: &Config, access: &Access) {
    if access.over_tcp() == OverTcp::Insecure {
        tracing::warn!("--insecure-no-auth: everybody who can connect over TCP may do everything");
    }
    if !config.allowed_origins.is_empty() && access.keys().0 == 0 {
        tracing::warn!(
            "--allowed-origin: there are no access keys, and web pages are served with one only; \
             make one: emberctl key create NAME (callers over TCP need a key from then on)"
        );
    }
}

/// Name of the signal by which service managers end a daemon.
const TERMINATE: &str = "SIGTERM";

/// The signals that end the daemon.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal, and returns its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => TERMINATE,
        }
    }
}
