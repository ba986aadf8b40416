//! Every tool, over a live daemon.

use emberd_client::{FileOptions, Upload};
use serde_json::{Value, json};

use super::{Place, Session, call, text};

#[tokio::test]
async fn sandboxes_are_created_listed_and_deleted() {
    let place = Place::new();
    let mut session = Session::start(&place.daemon, &[]).await;
    let made = session.call("create_sandbox", json!({"pack": "shell", "env": {"A": "é"}})).await;
    let id = made["structuredContent"]["sandbox"].as_str().unwrap().to_owned();
    assert!(text(&made).contains(&id) && text(&made).contains("network: off"), "{made}");
    let listed = session.call("list_sandboxes", json!({})).await;
    assert_eq!(listed["structuredContent"]["sandboxes"][0]["sandbox"], json!(id));
    assert!(session.text("create_sandbox", json!({"image": "shell"})).await.contains("is ready"));
    // The daemon is told a shorter time than the caller asked for, which is renewed.
    let sandbox = place.daemon.client.get(&id).await.unwrap();
    assert_eq!(sandbox.timeout_ms, Some(60_000));
    let said = json!({"sandbox": id, "command": "echo $A"});
    assert!(session.text("run_command", said).await.contains("é"));
    assert!(session.text("delete_sandbox", json!({"sandbox": id})).await.contains("deleted"));
    let gone = session.call("run_command", json!({"sandbox": id, "command": "true"})).await;
    assert_eq!(gone["isError"], true);
    let words = text(&gone);
    assert!(words.contains("code: unknown_sandbox") && words.contains("create_sandbox"), "{words}");
    for (arguments, word) in [
        (json!({"pack": "cobol"}), "unknown_pack"),
        (json!({"ttl_s": 0}), "ttl_s"),
        (json!({"network": "no-such-profile"}), "unknown_profile"),
        (json!({"pakc": "shell"}), "pakc"),
        (json!({"image": "cobol"}), "unknown_pack"),
        (json!({"image": "shell", "pack": "shell"}), "in place of"),
    ] {
        let refused = session.call("create_sandbox", arguments).await;
        assert!(refused["isError"] == true && text(&refused).contains(word), "{refused}");
    }
    session.close().await;
    place.is_empty().await;
    place.close().await;
}

#[tokio::test]
async fn code_keeps_its_variables() {
    let place = Place::new();
    let mut session = Session::start(&place.daemon, &["--pack", "shell"]).await;
    let first = session.text("run_code", json!({"code": "x=41; echo out; echo err >&2"})).await;
    assert!(first.starts_with("ok, ") && first.contains(" was created"), "{first}");
    assert!(first.contains("```stdout\nout\n```") && first.contains("```stderr\nerr\n```"));
    // The same sandbox, and the same context.
    let second = session.text("run_code", json!({"code": "echo $((x + 1))"})).await;
    assert!(second.contains("42") && !second.contains("created"), "{second}");
    let id = second.lines().find_map(|line| line.strip_prefix("sandbox ")).unwrap().to_owned();
    let other =
        session.text("run_code", json!({"sandbox": id, "code": "echo [$x]", "context": "new"}));
    let other = other.await;
    assert!(other.contains("[]"), "{other}");
    let context = other.lines().find_map(|line| line.strip_prefix("context ")).unwrap().to_owned();
    let arguments = json!({"sandbox": id, "code": "y=7", "context": context});
    session.text("run_code", arguments).await;
    let failed = session.text("run_code", json!({"sandbox": id, "code": "exit 3"})).await;
    assert!(failed.starts_with("failed after ") && failed.contains("ExitCode: 3"), "{failed}");
    let late = json!({"sandbox": id, "code": "sleep 1000", "timeout_s": 1});
    let late = session.text("run_code", late).await;
    assert!(late.starts_with("interrupted after 1 s"), "{late}");
    let after = session.text("run_code", json!({"sandbox": id, "code": "echo $x"})).await;
    assert!(after.contains("41"), "{after}");
    let unknown = session.call("run_code", json!({"code": "1", "context": "ctx_000000000000"}));
    assert!(text(&unknown.await).contains("code: not_found"));
    session.close().await;
    place.is_empty().await;
    place.close().await;
}

#[tokio::test]
async fn an_interpreter_that_ended_is_started_again_and_a_lost_one_is_found() {
    let place = Place::new();
    let mut session = Session::start(&place.daemon, &[]).await;
    let id = session.sandbox().await;
    session.text("run_code", json!({"sandbox": id, "code": "x=1"})).await;
    let died = session.call("run_code", json!({"sandbox": id, "code": "kill -9 $$"})).await;
    assert!(text(&died).contains("ContextEnded"), "{died}");
    let again = session.text("run_code", json!({"sandbox": id, "code": "echo [$x]"})).await;
    assert!(again.contains("started again") && again.contains("[]"), "{again}");
    let client = &place.daemon.client;
    for context in client.contexts(&id).await.unwrap().contexts {
        client.delete_context(&id, &context.id).await.unwrap();
    }
    let found = session.text("run_code", json!({"sandbox": id, "code": "echo here"})).await;
    assert!(found.contains("here"), "{found}");
    session.close().await;
    place.close().await;
}

