//! From every error of the API to its status: the only place that knows status codes.

use std::error::Error;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use emberd_api::{ErrorBody, ErrorCode};
use emberd_sandbox::{
    BuildTemplateError, CreateError, DeleteError, ExecError, RemoveTemplateError,
};

/// An answer that is not a success.
#[derive(Debug)]
pub struct ApiError(ErrorBody);

/// What an error answer was about; travels with the response into the log.
#[derive(Debug, Clone)]
pub struct Reported(pub String);

impl ApiError {
    pub fn new(code: ErrorCode, error: impl Into<String>) -> Self {
        Self(ErrorBody { error: error.into(), code, hint: None })
    }

    /// The same error with what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    fn of(code: ErrorCode, error: &dyn Error) -> Self {
        Self::new(code, chain(error))
    }
}

/// The table from kind of error to status.
fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidJson | ErrorCode::InvalidRequest | ErrorCode::UnknownPack => {
            StatusCode::BAD_REQUEST
        }
        ErrorCode::ForeignOrigin => StatusCode::FORBIDDEN,
        ErrorCode::UnknownRoute | ErrorCode::UnknownSandbox => StatusCode::NOT_FOUND,
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        ErrorCode::SandboxNotReady | ErrorCode::NoTemplates => StatusCode::CONFLICT,
        ErrorCode::SandboxGone => StatusCode::GONE,
        ErrorCode::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::TooManySandboxes => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Internal | ErrorCode::Other => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::GuestFailed => StatusCode::BAD_GATEWAY,
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

impl From<ExecError> for ApiError {
    fn from(error: ExecError) -> Self {
        let code = match &error {
            ExecError::Unknown(_) => ErrorCode::UnknownSandbox,
            ExecError::Invalid(_) | ExecError::StdinTooLarge(_) => ErrorCode::InvalidRequest,
            ExecError::NotReady(_) => ErrorCode::SandboxNotReady,
            ExecError::Deleted(_) | ExecError::Gone { .. } => ErrorCode::SandboxGone,
            ExecError::Unresponsive { .. } | ExecError::Guest { .. } => ErrorCode::GuestFailed,
        };
        let answer = Self::of(code, &error);
        match error {
            ExecError::Gone { .. } => answer.hint("delete the sandbox and create another"),
            _ => answer,
        }
    }
}

impl From<DeleteError> for ApiError {
    fn from(error: DeleteError) -> Self {
        let code = match &error {
            DeleteError::Unknown(_) => ErrorCode::UnknownSandbox,
        };
        Self::of(code, &error)
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
        let mut response = (status(self.0.code), Json(self.0)).into_response();
        response.extensions_mut().insert(reported);
        response
    }
}

/// `error` and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
