//! Every route has a scope, and roles grow.

use std::collections::BTreeSet;

use axum::http::Method;
use emberd::http::{CALLERS, Needs, PROXIED, PUBLIC, Role, SCOPES, Scope};

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
    let with_scope = SCOPES.iter().map(|(method, path, _)| (*method, *path)).chain(PUBLIC);
    let with_scope = with_scope.map(|(method, path)| (method.to_owned(), path.to_owned()));
    let with_scope: BTreeSet<_> = with_scope.collect();
    assert_eq!(with_scope.len(), SCOPES.len() + PUBLIC.len(), "a route has two scopes");
    let routes = routes();
    let missing: Vec<_> = routes.difference(&with_scope).collect();
    assert!(missing.is_empty(), "routes without a scope in http/scope.rs: {missing:?}");
    let unknown: Vec<_> = with_scope.difference(&routes).collect();
    assert!(unknown.is_empty(), "scopes of routes that do not exist: {unknown:?}");
}

#[test]
fn what_a_route_needs_is_found_by_method_and_path() {
    for (method, path, scope) in SCOPES {
        let method: Method = method.parse().unwrap();
        assert_eq!(Needs::of(&method, path), Needs::Scope(scope), "{method} {path}");
    }
    assert_eq!(Needs::of(&Method::HEAD, "/sandboxes"), Needs::Scope(Scope::SandboxRead));
    assert_eq!(Needs::of(&Method::GET, "/healthz"), Needs::Nothing);
    for (method, path, _) in CALLERS {
        assert_eq!(Needs::of(&method.parse().unwrap(), path), Needs::Caller, "{method} {path}");
    }
    assert_eq!(Needs::of(&Method::POST, "/healthz"), Needs::Caller);
    assert_eq!(Needs::of(&Method::PATCH, "/sandboxes"), Needs::Caller);
    assert_eq!(Needs::of(&Method::GET, "/sandboxes/sb_000000000000"), Needs::Caller);
}

/// Checks the least role of the route.
#[track_caller]
fn check(method: &Method, path: &str, role: Role) {
    let Needs::Scope(scope) = Needs::of(method, path) else { panic!("{method} {path}") };
    assert_eq!(scope.role(), role, "{method} {path}");
}

#[test]
fn roles_may_do_what_they_are_for() {
    check(&Method::GET, "/info", Role::Viewer);
    check(&Method::GET, "/sandboxes", Role::Viewer);
    check(&Method::POST, "/sandboxes", Role::User);
    check(&Method::POST, "/sandboxes/{id}/exec", Role::User);
    check(&Method::GET, "/sandboxes/{id}/files", Role::User);
    check(&Method::GET, "/sandboxes/{id}/ports/{port}", Role::User);
    check(&Method::DELETE, "/templates/{pack}", Role::Operator);
    assert_eq!(PROXIED.role(), Role::User);
    assert_eq!(Scope::Admin.role(), Role::Admin);
    // A viewer changes nothing: its routes are plain reads.
    for (method, path, scope) in SCOPES {
        assert!(scope.role() > Role::Viewer || method == "GET", "{method} {path}: {scope:?}");
    }
}