#[tokio::test]
async fn a_long_command_becomes_a_process() {
    let place = Place::new();
    let mut session = Session::start(&place.daemon, &[]).await;
    let id = session.sandbox().await;
    let quick = json!({"sandbox": id, "argv": ["sh", "-c", "echo a; echo b >&2; exit 4"]});
    let quick = session.text("run_command", quick).await;
    assert!(quick.starts_with("exit code 4, "), "{quick}");
    assert!(quick.contains("```stdout\na\n```") && quick.contains("```stderr\nb\n```"), "{quick}");
    let command = "echo up; read line; echo got $line; sleep 1000";
    let long = json!({"sandbox": id, "command": command, "timeout_s": 1, "cwd": "/"});
    let long = session.text("run_command", long).await;
    assert!(long.contains("still runs after 1 s") && long.contains("up"), "{long}");
    let process: u32 = long.split(' ').nth(1).unwrap().parse().unwrap();
    let arguments = |more: Value| {
        let mut arguments = json!({"sandbox": id, "process": process});
        arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        arguments
    };
    let nothing = session.text("read_process", arguments(json!({}))).await;
    assert!(nothing.starts_with(&format!("process {process} runs")), "{nothing}");
    assert!(!nothing.contains("```"), "{nothing}");
    let wrote = session.text("write_process", arguments(json!({"input": "word\n"}))).await;
    assert!(wrote.contains("wrote 5 bytes"), "{wrote}");
    let read = session.text("read_process", arguments(json!({"wait_for": "got w"}))).await;
    assert!(read.contains("got word") && !read.contains("up"), "{read}");
    let never = json!({"wait_for": "never", "timeout_s": 1});
    let never = session.text("read_process", arguments(never)).await;
    assert!(never.contains("not met within 1 s"), "{never}");
    session.text("write_process", arguments(json!({"signal": "term"}))).await;
    let ended = session.text("read_process", arguments(json!({"wait_for": "exit"}))).await;
    assert!(ended.starts_with("exit code 143"), "{ended}");
    let again = session.text("read_process", arguments(json!({"from": 0}))).await;
    assert!(again.starts_with("exit code 143") && again.contains("got word"), "{again}");
    let missed = session.text("read_process", arguments(json!({"wait_for": "never"}))).await;
    assert!(missed.contains("never wrote"), "{missed}");
    for wrong in [json!({"sandbox": id}), json!({"sandbox": id, "command": "a", "argv": ["b"]})] {
        assert!(text(&session.call("run_command", wrong).await).contains("either"));
    }
    session.close().await;
    place.close().await;
}

#[tokio::test]
async fn a_child_that_keeps_the_output_does_not_hold_the_answer() {
    let place = Place::new();
    let id = place.daemon.create().await.0;
    for (tool, program) in [("run_command", "command"), ("run_code", "code")] {
        // Of a call that waits for the child, the time limit would be told.
        let arguments = json!({"sandbox": id, program: "sleep 1000 & echo begun", "timeout_s": 30});
        let said = text(&call(&place.daemon, tool, arguments).await);
        assert!(said.starts_with("exit code 0") || said.starts_with("ok, "), "{tool}: {said}");
        assert!(said.contains("begun"), "{tool}: {said}");
    }
    place.close().await;
}

#[tokio::test]
async fn a_process_in_the_background_is_read_from_its_beginning() {
    let place = Place::new();
    let id = place.daemon.create().await.0;
    let arguments = json!({"sandbox": id, "command": "echo one; sleep 1000", "background": true});
    let started = text(&call(&place.daemon, "run_command", arguments).await);
    let process: u32 = started.split(' ').nth(1).unwrap().parse().unwrap();
    let arguments = json!({"sandbox": id, "process": process, "wait_for": "one"});
    let read = text(&call(&place.daemon, "read_process", arguments).await);
    assert!(read.contains("```stdout\none\n```"), "{read}");
    let arguments = json!({"sandbox": id, "process": process, "signal": "SIGKILL", "end": true});
    assert!(text(&call(&place.daemon, "write_process", arguments).await).contains("sent SIGKILL"));
    place.close().await;
}

