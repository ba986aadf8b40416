//! The body of every error response, and the codes in it.

use serde::{Deserialize, Serialize};

/// Body of every error response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// Message for people: the error and all its causes. The text may change.
    pub error: String,
    /// Kind of the error, for programs. A code keeps its meaning.
    pub code: ErrorCode,
    /// Advice on how to mend the error. Absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The limit of the caller's key that refuses the request. Absent for other errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Box<KeyLimit>>,
}

/// A limit of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct KeyLimit {
    /// Its name, as in `limits` of `GET /usage`.
    pub name: String,
    /// Its value, in the unit of the name. Absent for a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<u64>,
}

/// Defines the codes, each with the meaning that its documentation and the OpenAPI document show.
macro_rules! error_codes {
    ($($(#[doc = $meaning:literal])+ $code:ident,)+) => {
        /// Kind of an error that a client can act on. The daemon's table of errors says which HTTP
        /// status a code comes with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode {
            $($(#[doc = $meaning])+ $code,)+
            /// A code that this version does not know. The daemon never sends it.
            #[serde(other)]
            Other,
        }

        impl ErrorCode {
            /// Every code that a daemon of this version sends.
            pub const ALL: &[Self] = &[$(Self::$code),+];

            /// Meaning of the code: one sentence.
            pub fn meaning(self) -> &'static str {
                let meaning = match self {
                    $(Self::$code => concat!($($meaning),+),)+
                    Self::Other => "This version does not know the code.",
                };
                meaning.trim_ascii()
            }
        }
    };
}

error_codes! {
    /// The body is not the JSON that the operation takes.
    InvalidJson,
    /// A value breaks a rule or a limit.
    InvalidRequest,
    /// The language pack is not installed.
    UnknownPack,
    /// Neither emberd, nor the operator, nor the image has that profile.
    UnknownProfile,
    /// The operator does not permit what the policy asks for.
    EgressForbidden,
    /// The sandbox, or the daemon, cannot carry connections of programs.
    EgressUnavailable,
    /// A web page sent the request: its `Origin` is neither the daemon's nor allowed.
    ForeignOrigin,
    /// A browser sent the request for a page of another site.
    CrossSite,
    /// The `Host` of the request is not a name of this daemon.
    ForeignHost,
    /// The request has no key that is valid.
    Unauthenticated,
    /// The key, or the user, may not do that.
    Forbidden,
    /// The key, or all of its sandboxes together, may not have more; `Retry-After` says when to try
    /// again, and is absent where waiting does not help.
    QuotaExceeded,
    /// The key may not have that, whenever it asks: a language pack, a timeout or network access.
    KeyForbids,
    /// The daemon cannot read its keys, so that none is valid.
    KeysUnreadable,
    /// The path does not exist.
    UnknownRoute,
    /// The sandbox does not exist.
    UnknownSandbox,
    /// The path does not take this method.
    MethodNotAllowed,
    /// The sandbox's microVM ended by itself, or the sandbox was deleted during the request.
    SandboxGone,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body is larger than its limit.
    BodyTooLarge,
    /// The request bodies under way have used up their shared memory; `Retry-After` says when to
    /// try again.
    TooManyBytes,
    /// The daemon has as many sandboxes as allowed.
    TooManySandboxes,
    /// The sandboxes of the daemon have as much memory as allowed.
    NoCapacity,
    /// The sandbox has as many connections to its ports as allowed.
    TooManyConnections,
    /// The sandbox has as many contexts as allowed.
    TooManyContexts,
    /// As many runs as allowed wait for the context.
    ContextBusy,
    /// The interpreter of the context has ended. A restart gives the context a new one.
    ContextDead,
    /// The guest's kernel denies the operation.
    Denied,
    /// The sandbox does not have that file, process, context, user or language.
    NotFound,
    /// The file or directory exists already.
    AlreadyExists,
    /// The range begins after the end of the file.
    RangeNotSatisfiable,
    /// The sandbox has no space left.
    NoSpace,
    /// The daemon's host has no space left for another sandbox.
    HostFull,
    /// The `Idempotency-Key` was used for another request.
    KeyReused,
    /// The program could not be started in the sandbox.
    NotStarted,
    /// The process, or its standard input, has ended.
    ProcessEnded,
    /// The sandbox has as many processes as allowed, or the caller as many WebSockets.
    TooMany,
    /// The sandbox is still being created.
    SandboxNotReady,
    /// The sandbox is frozen, and requests do not thaw it.
    SandboxFrozen,
    /// The sandbox is frozen, and its VMM does not thaw it; `Retry-After` says when to try again.
    ResumeFailed,
    /// The host does not hold the limit that was asked for.
    LimitUnavailable,
    /// An earlier daemon started the sandbox, and its guest has not answered this one yet;
    /// `Retry-After` says when to try again.
    SandboxUnreachable,
    /// The daemon creates no sandboxes any more, by an operator's wish.
    Draining,
    /// The daemon keeps no templates.
    NoTemplates,
    /// The daemon keeps no audit journal.
    AuditOff,
    /// The audit journal takes no records, and the daemon does nothing that it cannot record.
    AuditFailing,
    /// The daemon or its host has a defect.
    Internal,
    /// The guest broke the protocol or stopped answering.
    GuestFailed,
    /// Nothing in the sandbox listens on the port.
    PortClosed,
    /// The server on the port did not answer with HTTP.
    PortFailed,
    /// The server on the port did not answer in time.
    PortTimeout,
    /// The microVM could not be started, or its guest did not answer.
    BootFailed,
    /// The template could not be built.
    TemplateFailed,
    /// The daemon is shutting down.
    ShuttingDown,
}

impl ErrorCode {
    /// Name of the code, as in JSON.
    ///
    /// # Panics
    /// Never: a code is a string in JSON.
    pub fn name(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => name,
            other => panic!("a code is a string in JSON, not {other:?}"),
        }
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for ErrorCode {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        let codes = Self::ALL.iter();
        let meanings =
            codes.clone().map(|code| format!("\n- `{}`: {}", code.name(), code.meaning()));
        let description = format!(
            "Kind of an error, for programs. A later version may send more codes: a client treats \
             a code that it does not know like its HTTP status.\n{}",
            meanings.collect::<String>()
        );
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .enum_values(Some(codes.map(|code| code.name())))
            .description(Some(description))
            .into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for ErrorCode {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_a_name_and_a_meaning_of_one_sentence() {
        assert_eq!(ErrorCode::TooManyBytes.name(), "too_many_bytes");
        for code in ErrorCode::ALL {
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).unwrap(), *code);
            assert!(code.meaning().ends_with('.') && !code.meaning().contains("  "), "{code:?}");
        }
        assert_eq!(
            serde_json::from_str::<ErrorCode>(r#""of_tomorrow""#).unwrap(),
            ErrorCode::Other
        );
    }
}
