//! Sandboxes of others do not exist: on no route, in no list, no event, under no key of a creation.

use std::slice::from_ref;

use emberd::http::SCOPES;
use emberd_api::{
    CreateSandbox, DaemonEvent, ErrorCode, ListSandboxes, PORT_HEADER, SANDBOX_HEADER,
};
use emberd_client::Client;
use emberd_keys::Role;

use super::access::{NOBODY, path};
use super::{Api, body, refusal};

async fn ids(client: &Client) -> Vec<String> {
    let list = client.list().await.unwrap().sandboxes;
    list.into_iter().map(|sandbox| sandbox.id).collect()
}

async fn events(client: &Client, sandboxes: &[String]) -> Vec<String> {
    let mut events = client.events(sandboxes, None, false).await.unwrap();
    let mut of = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        let DaemonEvent::Sandbox(event) = event else { panic!("{event:?}") };
        of.push(event.sandbox);
    }
    of
}

#[tokio::test]
async fn every_route_answers_for_a_sandbox_of_another_key_as_for_none() {
    let api = Api::start().await;
    let (_, mine) = api.key(Role::User).await;
    let (_, other) = api.secret(Some(Role::User), &[]).await;
    let id = mine.create(Some("shell")).await.unwrap().id;
    let bodies =
        ["", "{}", "{", r#"{"code":"echo","argv":["true"],"signal":"KILL","timeout_ms":1}"#];
    let upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
    let queries = ["", "?path=/etc/passwd", "?path=", "?tail=x&after=x"];
    let mut compared = 0;
    for (method, route, _) in SCOPES.iter().filter(|(_, route, _)| route.contains("{id}")) {
        for content in bodies {
            for (query, fields) in queries.iter().flat_map(|query| [(query, ""), (query, upgrade)])
            {
                let ask = async |id: &str| {
                    let (path, length) = (path(route, id), content.len());
                    let head = format!(
                        "{method} {path}{query} HTTP/1.1\r\nHost: localhost\r\n{fields}\
                         X-API-Key: {other}\r\nContent-Length: {length}\r\n"
                    );
                    let close = if fields.is_empty() { "Connection: close\r\n" } else { "" };
                    let bytes = format!("{head}{close}\r\n{content}").into_bytes();
                    crate::raw::answer(&api.authority, bytes).await
                };
                let (nobodys, anothers) = (ask(NOBODY).await, ask(&id).await);
                let what = format!("{method} {route}{query} {content}");
                assert_eq!((nobodys.status, anothers.status), (404, 404), "{what}: {anothers:?}");
                assert_eq!(anothers.body.replace(&id, NOBODY), nobodys.body, "{what}");
                assert_eq!(anothers.error().code, ErrorCode::UnknownSandbox, "{what}");
                compared += 1;
            }
        }
    }
    assert!(compared > 1_000, "{compared}");
    // Its ports neither, by header or by host.
    for (by, nobodys, anothers) in [
        ("header", NOBODY.to_owned(), id.clone()),
        ("host", NOBODY.replace('_', "-"), id.replace('_', "-")),
    ] {
        let ask = async |id: &str| {
            let host = if by == "host" { format!("80-{id}.localhost") } else { "x".to_owned() };
            let named = format!("{SANDBOX_HEADER}: {id}\r\n{PORT_HEADER}: 80\r\n");
            let named = if by == "host" { "" } else { &named };
            let head = format!(
                "GET / HTTP/1.1\r\nHost: {host}\r\n{named}X-API-Key: {other}\r\n\
                 Connection: close\r\n\r\n"
            );
            crate::raw::send(&api.authority, head.into_bytes()).await
        };
        let (nobodys, anothers) = (ask(&nobodys).await, ask(&anothers).await);
        assert_eq!((nobodys.status, anothers.status), (404, 404), "{by}: {anothers:?}");
        assert_eq!(anothers.body.replace(&id, NOBODY), nobodys.body, "{by}");
    }
    assert_eq!(mine.exec(&id, &body("echo whole")).await.unwrap().stdout, "whole\n");
    api.stop().await;
}

#[tokio::test]
async fn lists_and_events_have_ones_own_and_an_administrator_has_all() {
    let api = Api::start().await;
    // Made while there were no keys, it is nobody's.
    let nobodys = api.create().await;
    let (key, one) = api.key(Role::User).await;
    let (_, other) = api.key(Role::Operator).await;
    let (_, admin) = api.key(Role::Admin).await;
    let mine = one.create(Some("shell")).await.unwrap().id;
    let theirs = other.create(Some("shell")).await.unwrap().id;
    assert_eq!(ids(&one).await, [&*mine]);
    assert_eq!(ids(&other).await, [&*theirs]);
    assert_eq!(ids(&admin).await, [nobodys.clone(), mine.clone(), theirs.clone()]);
    let seen = one.get(&mine).await.unwrap();
    assert_eq!(seen.owner.unwrap(), format!("key:{}", key.id));
    assert_eq!(admin.get(&nobodys).await.unwrap().owner, None);
    let page = ListSandboxes { limit: Some(1), ..ListSandboxes::default() };
    let page = one.list_with(&page).await.unwrap();
    assert_eq!((page.sandboxes.len(), page.next), (1, None));

    assert!(events(&one, &[]).await.iter().all(|id| *id == mine));
    assert_eq!(events(&one, from_ref(&theirs)).await, Vec::<String>::new());
    assert_eq!(events(&one, from_ref(&nobodys)).await, Vec::<String>::new());
    let all = events(&admin, &[]).await;
    assert!([&nobodys, &mine, &theirs].iter().all(|id| all.contains(id)), "{all:?}");
    // One that follows hears its own only.
    let mut followed = one.events(&[], None, true).await.unwrap();
    other.delete(&theirs).await.unwrap();
    admin.delete(&nobodys).await.unwrap();
    admin.delete(&mine).await.unwrap();
    loop {
        let Some(DaemonEvent::Sandbox(event)) = followed.next().await.unwrap() else { panic!() };
        assert_eq!(event.sandbox, mine);
        if event.event.name() == "deleted" {
            break;
        }
    }
    api.stop().await;
}

#[tokio::test]
async fn the_same_key_of_a_creation_is_another_one_to_another_caller() {
    let api = Api::start().await;
    let (_, one) = api.key(Role::User).await;
    let (_, other) = api.key(Role::User).await;
    let wanted = CreateSandbox { language_pack: Some("shell".into()), ..CreateSandbox::default() };
    let mine = one.create_once(&wanted, Some("same")).await.unwrap().answer.id;
    let theirs = other.create_once(&wanted, Some("same")).await.unwrap().answer.id;
    assert_ne!(mine, theirs);
    assert_eq!(one.create_once(&wanted, Some("same")).await.unwrap().answer.id, mine);
    let different = CreateSandbox { language_pack: Some("python".into()), ..wanted };
    let reused = refusal(one.create_once(&different, Some("same")).await).1;
    assert_eq!(reused.code, ErrorCode::KeyReused);
    api.stop().await;
}

#[tokio::test]
async fn sandboxes_stay_those_of_a_key_whose_secret_is_replaced_and_go_with_a_removed_one() {
    let api = Api::start().await;
    let (key, client) = api.key(Role::User).await;
    let (_, admin) = api.key(Role::Admin).await;
    let id = client.create(Some("shell")).await.unwrap().id;
    let (_, rotated) = emberd_keys::rotate(&api.keys, key.id.as_str(), None).unwrap();
    let client = client.with_key(rotated.expose()).unwrap();
    assert_eq!(ids(&client).await, [&*id]);
    emberd_keys::remove(&api.keys, &[key.id.to_string()]).unwrap();
    let (_, next) = api.key(Role::User).await;
    assert_eq!(ids(&next).await, Vec::<String>::new());
    assert_eq!(refusal(next.get(&id).await).0, 404);
    admin.delete(&id).await.unwrap();
    api.stop().await;
}
