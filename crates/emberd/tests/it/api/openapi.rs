//! The OpenAPI document says what the router does, and changes only in plain sight.

use std::collections::BTreeSet;
use std::{env, fs};

use emberd_api::ErrorCode::{MethodNotAllowed, UnknownRoute};
use serde_json::Value;

use super::Api;
use crate::raw::Answer;

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

fn document() -> Value {
    serde_json::to_value(emberd::http::document()).unwrap()
}

/// Every method and path the document has.
fn documented() -> BTreeSet<(String, String)> {
    let document = document();
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(|method| (method.to_uppercase(), path.clone()))
        })
        .collect()
}

#[tokio::test]
async fn document_and_router_agree() {
    let api = Api::start().await;
    let documented = documented();
    assert_eq!(documented.len(), 54);
    let paths: BTreeSet<_> = documented.iter().map(|(_, path)| path.as_str()).collect();
    for path in paths {
        for method in METHODS {
            // An id and a pack that are none: nothing is created but by `POST /sandboxes`,
            // nothing built, nothing deleted.
            let body = if path == "/sandboxes" { "[]" } else { "" };
            let asked = ["{id}", "{pid}", "{pack}", "{context}"]
                .iter()
                .fold(path.to_owned(), |asked, name| asked.replace(name, "x"));
            let asked = asked.replace("{port}", "80");
            // Otherwise the answer lasts as long as the daemon.
            let asked = asked.replace("/events", "/events?follow=false");
            let answer: Answer = api.raw(method, &asked, body).await;
            let refused = answer.status >= 400;
            let code = refused.then(|| answer.error().code);
            let routed = !matches!(code, Some(MethodNotAllowed | UnknownRoute));
            let expect = documented.contains(&(method.to_owned(), path.to_owned()));
            assert_eq!(routed, expect, "{method} {path}: {answer:?}");
        }
    }
    api.stop().await;
}

#[tokio::test]
async fn document_is_served() {
    let api = Api::start().await;
    let answer = api.raw("GET", "/openapi.json", "").await;
    assert_eq!(serde_json::from_str::<Value>(&answer.body).unwrap(), document());
    api.stop().await;
}

#[test]
fn wire_changes_are_visible() {
    let frozen_path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/api/openapi.json");
    let now = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if env::var_os("EMBERD_FREEZE").is_some() {
        fs::write(frozen_path, &now).unwrap();
    }
    let frozen = fs::read_to_string(frozen_path).unwrap_or_default();
    assert!(frozen == now, "the API changed: look at the diff after EMBERD_FREEZE=1 cargo test");
}
