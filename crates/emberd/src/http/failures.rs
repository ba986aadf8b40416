//! The error responses of operations in the OpenAPI document, from the codes of their error enums.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;

use axum::http::header::RETRY_AFTER;
use emberd_api::ErrorCode;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::{ContentBuilder, HeaderBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, PartialSchema as _};

use super::audited::Unrecordable;
use super::errors::{Defect, Failure, status};
use super::host::HostError;
use super::origin::PageError;
use crate::access::AccessError;

/// The error responses of an operation that can end with any of `E`, a tuple of error enums, and
/// with the errors of every request.
pub struct Failures<E>(PhantomData<E>);

/// The error responses of an operation that everybody may use, and that nothing is recorded of.
pub struct PublicFailures<E>(PhantomData<E>);

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
            }
        }
    )+};
}

impl Codes for () {
    fn every_code(_: &mut BTreeSet<ErrorCode>) {}
}

codes_of_tuples! { (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E)
    (A, B, C, D, E, F)
}

/// Errors of every request.
type OfEvery = (PageError, HostError, Defect);

/// Errors of every request that needs a caller.
type OfCallers = (AccessError, Unrecordable);

impl<E: Codes> IntoResponses for Failures<E> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut codes = BTreeSet::new();
        E::every_code(&mut codes);
        OfEvery::every_code(&mut codes);
        OfCallers::every_code(&mut codes);
        // A key may have as many requests under way as it is allowed.
        codes.insert(ErrorCode::QuotaExceeded);
        responses(codes)
    }
}

impl<E: Codes> IntoResponses for PublicFailures<E> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut codes = BTreeSet::new();
        E::every_code(&mut codes);
        OfEvery::every_code(&mut codes);
        responses(codes)
    }
}

fn responses(codes: BTreeSet<ErrorCode>) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status = BTreeMap::<u16, Vec<ErrorCode>>::new();
    for code in codes {
        by_status.entry(status(code).as_u16()).or_default().push(code);
    }
    let response = |(status, codes): (u16, Vec<ErrorCode>)| {
        (status.to_string(), RefOr::T(error_response(&codes)))
    };
    by_status.into_iter().map(response).collect()
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
    if codes.contains(&ErrorCode::QuotaExceeded) {
        let retry_after = HeaderBuilder::new().schema(Some(u64::schema())).description(Some(
            "Seconds until the next attempt, with `too_many_bytes` and
                `quota_exceeded`.",
        ));
        response = response.header(RETRY_AFTER.as_str(), retry_after.build());
    }
    response.build()
}

#[cfg(test)]
mod tests {
    use emberd_proto::RefusalCode;
    use emberd_sandbox::{GuestError, ProcessError};

    use super::super::id::PathError;
    use super::super::operations::operations;
    use super::super::scope::Needs;
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
        assert_eq!(statuses, ["401", "403", "404", "421", "429", "500", "503"]);
        let RefOr::T(missing) = &responses["404"] else { panic!("a response") };
        assert!(missing.description.contains("`unknown_sandbox`: The sandbox does not exist."));
        assert!(missing.description.contains("`not_found`"));
    }

    #[test]
    fn a_public_route_asks_for_no_caller() {
        let responses = PublicFailures::<()>::responses();
        let statuses: Vec<_> = responses.keys().map(String::as_str).collect();
        assert_eq!(statuses, ["403", "421", "500"]);
        let mut document = super::super::document();
        for (path, method, operation) in operations(&mut document) {
            let asks = operation.responses.responses.contains_key("401");
            assert_eq!(asks, Needs::of(&method, path) != Needs::Nothing, "{method} {path}");
        }
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