#[tokio::test]
async fn files_are_written_read_edited_and_listed() {
    let place = Place::new();
    let mut session = Session::start(&place.daemon, &[]).await;
    let id = session.sandbox().await;
    let dir = place.room.path("tree");
    let path = |name: &str| dir.join(name).display().to_string();
    let script = json!({"sandbox": id, "path": path("a/run.sh"), "content": "#!/bin/sh\necho old\n",
        "mode": "755"});
    assert!(session.text("write_file", script).await.contains("wrote 19 bytes"));
    let edit = json!({"sandbox": id, "path": path("a/run.sh"), "old": "old", "new": "new"});
    assert!(session.text("edit_file", edit.clone()).await.contains("replaced 1"));
    let missing = session.call("edit_file", edit).await;
    assert!(text(&missing).contains("does not occur"), "{missing}");
    let ran =
        session.text("run_command", json!({"sandbox": id, "command": path("a/run.sh")})).await;
    assert!(ran.starts_with("exit code 0") && ran.contains("new"), "{ran}");
    let read = session.text("read_file", json!({"sandbox": id, "path": path("a/run.sh")})).await;
    assert_eq!(read, "```\n     1\t#!/bin/sh\n     2\techo new\n```");
    let read = json!({"sandbox": id, "path": path("a/run.sh"), "offset": 1, "limit": 1});
    assert!(session.text("read_file", read).await.ends_with("more lines follow: offset 2"));
    for (name, base64) in [("b.png", "iVBORw0KGgo="), ("c.bin", "AAEC")] {
        let file = json!({"sandbox": id, "path": path(name), "content_base64": base64});
        session.text("write_file", file).await;
    }
    let image = session.call("read_file", json!({"sandbox": id, "path": path("b.png")})).await;
    assert_eq!(image["content"][1]["type"], "image", "{image}");
    assert_eq!(image["content"][1]["data"], "iVBORw0KGgo=");
    assert!(image.get("structuredContent").is_none());
    let binary = session.call("read_file", json!({"sandbox": id, "path": path("c.bin")})).await;
    assert_eq!(binary["content"][1]["type"], "resource_link", "{binary}");
    let uri = binary["content"][1]["uri"].as_str().unwrap();
    let blob = session.request("resources/read", json!({ "uri": uri })).await;
    assert_eq!(blob["result"]["contents"][0]["blob"], "AAEC", "{blob}");
    let top = session.text("list_files", json!({"sandbox": id, "path": path("")})).await;
    assert!(top.contains("b.png") && top.contains("c.bin") && !top.contains("run.sh"), "{top}");
    let found = json!({"sandbox": id, "path": path(""), "glob": "**/*.sh"});
    let found = session.text("list_files", found).await;
    assert!(found.contains("run.sh") && !found.contains("b.png"), "{found}");
    let missing = session.call("read_file", json!({"sandbox": id, "path": path("x")})).await;
    assert!(text(&missing).contains("code: not_found"), "{missing}");
    session.close().await;
    place.close().await;
}

#[tokio::test]
async fn a_large_image_is_a_link_and_a_long_directory_is_cut() {
    let place = Place::new();
    let id = place.daemon.create().await.0;
    let (client, options) = (&place.daemon.client, FileOptions::default());
    let image = place.room.path("large.png");
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.resize(600 << 10, 7);
    client.file_write(&id, &image, Upload::bytes(bytes), &options).await.unwrap();
    let arguments = json!({"sandbox": id, "path": image.display().to_string()});
    let read = call(&place.daemon, "read_file", arguments).await;
    assert_eq!(read["content"][1]["type"], "resource_link", "{read}");
    assert_eq!(read["content"][1]["size"], 600 << 10);
    let dir = place.room.path("many");
    std::fs::create_dir(&dir).unwrap();
    for number in 0..600 {
        std::fs::write(dir.join(format!("{number}\u{1b}[31m")), "").unwrap();
    }
    let arguments = json!({"sandbox": id, "path": dir.display().to_string()});
    let listed = text(&call(&place.daemon, "list_files", arguments).await);
    assert!(listed.contains("only 500 of 600") && !listed.contains('\u{1b}'), "{listed}");
    place.close().await;
}

#[tokio::test]
async fn a_url_says_whether_something_listens() {
    let place = Place::new();
    let id = place.daemon.create().await.0;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let arguments = json!({"sandbox": id, "port": port});
    let url = text(&call(&place.daemon, "get_url", arguments.clone()).await);
    let host = format!("http://{port}-{}.localhost", id.replace('_', "-"));
    assert!(url.starts_with(&host) && url.contains("something listens"), "{url}");
    drop(listener);
    let url = text(&call(&place.daemon, "get_url", arguments).await);
    assert!(url.contains("nothing listens"), "{url}");
    place.close().await;
}

#[tokio::test]
async fn the_tools_can_be_narrowed_and_a_sandbox_given() {
    let place = Place::new();
    let id = place.daemon.create().await.0;
    let mut session = Session::start(&place.daemon, &["--read-only", "--sandbox", &id]).await;
    let listed = session.request("tools/list", json!({})).await;
    let tools = listed["result"]["tools"].as_array().unwrap();
    let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    let expect = ["list_sandboxes", "read_process", "read_file", "list_files", "get_url"];
    assert_eq!(names, expect);
    assert!(session.text("list_files", json!({"path": "/"})).await.contains("/proc"));
    let refused = session.request("tools/call", json!({"name": "run_code", "arguments": {}})).await;
    assert_eq!(refused["error"]["code"], -32602);
    session.close().await;
    let mut session = Session::start(&place.daemon, &["--tools", "run_command,read_file"]).await;
    let listed = session.request("tools/list", json!({})).await;
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 2);
    session.close().await;
    // What it did not create is not its to delete.
    assert!(place.daemon.client.get(&id).await.is_ok());
    place.close().await;
}
