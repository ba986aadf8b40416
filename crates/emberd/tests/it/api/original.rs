//! What clients made for the daemon of the same name in Go send, and read as Go's decoder does:
//! members that are not known are skipped, and null leaves a value as it was; a value of another
//! type than its field's ends the client.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::json;

use super::Api;

/// Null leaves a field as it was.
fn unless_null<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Created {
    #[serde(deserialize_with = "unless_null")]
    id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ran {
    #[serde(deserialize_with = "unless_null")]
    stdout: String,
    #[serde(deserialize_with = "unless_null")]
    stderr: String,
    #[serde(deserialize_with = "unless_null")]
    exit_code: i64,
    #[serde(deserialize_with = "unless_null")]
    duration_ms: i64,
    #[serde(deserialize_with = "unless_null")]
    duration_us: i64,
    #[serde(deserialize_with = "unless_null")]
    error: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Info {
    #[serde(deserialize_with = "unless_null")]
    guest_ram_mib: i64,
    #[serde(deserialize_with = "unless_null")]
    guest_vcpus: i64,
    #[serde(deserialize_with = "unless_null")]
    boot_path: String,
    #[serde(deserialize_with = "unless_null")]
    packs: Vec<String>,
    #[serde(deserialize_with = "unless_null")]
    work_dir: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refused {
    #[serde(deserialize_with = "unless_null")]
    error: String,
}

impl Api {
    /// Status and body of an answer.
    async fn answer<T: DeserializeOwned>(&self, method: &str, path: &str, body: &str) -> (u16, T) {
        let answer = self.raw(method, path, body).await;
        let read = serde_json::from_str(&answer.body);
        (answer.status, read.unwrap_or_else(|error| panic!("{path}: {error}: {answer:?}")))
    }
}

#[tokio::test]
async fn a_sandbox_is_made_used_and_deleted() {
    let api = Api::start().await;
    let body = json!({ "language_pack": "shell" }).to_string();
    let (status, Created { id }) = api.answer("POST", "/sandboxes", &body).await;
    assert_eq!((status, id.is_empty()), (201, false));
    let exec = format!("/sandboxes/{id}/exec");
    let body = json!({ "code": "cat; echo e >&2; exit 3", "stdin": "in", "timeout_ms": 60_000 });
    let (status, ran) = api.answer::<Ran>("POST", &exec, &body.to_string()).await;
    assert_eq!((status, ran.exit_code, ran.error.as_str()), (200, 3, ""));
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("in", "e\n"));
    assert!(ran.duration_us > 0 && ran.duration_ms == ran.duration_us / 1000, "{ran:?}");
    // Neither standard input nor a time limit is said where there is none.
    let (status, ran) = api.answer::<Ran>("POST", &exec, r#"{"code":"echo $1"}"#).await;
    assert_eq!((status, ran.stdout.as_str(), ran.exit_code), (200, "\n", 0));
    let (status, ran) =
        api.answer::<Ran>("POST", &exec, r#"{"code":"sleep 60","timeout_ms":1}"#).await;
    assert_eq!((status, ran.exit_code, ran.error.is_empty()), (200, -1, false));
    let path = format!("/sandboxes/{id}");
    let answer = api.raw("DELETE", &path, "").await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    for (method, path, body) in [("DELETE", &path, ""), ("POST", &exec, r#"{"code":""}"#)] {
        let (status, refused) = api.answer::<Refused>(method, path, body).await;
        assert_eq!((status, refused.error.is_empty()), (404, false), "{method} {path}");
    }
    api.stop().await;
}

#[tokio::test]
async fn a_pack_without_a_name_is_python() {
    let api = Api::start().await;
    for body in ["", "{}", r#"{"language_pack":""}"#, r#"{"language_pack":null}"#] {
        let (status, Created { id }) = api.answer("POST", "/sandboxes", body).await;
        assert_eq!(status, 201, "{body}");
        assert_eq!(api.client.get(&id).await.unwrap().language_pack, "python");
        api.client.delete(&id).await.unwrap();
    }
    for body in [r#"{"language_pack":"cobol"}"#, "{"] {
        let (status, refused) = api.answer::<Refused>("POST", "/sandboxes", body).await;
        assert_eq!((status, refused.error.is_empty()), (400, false), "{body}");
    }
    api.stop().await;
}

#[tokio::test]
async fn the_daemon_says_what_it_is() {
    let api = Api::start().await;
    let (status, info) = api.answer::<Info>("GET", "/info", "").await;
    assert_eq!((status, info.guest_ram_mib, info.guest_vcpus), (200, 64, 1));
    assert_eq!(
        (info.boot_path.as_str(), info.packs),
        ("cold-boot", vec!["python".into(), "shell".into()])
    );
    assert!(info.work_dir.starts_with('/'), "{}", info.work_dir);
    api.stop().await;
}
