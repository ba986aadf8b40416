//! `mcp`: a run of code as a tool, over `emberctl mcp` and over HTTP, in turns with the same run
//! by the API. The interpreter only counts, over the test double.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use emberd_api::Address;
use emberd_client::Client;
use serde_json::{Value, json};

use super::context::Counter;
use crate::measure::daemon::beside;
use crate::measure::error::MeasureError;
use crate::measure::programs::Language;
use crate::measure::rig::{Rig, WARM_UPS};

/// The pack whose interpreter counts.
const PACK: &str = "shell";

/// The version of the protocol over HTTP: the one without sessions.
const VERSION: &str = "2026-07-28";

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(&rig.address.to_string()).map_err(io::Error::other)?;
    let (id, _) = rig.create(PACK)?;
    let mut counter = runtime.block_on(Counter::open(&client, &id, PACK))?;
    let [_, code] = Language::of(PACK)?.counting();
    let mut server = Server::start(&rig.address)?;
    // The default context is the oldest one, which is the counter's.
    let call = |code: &str| json!({"name": "run_code", "arguments": {"sandbox": id, "code": code}});
    for iteration in 0..WARM_UPS + rig.iterations {
        rig.interrupt.check()?;
        let by_api = runtime.block_on(counter.count())?.whole;
        let (answer, by_stdio) = server.ask("tools/call", &call(code))?;
        counter.skip();
        check(&answer)?;
        let message = stateless(&call(code));
        let answer = rig.connection.call_tool("run_code", VERSION, &message)?;
        counter.skip();
        check(&serde_json::from_slice(&answer.body).map_err(io::Error::other)?)?;
        if iteration >= WARM_UPS {
            rig.record.time("run_by_api", by_api);
            rig.record.time("run_by_stdio", by_stdio);
            rig.record.time("run_by_http", answer.latency);
        }
    }
    let (listed, _) = server.ask("tools/list", &json!({}))?;
    rig.record.sample("tools_list_bytes", listed["result"].to_string().len() as u64);
    server.end()?;
    rig.delete(&id)?;
    Ok(())
}

/// A request of the protocol without sessions.
fn stateless(params: &Value) -> Vec<u8> {
    let mut params = params.clone();
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientInfo": {"name": "emberd-bench", "version": "0"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    message.to_string().into_bytes()
}

/// Checks that a tool has done its work.
fn check(answer: &Value) -> Result<(), MeasureError> {
    let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_default();
    if text.starts_with("ok, ") {
        return Ok(());
    }
    let (what, expected) = ("a tool".to_owned(), "a run that succeeds".to_owned());
    Err(MeasureError::Unexpected { what, expected, seen: answer.to_string() })
}

/// `emberctl mcp`, as its client has it.
struct Server {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    asked: u64,
}

impl Server {
    /// Starts a server for the daemon at `address`.
    fn start(address: &Address) -> Result<Self, MeasureError> {
        let mut process = Command::new(beside("emberctl")?)
            .arg("mcp")
            .env("EMBERD_ADDR", address.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let (input, output) = input.zip(output).expect("both are piped");
        let mut server = Self { process, input, output: BufReader::new(output), asked: 0 };
        let about = json!({"name": "emberd-bench", "version": "0"});
        let hello =
            json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": about});
        server.ask("initialize", &hello)?;
        server.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))?;
        Ok(server)
    }

    fn say(&mut self, message: &Value) -> io::Result<()> {
        self.input.write_all(format!("{message}\n").as_bytes())
    }

    /// Sends a request; the answer, and the time from the first byte to the answer's last.
    fn ask(&mut self, method: &str, params: &Value) -> io::Result<(Value, Duration)> {
        self.asked += 1;
        let id = self.asked;
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let line = format!("{request}\n");
        let sent = Instant::now();
        self.input.write_all(line.as_bytes())?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        let took = sent.elapsed();
        Ok((serde_json::from_str(&answer).map_err(io::Error::other)?, took))
    }

    fn end(self) -> io::Result<()> {
        let Self { mut process, input, .. } = self;
        drop(input);
        process.wait().map(drop)
    }
}
