//! From every error of the API to its status: the only place that knows status codes.

use std::borrow::Cow;
use std::error::Error;

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use emberd_api::{ErrorBody, ErrorCode};
use emberd_proto::RefusalCode;
use emberd_sandbox::{
    BuildTemplateError, ContextError, CreateError, DialError, GuestError, OperationError,
    ProcessError, RemoveTemplateError, Unknown,
};

use super::proxy::ExchangeError;
use crate::log::{Chain, excerpt};

/// Longest text of an error, in bytes (16 KiB): a guest has its say in some, and may say a lot.
const ERROR_BYTES_MAX: usize = 16 << 10;

/// When it is worth trying again where a limit of all callers together is reached, in seconds.
const RETRY_SECONDS: u64 = 1;

/// An answer that is not a success.
#[derive(Debug)]
pub struct ApiError(ErrorBody);

/// What an error answer was about; travels with the response into the log.
#[derive(Debug, Clone)]
pub struct Reported(pub String);

impl ApiError {
    pub fn new(code: ErrorCode, error: impl Into<String>) -> Self {
        let mut error = error.into();
        if let Cow::Owned(shorter) = excerpt(&error, ERROR_BYTES_MAX) {
            error = shorter;
        }
        Self(ErrorBody { error, code, hint: None })
    }

    /// The same error with what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// What a caller is told, for an answer that has begun already.
    pub fn into_body(self) -> ErrorBody {
        self.0
    }

    fn of(code: ErrorCode, error: &dyn Error) -> Self {
        Self::new(code, Chain(error).to_string())
    }
}

/// The table from kind of error to status.
fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidJson | ErrorCode::InvalidRequest | ErrorCode::UnknownPack => {
            StatusCode::BAD_REQUEST
        }
        ErrorCode::ForeignHost => StatusCode::MISDIRECTED_REQUEST,
        ErrorCode::ForeignOrigin | ErrorCode::CrossSite | ErrorCode::Denied => {
            StatusCode::FORBIDDEN
        }
        ErrorCode::UnknownRoute | ErrorCode::UnknownSandbox | ErrorCode::NotFound => {
            StatusCode::NOT_FOUND
        }
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        ErrorCode::SandboxNotReady
        | ErrorCode::NoTemplates
        | ErrorCode::AlreadyExists
        | ErrorCode::ProcessEnded
        | ErrorCode::ContextDead => StatusCode::CONFLICT,
        ErrorCode::NotStarted => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        ErrorCode::SandboxGone => StatusCode::GONE,
        ErrorCode::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
        ErrorCode::TooManyBytes
        | ErrorCode::TooManySandboxes
        | ErrorCode::TooManyConnections
        | ErrorCode::TooManyContexts
        | ErrorCode::ContextBusy
        | ErrorCode::TooMany => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Internal | ErrorCode::Other => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::GuestFailed | ErrorCode::PortClosed | ErrorCode::PortFailed => {
            StatusCode::BAD_GATEWAY
        }
        ErrorCode::PortTimeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::BootFailed | ErrorCode::TemplateFailed | ErrorCode::ShuttingDown => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        let code = match &error {
            CreateError::UnknownPack(_) => ErrorCode::UnknownPack,
            CreateError::TooMany(_) => ErrorCode::TooManySandboxes,
            CreateError::ShuttingDown => ErrorCode::ShuttingDown,
            CreateError::Deleted(_) => ErrorCode::SandboxGone,
            CreateError::Record { .. } => ErrorCode::Internal,
            CreateError::Boot { .. }
            | CreateError::Died { .. }
            | CreateError::NotReady { .. }
            | CreateError::Guest { .. } => ErrorCode::BootFailed,
        };
        let answer = Self::of(code, &error);
        match error {
            CreateError::TooMany(_) => {
                answer.hint("delete a sandbox, or start emberd with a larger --max-sandboxes")
            }
            _ => answer,
        }
    }
}

impl From<Unknown> for ApiError {
    fn from(error: Unknown) -> Self {
        Self::of(ErrorCode::UnknownSandbox, &error)
    }
}

impl From<OperationError> for ApiError {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::NotReady(_) => Self::of(ErrorCode::SandboxNotReady, &error),
            OperationError::Guest(error) => error.into(),
        }
    }
}

impl From<GuestError> for ApiError {
    fn from(error: GuestError) -> Self {
        let code = match &error {
            GuestError::Invalid(_) | GuestError::StdinTooLarge(_) => ErrorCode::InvalidRequest,
            GuestError::Deleted { .. } | GuestError::Gone { .. } => ErrorCode::SandboxGone,
            GuestError::Refused(refusal) => refused(refusal.code),
            GuestError::Unresponsive { .. } | GuestError::Failed { .. } => ErrorCode::GuestFailed,
        };
        let answer = Self::of(code, &error);
        match error {
            GuestError::Gone { .. } => answer.hint("delete the sandbox and create another"),
            GuestError::Refused(refusal) if refusal.code == RefusalCode::NoSpace => answer
                .hint("remove files in the sandbox, or start emberd with a larger --guest-ram-mib"),
            _ => answer,
        }
    }
}

