//! The operations of the OpenAPI document, with their methods.

use axum::http::Method;
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::{Operation, PathItem};

/// Every operation of the API, by its path and its method.
pub fn operations(document: &mut OpenApi) -> impl Iterator<Item = (&str, Method, &mut Operation)> {
    document.paths.paths.iter_mut().flat_map(|(path, item)| {
        let PathItem { get, put, post, patch, delete, .. } = item;
        let all = [
            (Method::GET, get),
            (Method::PUT, put),
            (Method::POST, post),
            (Method::PATCH, patch),
            (Method::DELETE, delete),
        ];
        let there =
            move |(method, operation)| Some((path.as_str(), method, Option::as_mut(operation)?));
        all.into_iter().filter_map(there)
    })
}

#[cfg(test)]
mod tests {
    use super::super::scope::{PUBLIC, SCOPES};
    use super::*;

    #[test]
    fn every_route_is_an_operation_and_the_other_way_round() {
        let mut document = super::super::document();
        let found: Vec<_> = operations(&mut document)
            .map(|(path, method, _)| (method.to_string(), path.to_owned()))
            .collect();
        let scoped = SCOPES.iter().map(|(method, path, _)| (*method, *path));
        let mut routes: Vec<_> = scoped.chain(PUBLIC).collect();
        routes.sort_unstable();
        let mut sorted: Vec<_> =
            found.iter().map(|(method, path)| (method.as_str(), path.as_str())).collect();
        sorted.sort_unstable();
        assert_eq!(sorted, routes);
    }
}
