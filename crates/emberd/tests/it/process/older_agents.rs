//! Sandboxes whose agent is of the generation before, as those of a daemon before an upgrade are.

use emberd_api::{ContextRun, CreateSandbox, ErrorCode, ProcessEventKind, Resources, RunEvent};
use emberd_proto::{ContextSpec, ProcessSpec};

use super::{Daemon, Room};
use crate::api::{body, refusal};
use crate::wait;

/// Does with a sandbox what its agent can. Returns a process that runs.
async fn use_it(daemon: &Daemon, id: &str) -> u32 {
    let client = &daemon.client;
    assert_eq!(client.exec(id, &body("echo $((6*7))")).await.unwrap().stdout, "42\n");
    let pid = client.start_process(id, &ProcessSpec::of_argv(["cat"])).await.unwrap().pid;
    let mut attachment = client.attach(id, pid, 1).await.unwrap();
    attachment.write(b"echoed\n").await.unwrap();
    let event = attachment.event().await.unwrap().unwrap();
    let ProcessEventKind::Stdout(said) = event.kind else { panic!("{event:?}") };
    assert_eq!((event.id, &*said.text), (1, "echoed\n"));
    let context = client.open_context(id, &ContextSpec::default()).await.unwrap().id;
    let run = ContextRun { code: "echo run".to_owned(), ..ContextRun::default() };
    let mut events = client.run_context(id, &context, &run).await.unwrap();
    let mut text = String::new();
    while let Some(event) = events.next().await.unwrap() {
        if let RunEvent::Stdout { text: piece } = event {
            text.push_str(&piece);
        }
    }
    assert_eq!(text, "run\n");
    pid
}

#[tokio::test]
async fn templates_and_sandboxes_of_an_older_agent_are_used_and_adopted_as_far_as_it_goes() {
    let room = Room::new();
    room.double.age_agent();
    let start = || Daemon::spawn(room.command_with_pools(1));
    let mut daemon = start();
    daemon.comes_to_rest().await;
    let (id, _) = daemon.create().await;
    let sandbox = daemon.client.get(&id).await.unwrap();
    assert_eq!(sandbox.boot_path.as_deref(), Some("warm-pool"));
    for _ in 0..2 {
        let pid = use_it(&daemon, &id).await;
        // What it does not know is refused, with advice.
        let resources = Resources { pids: Some(512), ..Resources::default() };
        let language_pack = Some("shell".to_owned());
        let wanted = CreateSandbox { language_pack, resources, ..CreateSandbox::default() };
        let (status, body) = refusal(daemon.client.create_with(&wanted).await);
        assert_eq!((status, body.code), (409, ErrorCode::LimitUnavailable), "{body:?}");
        assert!(body.hint.unwrap().contains("emberctl image build"));
        daemon.crash().await;
        // Its programs end with the connections of their daemon.
        wait::until(async || !wait::is_running(pid)).await;
        daemon = start();
        assert_eq!(daemon.client.processes(&id).await.unwrap().processes, []);
        assert_eq!(daemon.client.contexts(&id).await.unwrap().contexts, []);
        let (status, body) = refusal(daemon.client.process(&id, pid).await);
        assert_eq!((status, body.code), (404, ErrorCode::NotFound));
        assert_eq!(daemon.client.get(&id).await.unwrap().reason, None);
    }
    daemon.comes_to_rest().await;
    room.finish(daemon).await;
}