impl From<ProcessError> for ApiError {
    fn from(error: ProcessError) -> Self {
        let (code, hint) = match error {
            ProcessError::Guest(error) => return error.into(),
            ProcessError::Unknown { .. } => {
                (ErrorCode::NotFound, "GET /sandboxes/{id}/processes lists those there are")
            }
            ProcessError::TooMany(_) => (ErrorCode::TooMany, "delete one, or wait for one to end"),
            ProcessError::NotStarted(_) => {
                (ErrorCode::NotStarted, "name a program the sandbox has, and a directory")
            }
            ProcessError::Ended(_) => {
                (ErrorCode::ProcessEnded, "its last event says how; start another")
            }
            ProcessError::StdinEnded(_) => (ErrorCode::ProcessEnded, "start another process"),
            ProcessError::NoTerminal(_) => {
                (ErrorCode::InvalidRequest, "start it with `tty` to give it one")
            }
            ProcessError::Invalid(_) => return Self::of(ErrorCode::InvalidRequest, &error),
        };
        Self::of(code, &error).hint(hint)
    }
}

/// What a guest would not do, or could not.
fn refused(code: RefusalCode) -> ErrorCode {
    match code {
        RefusalCode::NotFound => ErrorCode::NotFound,
        RefusalCode::AlreadyExists => ErrorCode::AlreadyExists,
        RefusalCode::WrongType | RefusalCode::Invalid => ErrorCode::InvalidRequest,
        RefusalCode::Denied => ErrorCode::Denied,
        RefusalCode::NoSpace => ErrorCode::NoSpace,
        RefusalCode::Generation
        | RefusalCode::UnknownOperation
        | RefusalCode::Failed
        | RefusalCode::Other => ErrorCode::GuestFailed,
    }
}

impl From<DialError> for ApiError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Guest(error) => error.into(),
            DialError::NotListening { .. } => Self::of(ErrorCode::PortClosed, &error).hint(
                "start a server in the sandbox that listens on that port, on 127.0.0.1 or 0.0.0.0",
            ),
            DialError::TooMany(_) => Self::of(ErrorCode::TooManyConnections, &error)
                .hint("close some of them, or spread the load over more sandboxes"),
        }
    }
}

impl From<ExchangeError> for ApiError {
    fn from(error: ExchangeError) -> Self {
        let code = match &error {
            ExchangeError::NotHttp(_) | ExchangeError::NotAsked => ErrorCode::PortFailed,
            ExchangeError::Late(_) => ErrorCode::PortTimeout,
            ExchangeError::ShuttingDown => ErrorCode::ShuttingDown,
        };
        Self::of(code, &error)
    }
}

impl From<ContextError> for ApiError {
    fn from(error: ContextError) -> Self {
        let (code, hint) = match error {
            ContextError::Guest(error) => return error.into(),
            ContextError::Unknown { .. } => (ErrorCode::NotFound, "list the sandbox's contexts"),
            ContextError::TooMany(_) => (ErrorCode::TooManyContexts, "delete a context"),
            ContextError::Busy(_) => (ErrorCode::ContextBusy, "wait for a run, or interrupt it"),
            ContextError::Dead { .. } => (ErrorCode::ContextDead, "restart the context"),
            ContextError::Start(_) => {
                (ErrorCode::GuestFailed, "try the interpreter by exec: the sandbox may lack it")
            }
        };
        Self::of(code, &error).hint(hint)
    }
}

impl From<BuildTemplateError> for ApiError {
    fn from(error: BuildTemplateError) -> Self {
        let code = match &error {
            BuildTemplateError::UnknownPack(_) => ErrorCode::UnknownPack,
            BuildTemplateError::NoTemplates(_) => ErrorCode::NoTemplates,
            BuildTemplateError::ShuttingDown => ErrorCode::ShuttingDown,
            BuildTemplateError::Removed(_) | BuildTemplateError::Failed { .. } => {
                ErrorCode::TemplateFailed
            }
        };
        Self::of(code, &error)
    }
}

impl From<RemoveTemplateError> for ApiError {
    fn from(error: RemoveTemplateError) -> Self {
        let code = match &error {
            RemoveTemplateError::UnknownPack(_) => ErrorCode::UnknownPack,
            RemoveTemplateError::NoTemplates(_) => ErrorCode::NoTemplates,
            RemoveTemplateError::Leftover { .. } => ErrorCode::Internal,
        };
        Self::of(code, &error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let reported = Reported(self.0.error.clone());
        let code = self.0.code;
        let mut response = (status(code), Json(self.0)).into_response();
        if code == ErrorCode::TooManyBytes {
            response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS.into());
        }
        response.extensions_mut().insert(reported);
        response
    }
}
