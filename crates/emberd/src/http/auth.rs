//! Lets requests pass whose callers may make them.
//!
//! ```text
//! request ─▶ public route? ─▶ who? ─▶ may? ─▶ is the sandbox theirs? ─▶ route
//!                              401   429  403            404
//! ```
//! For a web page of another origin, only a key says who: its browser runs on a machine, and as a
//! user, that the page must not act for.
//!
//! A key that ends while its request is under way ends the request: streams, WebSockets and
//! tunnels too. So does the signed URL of a port, which takes the place of a key there.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use emberd_api::{API_KEY_HEADER, paths};
use emberd_sandbox::Sandboxes;
use utoipa::openapi::OpenApi;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};

use super::audited::Identified;
use super::credential::key;
use super::ending;
use super::errors::ApiError;
use super::operations::operations;
use super::origin::AllowedPage;
use super::proxy::is_for_port;
use super::quota;
use super::scope::{Needs, PROXIED};
use super::signed::{self, Admission, Visit};
use super::urls::Front;
use crate::access::{Access, AccessError, Grant};
use crate::server::caller::Caller;
use crate::server::principal::Principal;

/// Names of the two ways to send a key, in the OpenAPI document.
const BEARER_SCHEME: &str = "key";
const HEADER_SCHEME: &str = "key_header";

/// Everything that decides which requests pass.
#[derive(Clone)]
pub struct Gate {
    /// The keys and the rules.
    pub access: Access,
    /// The sandboxes, for their ports.
    pub sandboxes: Sandboxes,
    /// The listener.
    pub front: Front,
}

/// Refuses requests whose callers may not make them. The others have their principal
/// among their extensions, and a [`Grant`] unless the URL of a port is all that they need.
pub async fn authorize(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let is_for_port = is_for_port(&request);
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let needs = match path {
        _ if is_for_port => Needs::Scope(PROXIED),
        Some(path) => Needs::of(request.method(), path),
        None => Needs::Caller,
    };
    let page = request.extensions().get::<AllowedPage>().copied();
    if needs == Needs::Nothing || page == Some(AllowedPage::Preflight) {
        if page == Some(AllowedPage::Request) {
            introduce(&gate.access, &mut request).await;
        }
        return next.run(request).await;
    }
    let caller = request.extensions().get::<Caller>().cloned();
    let peer = caller.as_ref().map(|caller| &caller.peer);
    let key = match key(request.headers(), is_for_port) {
        Ok(key) => key,
        Err(error) => return ApiError::from(error).into_response(),
    };
    let visit = if is_for_port && key.is_none() {
        signed::judge(&request, &gate.access, &gate.sandboxes, gate.front.is_tls())
    } else {
        Ok(Visit::Unsigned(None))
    };
    let problem = match visit {
        Ok(Visit::Unsigned(problem)) => problem,
        Ok(Visit::Exchanged(response)) => {
            note(&request, Principal::Url);
            return *response;
        }
        Ok(Visit::Admitted(admission)) => {
            return visited(&admission, caller.as_ref(), request, next).await;
        }
        Err(error) => return ApiError::from(error).into_response(),
    };
    let judged = match page {
        Some(_) => gate.access.judge_page(key).await,
        None => gate.access.judge(peer, key).await,
    };
    let grant = match judged {
        Ok(grant) => grant,
        Err(error) => return ApiError::from(problem.unwrap_or(error)).into_response(),
    };
    let principal = grant.principal;
    note(&request, principal);
    // Who is at its limits may see them. What an agent asks for counts by itself.
    let counts = ![Some(paths::USAGE), Some(paths::MCP)].contains(&path);
    let under_way = match quota::begin(&grant, counts) {
        Ok(under_way) => under_way,
        Err(error) => return ApiError::from(error).into_response(),
    };
    request.extensions_mut().insert(principal);
    request.extensions_mut().insert(grant.clone());
    let response = pass(&grant, needs, caller.as_ref(), request, next).await;
    quota::until_sent(under_way, caller.as_ref(), response)
}

/// Notes the key of a page that asks for a public route, which has nothing else to refuse.
async fn introduce(access: &Access, request: &mut Request) {
    if let Ok(key) = key(request.headers(), false)
        && let Ok(grant) = access.judge_page(key).await
    {
        note(request, grant.principal);
        request.extensions_mut().insert(grant.principal);
    }
}

/// Passes a request to a port on whose URL is signed, for as long as that is valid.
async fn visited(
    admission: &Admission,
    caller: Option<&Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    note(&request, Principal::Url);
    request.extensions_mut().insert(Principal::Url);
    tokio::select! {
        biased;
        response = next.run(request) => ending::at_once(admission.ended(), caller, response),
        () = admission.ended() => ApiError::from(AccessError::UrlExpired).into_response(),
    }
}

/// Tells the recorder who makes the request.
fn note(request: &Request, principal: Principal) {
    if let Some(identified) = request.extensions().get::<Identified>() {
        identified.as_caller(principal);
    }
}

/// Says how a caller sends its key, and which scope each operation needs.
pub fn describe(document: &mut OpenApi) {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An access key, `emb_...` or `e2b_...`."))
        .build();
    let alone = ApiKeyValue::with_description(API_KEY_HEADER, "An access key, in place of `key`.");
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(BEARER_SCHEME, SecurityScheme::Http(bearer));
    components.add_security_scheme(HEADER_SCHEME, SecurityScheme::ApiKey(ApiKey::Header(alone)));
    // Without one too: over a Unix socket, and while there are no keys.
    let needs =
        [BEARER_SCHEME, HEADER_SCHEME].map(|name| SecurityRequirement::new::<_, _, &str>(name, []));
    document.security = Some(needs.into_iter().chain([SecurityRequirement::default()]).collect());
    for (path, method, operation) in operations(document) {
        match Needs::of(&method, path) {
            Needs::Scope(scope) => {
                let scope = Extensions::builder().add("x-scope", scope.name()).build();
                operation.extensions.get_or_insert_default().merge(scope);
            }
            Needs::Nothing => operation.security = Some(Vec::new()),
            Needs::Caller => {}
        }
    }
}

/// The response to the request of `grant`, if that has what it `needs`.
async fn pass(
    grant: &Grant,
    needs: Needs,
    caller: Option<&Caller>,
    request: Request,
    next: Next,
) -> Response {
    if let Needs::Scope(scope) = needs
        && !grant.permits(scope)
    {
        return ApiError::from(AccessError::Scope(scope)).into_response();
    }
    if !grant.may_end() {
        return next.run(request).await;
    }
    tokio::select! {
        biased;
        response = next.run(request) => ending::at_once(grant.ended(), caller, response),
        () = grant.ended() => ApiError::from(AccessError::Ended).into_response(),
    }
}
