//! Who may make which request: every scope on every route, with keys that are none, and without.

use std::fs;

use emberd::http::{PUBLIC, SCOPES, Scope};
use emberd_api::{AccessOverTcp, ErrorCode, PORT_HEADER, SANDBOX_HEADER};
use emberd_keys::{Form, NewKey, Role};

use super::{Api, refusal};
use crate::raw::{self, Answer};
use crate::wait;

/// An id that no sandbox has.
pub const NOBODY: &str = "sb_000000000000";

/// The path of a route, with `id` as the sandbox, that ends by itself.
pub fn path(route: &str, id: &str) -> String {
    let path = route.replace("{id}", id).replace("{pid}", "1").replace("{port}", "1");
    let path = path.replace("{context}", "ctx_000000000000").replace("{pack}", "nothing");
    if route == "/events" { format!("{path}?follow=false") } else { path }
}

impl Api {
    /// The answer to a request with some fields of its head.
    pub async fn request(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
        let line = |(name, value): &(&str, &str)| [*name, ": ", *value, "\r\n"].concat();
        let fields: String = fields.iter().map(line).collect();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}");
        raw::send(&self.authority, format!("{head}Connection: close\r\n\r\n").into_bytes()).await
    }
}

#[tokio::test]
async fn each_scope_opens_its_routes_and_no_others() {
    let api = Api::start().await;
    for scope in Scope::ALL {
        let key = api.secret(None, &[*scope]).await.1;
        for (method, route, needed) in SCOPES {
            let answer = api.request(method, &path(route, NOBODY), &[("X-API-Key", &key)]).await;
            let what = format!("{scope} {method} {route}: {answer:?}");
            if *scope == needed || *scope == Scope::Admin {
                assert!(![401, 403].contains(&answer.status), "{what}");
            } else {
                assert_eq!(answer.status, 403, "{what}");
                let error = answer.error();
                assert_eq!(error.code, ErrorCode::Forbidden, "{what}");
                assert!(error.error.ends_with(&format!("the scope `{needed}`")), "{what}");
            }
        }
        for (method, route) in PUBLIC {
            assert_eq!(api.request(method, route, &[("X-API-Key", &key)]).await.status, 200);
        }
        // A caller who is known may know that a path is none.
        let fields = [("X-API-Key", &*key)];
        assert_eq!(api.request("GET", "/nothing", &fields).await.status, 404);
        assert_eq!(api.request("PUT", "/sandboxes", &fields).await.status, 405);
        let port = [("X-API-Key", &*key), (SANDBOX_HEADER, NOBODY), (PORT_HEADER, "80")];
        let may = matches!(scope, Scope::SandboxUse | Scope::Admin);
        let expect = if may { 404 } else { 403 };
        assert_eq!(api.request("GET", "/", &port).await.status, expect, "{scope}");
    }
    api.stop().await;
}

