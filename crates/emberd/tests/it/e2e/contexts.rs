//! Contexts in real guests: the packs' own interpreters.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use emberd_api::{ContextRun, ContextSpec, RunEvent};
use emberd_client::RunEvents;

use super::Daemon;

/// What a PNG begins with.
const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// An open context of a sandbox.
struct Context<'a> {
    daemon: &'a Daemon,
    sandbox: String,
    id: String,
}

impl<'a> Context<'a> {
    async fn open(daemon: &'a Daemon, sandbox: &str, language: &str) -> Self {
        let spec = ContextSpec { language: Some(language.into()), ..ContextSpec::default() };
        let opened = daemon.client.open_context(sandbox, &spec).await;
        let id = opened.unwrap_or_else(|error| panic!("{language}: {error:?}")).id;
        Self { daemon, sandbox: sandbox.into(), id }
    }

    async fn begin(&self, code: &str) -> RunEvents {
        let run = ContextRun {
            code: code.into(),
            timeout_ms: Some(super::TIMEOUT_MS),
            ..ContextRun::default()
        };
        self.daemon.client.run_context(&self.sandbox, &self.id, &run).await.unwrap()
    }

    async fn run(&self, code: &str) -> Vec<RunEvent> {
        rest(&mut self.begin(code).await).await
    }

    /// Interrupts `endless` once it has said something.
    async fn interrupt(&self, endless: &str) {
        let mut run = self.begin(endless).await;
        while !matches!(run.next().await.unwrap(), Some(RunEvent::Stdout { .. })) {}
        self.daemon.client.interrupt_context(&self.sandbox, &self.id).await.unwrap();
        let events = rest(&mut run).await;
        let [.., RunEvent::Error { name, .. }, RunEvent::End { timed_out, .. }] = &events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!((name.as_str(), *timed_out), ("KeyboardInterrupt", false));
    }
}

async fn rest(run: &mut RunEvents) -> Vec<RunEvent> {
    let mut events = Vec::new();
    while let Some(event) = run.next().await.unwrap() {
        events.push(event);
    }
    events
}

/// What was printed, and the text of the result.
fn said(events: &[RunEvent]) -> (String, String) {
    let (mut stdout, mut result) = (String::new(), String::new());
    for event in events {
        match event {
            RunEvent::Stdout { text } => stdout += text,
            RunEvent::Result { data } => result = data.get("text/plain").unwrap(),
            RunEvent::Error { traceback, .. } => panic!("{traceback}"),
            _ => {}
        }
    }
    (stdout, result)
}

#[tokio::test(flavor = "multi_thread")]
async fn python_and_shell_remember_and_can_be_interrupted() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("python").await;
    let python = Context::open(&daemon, &id, "python").await;
    python.run("import os\nx = 20\ndef f(): return x * 2 + 2").await;
    let events = python.run("print(os.getpid() > 1)\nf()").await;
    assert_eq!(said(&events), ("True\n".into(), "42".into()));
    python.interrupt("print('up')\nwhile True: pass").await;
    assert_eq!(said(&python.run("f()").await).1, "42");
    let shell = Context::open(&daemon, &id, "shell").await;
    shell.run("x=1; cd /usr; f() { echo $x $PWD; }").await;
    assert_eq!(said(&shell.run("f").await).0, "1 /usr\n");
    shell.interrupt("echo up; while :; do sleep 1000; done").await;
    assert_eq!(said(&shell.run("f").await).0, "1 /usr\n");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn node_remembers_and_can_be_interrupted() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("node").await;
    let node = Context::open(&daemon, &id, "javascript").await;
    node.run("const x = 20; function f() { return x * 2 + 2 }").await;
    let events = node.run("console.log(process.version.length > 0); await f()").await;
    assert_eq!(said(&events), ("true\n".into(), "42".into()));
    node.interrupt("await null; console.log('up'); while (true);").await;
    assert_eq!(said(&node.run("f()").await).1, "42");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn code_draws_charts() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("code").await;
    let python = Context::open(&daemon, &id, "python").await;
    let code = "import matplotlib.pyplot as plt, numpy as np, pandas as pd, PIL, requests\n\
        frame = pd.DataFrame({'x': np.arange(10)})\n\
        plt.plot(frame['x'] ** 2); plt.title('squares')\n\
        frame";
    let events = python.run(code).await;
    assert!(said(&events).1.contains('x'));
    let html = events
        .iter()
        .any(|event| matches!(event, RunEvent::Result { data } if data.kinds().contains(&"text/html".to_owned())));
    assert!(html, "a table has no HTML");
    let png = events.iter().find_map(|event| match event {
        RunEvent::Display { data } => data.get::<String>("image/png"),
        _ => None,
    });
    let png = STANDARD.decode(png.expect("the figure is displayed")).unwrap();
    assert!(png.starts_with(PNG_SIGNATURE) && png.len() > 5_000, "{} bytes", png.len());
    daemon.stop();
}
