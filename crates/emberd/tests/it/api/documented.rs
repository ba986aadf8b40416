//! Compares every response of the tests with the OpenAPI document.

use std::sync::{Arc, LazyLock, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use emberd_api::{ErrorBody, SANDBOX_HEADER};
use serde_json::Value;

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::to_value(emberd::http::document()).unwrap());

/// The responses that the document does not have. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Undocumented(Arc<Mutex<Vec<String>>>);

impl Undocumented {
    /// Notes the undocumented responses of `router`.
    pub fn watch(&self, router: Router) -> Router {
        let undocumented = self.clone();
        router.layer(from_fn(move |request: Request, next: Next| {
            let undocumented = undocumented.clone();
            async move {
                let path = request.extensions().get::<MatchedPath>().cloned();
                let path = path.filter(|_| !is_for_a_port(&request));
                let method = request.method().clone();
                let response = next.run(request).await;
                match path {
                    Some(path) => undocumented.compare(&method, path.as_str(), response).await,
                    None => response,
                }
            }
        }))
    }

    /// All so far.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    async fn compare(&self, method: &Method, path: &str, response: Response) -> Response {
        let status = response.status().as_u16();
        let method = if method == Method::HEAD { "get" } else { &method.as_str().to_lowercase() };
        let operation = &DOCUMENT["paths"][path][method];
        if operation.is_null() {
            // The path does not take the method.
            return response;
        }
        let documented = &operation["responses"][status.to_string()];
        if documented.is_null() {
            self.0.lock().unwrap().push(format!("{method} {path}: {status}"));
        }
        let json =
            response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        if status < 400 || !json {
            return response;
        }
        let (head, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        if let Ok(ErrorBody { code, .. }) = serde_json::from_slice(&body) {
            let codes = documented["x-error-codes"].as_array().cloned().unwrap_or_default();
            if !codes.contains(&Value::String(code.name())) {
                self.0.lock().unwrap().push(format!("{method} {path}: {status} {}", code.name()));
            }
        }
        Response::from_parts(head, Body::from(body))
    }
}

/// Whether a request goes to a port inside a sandbox, by its host or by headers.
fn is_for_a_port(request: &Request) -> bool {
    let headers = request.headers();
    let hosts = headers.get_all(HOST).iter().filter_map(|host| host.to_str().ok());
    let mut hosts = hosts.chain(request.uri().host());
    headers.contains_key(SANDBOX_HEADER)
        || hosts.any(|host| host.to_lowercase().replace('_', "-").contains("-sb-"))
}
