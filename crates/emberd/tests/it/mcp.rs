//! MCP over standard input and output, and over HTTP, by the lines that clients send.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::process::{Daemon, Room};
use crate::{raw, wait};

mod conformance;
mod eras;
mod faults;
mod official;
mod secured;
mod tools;

/// The version of the protocol that has sessions, which most clients speak.
pub const WITH_SESSIONS: &str = "2025-11-25";

/// The version without.
pub const STATELESS: &str = "2026-07-28";

/// A client of `emberctl mcp`.
pub struct Session {
    process: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    last_id: u64,
    /// Notifications that came between answers.
    pub told: Vec<Value>,
}

impl Session {
    /// Starts `emberctl mcp` with `args` for `daemon`, without a word.
    pub fn spawn(daemon: &Daemon, args: &[&str]) -> Self {
        Self::run(Self::command(daemon, args))
    }

    /// `emberctl mcp` with `args` for `daemon`.
    pub fn command(daemon: &Daemon, args: &[&str]) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_emberd")).with_file_name("emberctl");
        assert!(program.exists(), "build it first: cargo build -p emberctl");
        let mut command = Command::new(program);
        command.arg("mcp").args(args).env("EMBERD_ADDR", &daemon.addr);
        command.env_remove("EMBERD_API_KEY").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// Starts a command, without a word.
    pub fn run(mut command: Command) -> Self {
        let mut process = command.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        let input = process.stdin.take();
        Self { process, input, output, last_id: 0, told: Vec::new() }
    }

    /// The same, as a client with a session.
    pub async fn start(daemon: &Daemon, args: &[&str]) -> Self {
        Self::greet(Self::command(daemon, args)).await
    }

    /// Starts a command, as a client with a session.
    pub async fn greet(command: Command) -> Self {
        let mut session = Self::run(command);
        let about = json!({"name": "test", "version": "1"});
        let hello =
            json!({"protocolVersion": WITH_SESSIONS, "capabilities": {}, "clientInfo": about});
        let answer = session.request("initialize", hello).await;
        assert_eq!(answer["result"]["protocolVersion"], WITH_SESSIONS, "{answer}");
        session.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        session
    }

    /// Sends one line.
    pub async fn line(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    pub async fn say(&mut self, message: &Value) {
        self.line(&message.to_string()).await;
    }

    /// Sends a request, and returns its id.
    pub async fn ask(&mut self, method: &str, params: Value) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        self.say(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        id
    }

    /// The next answer, to whatever request.
    pub async fn answer(&mut self) -> Value {
        loop {
            let line = tokio::time::timeout(wait::PATIENCE, self.output.next_line());
            let line = line.await.expect("an answer").unwrap().expect("the server lives");
            let message: Value = serde_json::from_str(&line).unwrap();
            if message.get("id").is_some() {
                return message;
            }
            self.told.push(message);
        }
    }

    /// The answer to a request.
    pub async fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.ask(method, params).await;
        let answer = self.answer().await;
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    /// The result of a tool.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let params = json!({"name": tool, "arguments": arguments});
        self.request("tools/call", params).await["result"].take()
    }

    /// The text of the result of a tool that does its work.
    pub async fn text(&mut self, tool: &str, arguments: Value) -> String {
        let result = self.call(tool, arguments).await;
        assert_ne!(result["isError"], true, "{result}");
        text(&result)
    }

    /// A sandbox of the pack `shell`.
    pub async fn sandbox(&mut self) -> String {
        let result = self.call("create_sandbox", json!({"pack": "shell"})).await;
        result["structuredContent"]["sandbox"].as_str().unwrap_or_else(|| panic!("{result}")).into()
    }

    pub fn process_id(&self) -> u32 {
        self.process.id().unwrap()
    }

    /// Says goodbye, and waits for the end of the server.
    pub async fn close(mut self) {
        self.input = None;
        let ended = tokio::time::timeout(wait::PATIENCE, self.process.wait()).await;
        assert!(ended.expect("it ends").unwrap().success());
    }
}

/// The text of a result.
pub fn text(result: &Value) -> String {
    let text = result["content"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("no text: {result}")).to_owned()
}

/// The answer of the daemon to one message over HTTP.
pub async fn post(daemon: &Daemon, fields: &[(&str, &str)], message: &str) -> raw::Answer {
    raw::send(authority(daemon), posted(fields, message)).await
}

/// The bytes of one message over HTTP.
pub fn posted(fields: &[(&str, &str)], message: &str) -> Vec<u8> {
    let head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
        Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n";
    let fields = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    let head = format!("{head}{}", fields.collect::<Vec<_>>().concat());
    format!("{head}Content-Length: {}\r\n\r\n{message}", message.len()).into_bytes()
}

/// Host and port of a daemon.
pub fn authority(daemon: &Daemon) -> &str {
    daemon.addr.strip_prefix("http://").unwrap_or(&daemon.addr)
}

/// A request of the stateless protocol.
pub fn stateless(id: u64, method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": STATELESS,
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// The answer of a tool over HTTP, as a stateless client asks for it.
pub async fn call(daemon: &Daemon, tool: &str, arguments: Value) -> Value {
    let params = json!({"name": tool, "arguments": arguments});
    let message = stateless(1, "tools/call", params).to_string();
    let fields =
        [("MCP-Protocol-Version", STATELESS), ("Mcp-Method", "tools/call"), ("Mcp-Name", tool)];
    let answer = post(daemon, &fields, &message).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer: Value = serde_json::from_str(&answer.body).unwrap();
    answer["result"].clone()
}

/// A daemon in a room of its own.
pub struct Place {
    pub room: Room,
    pub daemon: Daemon,
}

impl Place {
    pub fn new() -> Self {
        Self::with(&[])
    }

    pub fn with(args: &[&str]) -> Self {
        let room = Room::new();
        let mut command = room.command();
        command.args(args);
        let daemon = Daemon::spawn(command);
        Self { room, daemon }
    }

    /// Waits until no sandbox is left.
    pub async fn is_empty(&self) {
        let client = &self.daemon.client;
        wait::until(async || client.list().await.unwrap().sandboxes.is_empty()).await;
    }

    /// Ends the daemon, which must leave nothing.
    pub async fn close(self) {
        self.daemon.stop(rustix::process::Signal::TERM).await;
        self.room.close().await;
    }
}

/// Runs a program, which must succeed; returns what it printed.
async fn said(program: &mut Command) -> String {
    let output = program.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    said
}

/// A time that no call takes.
pub const LONG: Duration = Duration::from_secs(3_000);