#[tokio::test]
async fn without_a_key_only_public_routes_answer() {
    let api = Api::start().await;
    assert_eq!(api.client.info().await.unwrap().access.tcp, AccessOverTcp::Open);
    // Without keys, one that is sent changes nothing.
    let stray = [("Authorization", "Bearer x"), ("X-API-Key", "y")];
    assert_eq!(api.request("GET", "/info", &stray).await.status, 200);
    let key = api.secret(Some(Role::Viewer), &[]).await.1;
    let all = SCOPES.iter().map(|(method, route, _)| (*method, *route));
    for (method, route) in all.chain([("GET", "/nothing"), ("POST", "/healthz")]) {
        let answer = api.request(method, &path(route, NOBODY), &[]).await;
        assert_eq!(answer.status, 401, "{method} {route}: {answer:?}");
        assert_eq!(answer.error().code, ErrorCode::Unauthenticated);
        assert!(answer.head.contains("www-authenticate: Bearer realm=\"emberd\""), "{answer:?}");
    }
    let host = [("Host", "80-sb-000000000000.localhost")];
    for fields in [&host[..], &[(SANDBOX_HEADER, NOBODY), (PORT_HEADER, "80")]] {
        assert_eq!(api.request("GET", "/healthz", fields).await.status, 401);
    }
    for (method, route) in PUBLIC {
        assert_eq!(api.request(method, route, &[]).await.status, 200);
    }
    let bearer = format!("Bearer {key}");
    let info = api.request("GET", "/info", &[("Authorization", &bearer)]).await;
    let info: emberd_api::Info = serde_json::from_str(&info.body).unwrap();
    assert_eq!((info.access.tcp, info.access.keys), (AccessOverTcp::Key, 1));
    api.stop().await;
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_and_never_repeated() {
    let api = Api::start().await;
    let key = api.secret(Some(Role::User), &[]).await.1;
    let (id, random) = (&key[4..12], &key[13..]);
    let (other, shorter) = (key.replace(random, &"0".repeat(32)), &key[..44]);
    let nobodys = key.replacen(id, "zzzzzzzz", 1);
    let long = "x".repeat(10_000);
    for wrong in [&other, shorter, &nobodys, &long, "", "emb_", "e2b_0", random] {
        for field in [("X-API-Key", wrong), ("Authorization", &format!("Bearer {wrong}"))] {
            let answer = api.request("GET", "/info", &[field]).await;
            assert_eq!((answer.status, answer.error().code), (401, ErrorCode::Unauthenticated));
            assert!(!answer.body.contains(random) && !answer.body.contains("zzzz"), "{answer:?}");
        }
    }
    let two = [("X-API-Key", &*key), ("X-API-Key", &*key)];
    assert_eq!(api.request("GET", "/info", &two).await.status, 401);
    // Clients of E2B send another token beside their key.
    let both = [("X-API-Key", &*key), ("Authorization", "Bearer sk_e2b_other")];
    assert_eq!(api.request("GET", "/info", &both).await.status, 200);
    assert_eq!(api.request("GET", "/info", &[("Authorization", "Basic eDp5")]).await.status, 401);
    let metrics = api.request("GET", "/metrics", &[("X-API-Key", &key)]).await;
    assert!(metrics.status == 200 && !metrics.body.contains(id), "no label has an id");
    api.stop().await;
}

#[tokio::test]
async fn keys_come_into_force_and_go_without_a_restart() {
    let api = Api::start().await;
    let (first, client) = api.key(Role::User).await;
    client.info().await.unwrap();
    // One that the daemon has not read yet is valid at once.
    let (second, other) = api.key(Role::User).await;
    other.info().await.unwrap();
    emberd_keys::remove(&api.keys, &[first.id.to_string()]).unwrap();
    wait::until(async || client.info().await.is_err()).await;
    assert_eq!(refusal(client.info().await).1.code, ErrorCode::Unauthenticated);
    let (_, rotated) = emberd_keys::rotate(&api.keys, second.id.as_str(), None).unwrap();
    let rotated = other.clone().with_key(rotated.expose()).unwrap();
    rotated.info().await.unwrap();
    assert_eq!(refusal(other.info().await).1.code, ErrorCode::Unauthenticated);
    // Without any key TCP does not open by itself.
    emberd_keys::remove(&api.keys, &[second.id.to_string()]).unwrap();
    wait::until(async || rotated.info().await.is_err()).await;
    assert_eq!(refusal(api.client.info().await).0, 401);
    api.stop().await;
}

#[tokio::test]
async fn keys_that_cannot_be_read_are_told_apart_from_wrong_ones() {
    let api = Api::start().await;
    fs::write(api.keys.path(), "{\"version\": 1, \"ke").unwrap();
    wait::until(async || api.client.info().await.is_err()).await;
    assert_eq!(refusal(api.client.info().await).1.code, ErrorCode::Unauthenticated);
    let (_dir, stray) = stray_key();
    let client = api.client.clone().with_key(&stray).unwrap();
    let (status, body) = refusal(client.info().await);
    assert_eq!((status, body.code), (503, ErrorCode::KeysUnreadable));
    assert!(body.hint.unwrap().contains("emberctl key ls"));
    fs::remove_file(api.keys.path()).unwrap();
    // What was there once is needed: a file that is gone opens nothing.
    assert_eq!(refusal(client.info().await).0, 503);
    let (_, client) = api.key(Role::Viewer).await;
    assert_eq!(client.info().await.unwrap().access.problem, None);
    // The last good keys stay in force, and the trouble is told.
    fs::write(api.keys.path(), "").unwrap();
    wait::until(async || client.info().await.unwrap().access.problem.is_some()).await;
    let access = client.info().await.unwrap().access;
    assert_eq!((access.tcp, access.keys), (AccessOverTcp::Key, 1));
    assert!(access.problem.unwrap().contains("is not a file of keys"));
    fs::remove_file(api.keys.path()).unwrap();
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_wrong_while_the_keys_are_replaced() {
    let api = Api::start().await;
    let (_, secret) = api.secret(Some(Role::Viewer), &[]).await;
    let wrong = secret.replace(&secret[13..], &"0".repeat(32));
    let [right, wrong] = [&secret, &wrong].map(|key| api.client.clone().with_key(key).unwrap());
    right.info().await.unwrap();
    let file = api.keys.clone();
    let replacing = tokio::task::spawn_blocking(move || {
        for n in 0..40 {
            let new = NewKey::of_role(format!("other-{n}").parse().unwrap(), Role::Admin);
            let id = emberd_keys::create(&file, new).unwrap().0.id.to_string();
            emberd_keys::rotate(&file, &id, None).unwrap();
            emberd_keys::remove(&file, &[id]).unwrap();
        }
    });
    let mut asked = 0;
    while !replacing.is_finished() || asked < 2_000 {
        right.info().await.unwrap();
        assert_eq!(refusal(wrong.info().await).1.code, ErrorCode::Unauthenticated);
        asked += 2;
    }
    replacing.await.unwrap();
    api.stop().await;
}

/// A key of another daemon.
fn stray_key() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = emberd_keys::KeysFile::new(dir.path());
    let admin = NewKey::of_role("stray".parse().unwrap(), Role::Admin);
    let new = NewKey { form: Form::E2b, ..admin };
    let (_, secret) = emberd_keys::create(&file, new).unwrap();
    (dir, secret.expose().to_owned())
}
