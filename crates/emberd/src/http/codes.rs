//! From every error enum to its codes: one table per enum gives each variant its code and hint.

use std::collections::BTreeSet;

use emberd_api::ErrorCode;
use emberd_egress::{OverCeiling, PolicyError};
use emberd_proto::RefusalCode;
use emberd_sandbox::{
    BuildTemplateError, ContextError, CpuError, CreateError, DialError, GuestError, OperationError,
    ProcessError, QuotaExceeded, RemoveTemplateError, ResourceError, Unknown,
};
use emberd_vmm::LimitError;

use super::audit::AuditError;
use super::audited::Unrecordable;
use super::body::{BodyError, PiecesError};
use super::budget::Exhausted;
use super::egress::EgressError;
use super::errors::{Defect, Failure, RouteError};
use super::exec::StdinError;
use super::files::encoding::UnknownEncoding;
use super::files::range::RangeError;
use super::files::upload::UploadError;
use super::host::HostError;
use super::id::PathError;
use super::keys::KeyError;
use super::limited::Limited;
use super::limits::TooManyWebSockets;
use super::origin::PageError;
use super::pack::PackError;
use super::proxy::{ExchangeError, TargetError};
use super::query::QueryError;
use super::quota::LimitError as KeyLimitError;
use super::terms::{ChangeError, TermsError};
use super::urls::UrlError;
use crate::access::AccessError;

