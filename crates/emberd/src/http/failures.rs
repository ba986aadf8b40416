//! From every error enum to its codes, and from there to the OpenAPI document.
//!
//! One table per enum gives each variant its code and hint. The same rows are the responses that
//! the document shows for an operation that can end with the enum.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;

use axum::http::header::RETRY_AFTER;
use emberd_api::ErrorCode;
use emberd_proto::RefusalCode;
use emberd_sandbox::{
    BuildTemplateError, ContextError, CreateError, DialError, GuestError, OperationError,
    ProcessError, RemoveTemplateError, Unknown,
};
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::{ContentBuilder, HeaderBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, PartialSchema as _};

use super::body::{BodyError, PiecesError};
use super::errors::{Defect, RouteError, status};
use super::exec::StdinError;
use super::files::range::RangeError;
use super::files::upload::UploadError;
use super::host::HostError;
use super::id::PathError;
use super::limits::TooManyWebSockets;
use super::origin::PageError;
use super::pack::PackError;
use super::proxy::{ExchangeError, TargetError};
use super::query::QueryError;

/// An error that an operation can end with.
pub trait Failure {
    /// The code of this error, and advice on how to mend it.
    fn judge(&self) -> (ErrorCode, Option<&'static str>);

    /// Adds every code that an error of this type can have.
    fn every_code(codes: &mut BTreeSet<ErrorCode>);
}

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
            "call the API from a program; a request with an `Origin` header is refused",
        Self::CrossSite => CrossSite "type the address, or call the API from a program",
    }

    HostError {
        Self { .. } => ForeignHost "use `localhost` or the IP address, or start emberd with \
            --allowed-host NAME",
    }

    Defect {
        Self => Internal,
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
        Self::Exhausted => TooManyBytes "send fewer large requests at once",
    }

    StdinError {
        Self::Both | Self::Base64(_) => InvalidRequest,
    }

    TooManyWebSockets {
        Self => TooMany "close one, or use server-sent events",
    }

    UploadError {
        Self::Pieces(error) => (error: PiecesError),
        Self::TooLarge => BodyTooLarge,
        Self::Encoding => InvalidRequest
            "send the body uncompressed, or with `Content-Encoding: gzip`",
        Self::NotGzip(_) => InvalidRequest,
    }

    RangeError {
        Self(_) => RangeNotSatisfiable,
    }

    CreateError {
        Self::UnknownPack(_) => UnknownPack,
        Self::TooMany(_) => TooManySandboxes
            "delete a sandbox, or start emberd with a larger --max-sandboxes",
        Self::ShuttingDown => ShuttingDown,
        Self::Deleted(_) => SandboxGone,
        Self::Record { .. } => Internal,
        Self::Boot { .. } | Self::Died { .. } | Self::NotReady { .. } | Self::Guest { .. } =>
            BootFailed,
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
        Self::Ended(_) => ProcessEnded "its last event says how it ended; start another process",
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
            "try to run the interpreter by exec: the sandbox may not have it",
    }

    DialError {
        Self::Guest(error) => (error: GuestError),
        Self::NotListening { .. } => PortClosed
            "start a server in the sandbox that listens on that port, on 127.0.0.1 or 0.0.0.0",
        Self::TooMany(_) => TooManyConnections
            "close some of them, or spread the load over more sandboxes",
    }

    ExchangeError {
        Self::NotHttp(_) | Self::NotAsked => PortFailed,
        Self::Late(_) => PortTimeout,
        Self::ShuttingDown => ShuttingDown,
    }

    BuildTemplateError {
        Self::UnknownPack(_) => UnknownPack,
        Self::NoTemplates(_) => NoTemplates,
        Self::ShuttingDown => ShuttingDown,
        Self::Removed(_) | Self::Failed { .. } => TemplateFailed,
    }

    RemoveTemplateError {
        Self::UnknownPack(_) => UnknownPack,
        Self::NoTemplates(_) => NoTemplates,
        Self::Leftover { .. } => Internal,
    }
}

/// The error responses of an operation that can end with any of `E`, a tuple of error enums, and
/// with the errors of every request.
pub struct Failures<E>(PhantomData<E>);

/// Error enums of one operation.
pub trait Codes {
    /// Adds every code of every enum.
    fn every_code(codes: &mut BTreeSet<ErrorCode>);
}

macro_rules! codes_of_tuples {
    ($(($($error:ident),*))+) => {$(
        impl<$($error: Failure),*> Codes for ($($error,)*) {
            fn every_code(codes: &mut BTreeSet<ErrorCode>) {
                $($error::every_code(codes);)*
                // Those of every request.
                PageError::every_code(codes);
                HostError::every_code(codes);
                Defect::every_code(codes);
            }
        }
    )+};
}

codes_of_tuples! { () (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E)
    (A, B, C, D, E, F)
}

impl<E: Codes> IntoResponses for Failures<E> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut codes = BTreeSet::new();
        E::every_code(&mut codes);
        let mut by_status = BTreeMap::<u16, Vec<ErrorCode>>::new();
        for code in codes {
            by_status.entry(status(code).as_u16()).or_default().push(code);
        }
        let response = |(status, codes): (u16, Vec<ErrorCode>)| {
            (status.to_string(), RefOr::T(error_response(&codes)))
        };
        by_status.into_iter().map(response).collect()
    }
}

/// The response that all `codes` come with.
fn error_response(codes: &[ErrorCode]) -> Response {
    let lines = codes.iter().map(|code| format!("`{}`: {}", code.name(), code.meaning()));
    let names = codes.iter().map(|code| code.name()).collect::<Vec<_>>();
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
    let mut response = ResponseBuilder::new()
        .description(lines.collect::<Vec<_>>().join("\n\n"))
        .content("application/json", body)
        .extensions(Some(Extensions::builder().add("x-error-codes", names).build()));
    if codes.contains(&ErrorCode::TooManyBytes) {
        let retry_after = HeaderBuilder::new()
            .schema(Some(u64::schema()))
            .description(Some("Seconds after which to try again, with `too_many_bytes`."));
        response = response.header(RETRY_AFTER.as_str(), retry_after.build());
    }
    response.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_errors_are_judged_and_listed_by_their_own_table() {
        let refused = GuestError::Refused(emberd_proto::Refusal {
            code: RefusalCode::NoSpace,
            message: String::new(),
        });
        let (code, hint) = ProcessError::Guest(refused).judge();
        assert_eq!(code, ErrorCode::NoSpace);
        assert!(hint.unwrap().contains("--guest-ram-mib"));
        let mut codes = BTreeSet::new();
        ProcessError::every_code(&mut codes);
        assert!(codes.contains(&code) && codes.contains(&ErrorCode::ProcessEnded));
        assert!(!codes.contains(&ErrorCode::TooManyContexts));
    }

    #[test]
    fn codes_of_one_status_share_a_response() {
        let responses = Failures::<(PathError,)>::responses();
        let statuses: Vec<_> = responses.keys().map(String::as_str).collect();
        assert_eq!(statuses, ["403", "404", "421", "500"]);
        let RefOr::T(missing) = &responses["404"] else { panic!("a response") };
        assert!(missing.description.contains("`unknown_sandbox`: The sandbox does not exist."));
        assert!(missing.description.contains("`not_found`"));
    }

    #[test]
    fn every_code_has_a_status_of_an_error() {
        for code in ErrorCode::ALL {
            assert!(status(*code).as_u16() >= 400, "{code:?}");
        }
        let body = <emberd_api::ErrorBody as utoipa::ToSchema>::name();
        assert_eq!(body, "ErrorBody", "the name that responses refer to");
    }
}
