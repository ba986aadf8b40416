//! Templates over HTTP: built, asked for by many, failing, removed.

use emberd_api::{ErrorCode, Template, TemplateState};
use futures::future::join_all;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{Api, refusal};
use crate::wait;

impl Api {
    async fn template(&self, pack: &str) -> Template {
        let templates = self.client.templates().await.unwrap().templates;
        templates.into_iter().find(|template| template.language_pack == pack).unwrap()
    }

    async fn is(&self, state: TemplateState) {
        wait::until(async || self.template("shell").await.state == state).await;
    }

    /// How the microVM of a sandbox came to be.
    async fn boot_path(&self, id: &str) -> String {
        self.client.get(id).await.unwrap().boot_path.unwrap()
    }
}

#[tokio::test]
async fn daemon_without_templates_says_so() {
    let api = Api::start().await;
    assert_eq!(api.client.templates().await.unwrap().templates, []);
    for (status, error) in [
        refusal(api.client.build_template("shell").await),
        refusal(api.client.delete_template("shell").await),
    ] {
        assert_eq!((status, error.code), (409, ErrorCode::NoTemplates), "{error:?}");
    }
    api.stop().await;
}

#[tokio::test]
async fn sandboxes_are_restored_from_what_is_built_and_boot_without() {
    let api = Api::with_templates(|_| {}).await;
    let built = api.client.build_template("shell").await.unwrap();
    assert_eq!((built.state, built.error.as_ref()), (TemplateState::Ready, None));
    assert!(std::path::Path::new(built.dir.as_ref().unwrap()).is_dir());
    assert!(built.disk_bytes.is_some() && built.made_at_ms.unwrap() > 0);
    assert_eq!(api.template("shell").await, built);
    let info = api.client.info().await.unwrap();
    assert_eq!(info.boot_path, "snapshot-restore");

    let created = api.client.create_traced(Some("shell")).await.unwrap();
    let id = &created.answer.id;
    assert_eq!(api.boot_path(id).await, "snapshot-restore");
    let stages: Vec<_> = created.timing.stages.iter().map(|stage| &*stage.name).collect();
    assert_eq!(stages[..5], ["boot-path", "vmm", "load", "guest", "renew"]);
    assert_eq!(api.exec(id, "echo $((6 * 7))").await.unwrap().stdout, "42\n");

    api.client.delete_template("shell").await.unwrap();
    api.client.delete_template("shell").await.unwrap();
    assert_eq!(api.template("shell").await.state, TemplateState::Absent);
    assert!(!std::path::Path::new(&built.dir.unwrap()).exists());
    assert_eq!(api.boot_path(&api.create().await).await, "cold-boot");
    assert_eq!(api.exec(id, "echo still here").await.unwrap().stdout, "still here\n");
    api.stop().await;
}

#[tokio::test]
async fn many_who_ask_at_once_get_the_same_template() {
    let api = Api::with_templates(|_| {}).await;
    let builds = (0..8).map(|_| api.client.build_template("shell"));
    let built: Vec<_> = join_all(builds).await.into_iter().map(Result::unwrap).collect();
    assert!(built.iter().all(|template| *template == built[0]), "{built:?}");
    api.stop().await;
}

#[tokio::test]
async fn build_that_fails_is_told_and_can_be_tried_again() {
    let api = Api::with_templates(|double| {
        double.misbehave("refuse-at=PUT /snapshot/create");
    })
    .await;
    let (status, error) = refusal(api.client.build_template("shell").await);
    assert_eq!((status, error.code), (503, ErrorCode::TemplateFailed));
    assert!(error.error.contains("snapshot/create"), "{error:?}");
    wait::until(async || api.template("shell").await.error.is_some()).await;
    assert_eq!(api.boot_path(&api.create().await).await, "cold-boot");
    api.double.behave();
    // The daemon tries again by itself, and whoever asks meanwhile waits for that attempt: the
    // first answer may be that of one begun before the double behaved, the second is not.
    if api.client.build_template("shell").await.is_err() {
        api.client.build_template("shell").await.unwrap();
    }
    assert_eq!(api.boot_path(&api.create().await).await, "snapshot-restore");
    api.stop().await;
}

#[tokio::test]
async fn removal_cuts_a_build_off() {
    let api = Api::with_templates(|double| double.misbehave("hang-at=PUT /snapshot/create")).await;
    let client = api.client.clone();
    let build = tokio::spawn(async move { client.build_template("python").await });
    // One is built after the other, in the order of their names.
    wait::until(async || api.template("python").await.state == TemplateState::Building).await;
    api.client.delete_template("python").await.unwrap();
    let (status, error) = refusal(build.await.unwrap());
    assert_eq!((status, error.code), (503, ErrorCode::TemplateFailed));
    assert!(error.error.contains("was removed"), "{error:?}");
    assert_eq!(api.template("python").await.state, TemplateState::Absent);
    api.stop().await;
}

#[tokio::test]
async fn caller_that_hangs_up_does_not_end_a_build() {
    let api = Api::with_templates(|_| {}).await;
    api.client.delete_template("shell").await.unwrap();
    let mut stream = TcpStream::connect(&api.authority).await.unwrap();
    let request = b"POST /templates/shell HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(request).await.unwrap();
    wait::until(async || api.template("shell").await.state != TemplateState::Absent).await;
    drop(stream);
    api.is(TemplateState::Ready).await;
    api.stop().await;
}

#[tokio::test]
async fn daemon_that_shuts_down_builds_none() {
    let api = Api::with_templates(|double| double.misbehave("hang-at=PUT /snapshot/create")).await;
    let client = api.client.clone();
    let build = tokio::spawn(async move { client.build_template("shell").await });
    api.is(TemplateState::Building).await;
    api.sandboxes.close();
    let (status, error) = refusal(build.await.unwrap());
    assert_eq!((status, error.code), (503, ErrorCode::ShuttingDown));
    api.stop().await;
}
