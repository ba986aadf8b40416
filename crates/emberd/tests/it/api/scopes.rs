//! Every route has a scope, and roles grow.

use std::collections::BTreeSet;

use axum::http::Method;
use emberd::http::{PROXIED, Role, SCOPES, Scope};

/// Every method and path of the OpenAPI document, which agrees with the router.
fn routes() -> BTreeSet<(String, String)> {
    let document = serde_json::to_value(emberd::http::document()).unwrap();
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(|method| (method.to_uppercase(), path.clone()))
        })
        .collect()
}

#[test]
fn every_route_has_a_scope_and_every_scope_a_route() {
    let with_scope = SCOPES.map(|(method, path, _)| (method.to_owned(), path.to_owned()));
    let with_scope = BTreeSet::from(with_scope);
    assert_eq!(with_scope.len(), SCOPES.len(), "a route has two scopes");
    let routes = routes();
    let missing: Vec<_> = routes.difference(&with_scope).collect();
    assert!(missing.is_empty(), "routes without a scope in http/scope.rs: {missing:?}");
    let unknown: Vec<_> = with_scope.difference(&routes).collect();
    assert!(unknown.is_empty(), "scopes of routes that do not exist: {unknown:?}");
}

#[test]
fn a_scope_is_found_by_method_and_path() {
    for (method, path, scope) in SCOPES {
        let method: Method = method.parse().unwrap();
        assert_eq!(Scope::of(&method, path), Some(scope), "{method} {path}");
    }
    assert_eq!(Scope::of(&Method::HEAD, "/sandboxes"), Some(Scope::SandboxRead));
    assert_eq!(Scope::of(&Method::PATCH, "/sandboxes"), None);
    assert_eq!(Scope::of(&Method::GET, "/sandboxes/sb_000000000000"), None);
}

/// The least role of the route, or `None` where nobody needs one.
#[track_caller]
fn check(method: &Method, path: &str, role: Option<Role>) {
    assert_eq!(Scope::of(method, path).unwrap().role(), role, "{method} {path}");
}

#[test]
fn roles_may_do_what_they_are_for() {
    check(&Method::GET, "/healthz", None);
    check(&Method::GET, "/info", Some(Role::Viewer));
    check(&Method::GET, "/sandboxes", Some(Role::Viewer));
    check(&Method::POST, "/sandboxes", Some(Role::User));
    check(&Method::POST, "/sandboxes/{id}/exec", Some(Role::User));
    check(&Method::GET, "/sandboxes/{id}/files", Some(Role::User));
    check(&Method::GET, "/sandboxes/{id}/ports/{port}", Some(Role::User));
    check(&Method::DELETE, "/templates/{pack}", Some(Role::Operator));
    assert_eq!(PROXIED.role(), Some(Role::User));
    assert_eq!(Scope::Admin.role(), Some(Role::Admin));
    let roles = [Role::Viewer, Role::User, Role::Operator, Role::Admin];
    assert!(roles.is_sorted());
    // A viewer changes nothing: its routes are plain reads.
    for (method, path, scope) in SCOPES {
        let viewer = scope.role().is_none_or(|role| role <= Role::Viewer);
        assert!(!viewer || method == "GET", "{method} {path}: {scope:?}");
    }
}