/// Writes [`Failure`] as a table: `variant => Code`, `variant => Code "hint"`, or
/// `variant => (inner: Type)` for a variant that is judged as its inner error is.
macro_rules! failures {
    ($($error:ident {
        $($variant:pat => $(($inner:ident: $kind:ident))? $($code:ident $($hint:literal)?)?,)+
    })+) => {$(
        impl Failure for $error {
            fn judge(&self) -> (ErrorCode, Option<&'static str>) {
                match self {
                    $($variant => {
                        $($inner.judge())?
                        $({
                            let hint: &[&'static str] = &[$($hint)?];
                            (ErrorCode::$code, hint.first().copied())
                        })?
                    })+
                }
            }

            fn limited(&self) -> Option<Limited> {
                match self {
                    $($variant => None$(.or_else(|| $inner.limited()))?,)+
                }
            }

            fn every_code(codes: &mut BTreeSet<ErrorCode>) {
                $(
                    $($kind::every_code(codes);)?
                    $(codes.insert(ErrorCode::$code);)?
                )+
            }
        }
    )+};
}

failures! {
    PageError {
        Self::ForeignOrigin => ForeignOrigin
            "call the API from a program, or start emberd with --allowed-origin URL: pages of that \
             origin may call it with a key",
        Self::CrossSite => CrossSite "type the address, or call the API from a program",
    }

    HostError {
        Self { .. } => ForeignHost "use `localhost` or the IP address, or start emberd with \
            --allowed-host NAME",
    }

    Defect {
        Self => Internal,
    }

    Unrecordable {
        Self => AuditFailing "free space on the disk of the audit journal; the daemon's log says \
            what is wrong with it",
    }

    AuditError {
        Self::Off => AuditOff "start emberd with --audit on",
        Self::Read(_) => Internal,
    }

    AccessError {
        Self::NoKey => Unauthenticated "send a key as `Authorization: Bearer KEY`, or set \
            EMBERD_API_KEY for emberctl; `emberctl key create` makes one",
        Self::PageWithoutKey => Unauthenticated "send a key as `Authorization: Bearer KEY`; \
            `emberctl key create` makes one",
        Self::Invalid | Self::Ended => Unauthenticated "ask the operator for a key",
        Self::UrlInvalid | Self::UrlExpired => Unauthenticated
            "ask for another: `emberctl url`, or POST /sandboxes/{id}/urls",
        Self::ForeignPage => ForeignOrigin "open the URL of the port itself",
        Self::Expired => Unauthenticated "ask the operator to replace it: emberctl key rotate",
        Self::Unreadable => KeysUnreadable "the log of emberd says why; so does `emberctl key ls`",
        Self::Scope(_) => Forbidden "use a key with the scope, or ask the operator for one",
        Self::User(_) => Forbidden "use a key, or ask the operator for an [[access]] rule",
    }

    RouteError {
        Self::Path => UnknownRoute,
        Self::Method => MethodNotAllowed,
        Self::Connect => MethodNotAllowed
            "use `emberctl forward`, or upgrade GET /sandboxes/{id}/ports/{port}",
    }

    PathError {
        Self::Sandbox(_) => UnknownSandbox,
        Self::Process => NotFound,
        Self::Context(_) => NotFound,
    }

    KeyError {
        Self::Malformed => InvalidRequest,
        Self::Reused => KeyReused "use a new key for another sandbox",
        Self::TooMany => TooMany "wait until some of them have ended",
    }

    PackError {
        Self { .. } => UnknownPack,
    }

    QueryError {
        Self::Percent => InvalidRequest "write a `%` itself as `%25`",
        Self::Invalid(_) => InvalidRequest,
    }

    TargetError {
        Self { .. } => InvalidRequest,
    }

    PiecesError {
        Self::Pause(_) => BodyTimeout,
        Self::Broken(_) => InvalidRequest,
    }

    BodyError {
        Self::Pieces(error) => (error: PiecesError),
        Self::Late => BodyTimeout,
        Self::TooLarge => BodyTooLarge,
        Self::Malformed(_) => InvalidJson,
        Self::Exhausted(error) => (error: Exhausted),
    }

    Exhausted {
        Self => TooManyBytes "send fewer large requests at once",
    }

    StdinError {
        Self::Both | Self::Base64(_) => InvalidRequest,
    }

    TooManyWebSockets {
        Self => TooMany "close a WebSocket, or use server-sent events",
    }

    UploadError {
        Self::Pieces(error) => (error: PiecesError),
        Self::TooLarge => BodyTooLarge,
        Self::Encoding(error) => (error: UnknownEncoding),
        Self::NotGzip(_) => InvalidRequest,
    }

    UnknownEncoding {
        Self => InvalidRequest "send the body uncompressed, or with `Content-Encoding: gzip`",
    }

    RangeError {
        Self(_) => RangeNotSatisfiable,
    }

    CreateError {
        Self::UnknownPack(_) => UnknownPack,
        Self::Env(_) => InvalidRequest,
        Self::Resources(error) => (error: ResourceError),
        Self::TooMany(_) => TooManySandboxes
            "delete a sandbox, or start emberd with a larger --max-sandboxes",
        Self::Quota(error) => (error: QuotaExceeded),
        Self::Cpu(error) => (error: CpuError),
        Self::Limits(_) => LimitUnavailable
            "leave the limit out, or build the images of this release: emberctl image build",
        Self::NoMemory { .. } => NoCapacity "delete a sandbox, ask for less `memory_mib`, or start \
            emberd with a larger --memory-mib",
        Self::Draining => Draining "another daemon, or this one after its restart, creates sandboxes",
        Self::ShuttingDown => ShuttingDown,
        Self::Deleted(_) => SandboxGone,
        Self::NoSpace { .. } => HostFull "make room on the file systems of --run-dir and --disk-dir; \
            the sandboxes that exist go on",
        Self::Record { .. } => Internal,
        Self::Disk { .. } | Self::Lost { .. } => BootFailed,
        Self::Boot { .. } | Self::Died { .. } | Self::NotReady { .. } | Self::Guest { .. } =>
            BootFailed,
    }

    CpuError {
        Self::Bounds(error) => (error: ResourceError),
        Self::Host(error) => (error: LimitError),
    }

    LimitError {
        Self::Unavailable(_) => LimitUnavailable
            "leave out cpu_percent and cpu_weight, or see `emberctl info` for what is limited",
        Self::Refused { .. } => Internal,
    }

    Unknown {
        Self { .. } => UnknownSandbox,
    }

    RefusalCode {
        Self::NotFound => NotFound,
        Self::AlreadyExists => AlreadyExists,
        Self::WrongType | Self::Invalid => InvalidRequest,
        Self::Denied => Denied,
        Self::NoSpace => NoSpace
            "delete files in the sandbox, or start emberd with a larger --guest-ram-mib",
        Self::Generation | Self::UnknownOperation | Self::Failed | Self::Other => GuestFailed,
    }

    OperationError {
        Self::NotReady(_) => SandboxNotReady,
        Self::Frozen(_) => SandboxFrozen "thaw it with POST /sandboxes/{id}/touch, or set \
            `auto_resume` with PATCH /sandboxes/{id}",
        Self::Resume { .. } => ResumeFailed,
        Self::Unreachable(_) => SandboxUnreachable "wait, read the console log, or delete the sandbox",
        Self::Guest(error) => (error: GuestError),
    }

    GuestError {
        Self::Invalid(_) | Self::StdinTooLarge(_) => InvalidRequest,
        Self::Deleted { .. } => SandboxGone,
        Self::Gone { .. } => SandboxGone "delete the sandbox and create another",
        Self::Refused(emberd_proto::Refusal { code, .. }) => (code: RefusalCode),
        Self::Unresponsive { .. } | Self::Failed { .. } => GuestFailed,
    }

    ProcessError {
        Self::Guest(error) => (error: GuestError),
        Self::Unknown { .. } => NotFound "list the processes: GET /sandboxes/{id}/processes",
        Self::TooMany(_) => TooMany "delete a process, or wait until one ends",
        Self::NotStarted(_) => NotStarted
            "name a program and a directory that exist in the sandbox",
        Self::Ended(_) => ProcessEnded "read how it ended in its last event, or start another process",
        Self::StdinEnded(_) => ProcessEnded "start another process",
        Self::NoTerminal(_) => InvalidRequest "start the process with `tty`",
        Self::Invalid(_) => InvalidRequest,
    }

    ContextError {
        Self::Guest(error) => (error: GuestError),
        Self::Unknown { .. } => NotFound "list the contexts: GET /sandboxes/{id}/contexts",
        Self::TooMany(_) => TooManyContexts "delete a context",
        Self::Busy(_) => ContextBusy "wait until a run ends, or interrupt one",
        Self::Dead { .. } => ContextDead "restart the context",
        Self::Start(_) => GuestFailed
            "check with exec that the sandbox has the interpreter",
    }

    DialError {
        Self::Guest(error) => (error: GuestError),
        Self::NotListening { .. } => PortClosed
            "start a server in the sandbox that listens on that port, on 127.0.0.1 or 0.0.0.0",
        Self::TooMany(_) => TooManyConnections
            "close connections, or use more sandboxes",
    }

    ExchangeError {
        Self::NotHttp(_) | Self::NotAsked => PortFailed,
        Self::Late(_) => PortTimeout,
        Self::ShuttingDown => ShuttingDown,
    }

    EgressError {
        Self::Key(error) => (error: KeyLimitError),
        Self::Policy(error) => (error: PolicyError),
        Self::Off => EgressUnavailable "start emberd with --egress on",
        Self::Guest { .. } => EgressUnavailable
            "run `emberctl doctor` and `emberctl image check` on the daemon's host",
        Self::Port => InvalidRequest,
    }

    UrlError {
        Self::Port | Self::Expires { .. } | Self::Base => InvalidRequest,
        Self::NoHost => InvalidRequest "name it: `emberctl url --base`, or `base` in the body",
        Self::Record(_) => Internal "make room on the file system of --run-dir",
    }

    TermsError {
        Self::Timeout { .. } | Self::Freeze { .. } | Self::Metadata { .. } | Self::NoName =>
            InvalidRequest,
        Self::OnTimeout => InvalidRequest "use `delete`",
        Self::Pause => InvalidRequest "use `idle.freeze_ms`",
    }

    ChangeError {
        Self::Key(error) => (error: KeyLimitError),
        Self::Terms(error) => (error: TermsError),
        Self::Cpu(error) => (error: CpuError),
    }

    PolicyError {
        Self::OverCeiling(error) => (error: OverCeiling),
        Self::UnknownProfile { .. } => UnknownProfile
            "list the profiles: `emberctl egress profiles`",
        Self::Forbidden { .. } => EgressForbidden
            "ask the operator to permit it in the file of --egress-policy",
        Self::TooMany { .. }
        | Self::Entry { .. }
        | Self::Limit { .. }
        | Self::IsProfile { .. } => InvalidRequest,
    }

    BuildTemplateError {
        Self::UnknownPack(_) => UnknownPack,
        Self::NoTemplates(_) => NoTemplates,
        Self::ShuttingDown => ShuttingDown,
        Self::Removed(_) | Self::Failed { .. } => TemplateFailed,
        Self::TooManyPinned => TooMany "delete the template of a size that is not needed any more",
        Self::Resources(error) => (error: ResourceError),
    }

    RemoveTemplateError {
        Self::UnknownPack(_) => UnknownPack,
        Self::NoTemplates(_) => NoTemplates,
        Self::Resources(error) => (error: ResourceError),
        Self::Leftover { .. } => Internal,
    }

    ResourceError {
        Self::Bounds { .. } | Self::NoDisk | Self::Odd(_) => InvalidRequest,
    }
}
