//! Contexts: the packs' own interpreters, run by this machine's Python, Node and Bash.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use emberd_image::{PackDefinition, SHELL_CONTEXT};
use emberd_proto::frame::encode_message;
use emberd_proto::{
    ContextCall, ContextEvent, ContextSpec, ExecExit, GuestMessage, HostMessage, InterruptedBy,
    Kind, RefusalCode, SignalName, json as wire_json,
};
use serde_json::{Value, json};

use crate::guest::{Guest, Host};
use crate::process_trees::await_end;

/// Pause between two interrupts of a run that may miss one.
const INTERRUPT_AGAIN: Duration = Duration::from_secs(1);

/// A program of a pack in this repository.
fn program(path: &str) -> String {
    let packs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rootfs/packs");
    packs.join(path).canonicalize().unwrap().to_str().unwrap().to_owned()
}

/// The program and arguments of the shell's context, whose library is put into `dir`.
fn shell_context(dir: &Path) -> Vec<String> {
    let library = dir.join("context.so");
    fs::write(&library, SHELL_CONTEXT).unwrap();
    let pack = PackDefinition::built_in(&"shell".parse().unwrap()).unwrap();
    let filled_in = |word: String| match word.as_str() {
        "{program}" => library.to_str().unwrap().to_owned(),
        _ => word,
    };
    pack.contexts[0].run.iter().cloned().map(filled_in).collect()
}

/// An agent with contexts; `None` where this machine cannot run the one for `language`.
pub fn guest(language: &str) -> Option<Guest> {
    let interpreter = match language {
        "python" => "/usr/bin/python3",
        "javascript" => "/usr/bin/node",
        _ => "/bin/bash",
    };
    let have_it = Path::new(interpreter).exists();
    if !emberd_testing::needs(have_it, format!("no {interpreter} on this machine")) {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let context = program("python/context.py");
    let pack = json!({
        "name": "all",
        "run": ["/usr/bin/python3", "{file}"],
        "file_name": "main.py",
        "zygote": {
            "run": ["/usr/bin/python3", program("python/zygote.py"), "json", "asyncio"],
            "spawn_for_env": ["PYTHON*"],
        },
        "contexts": [
            {"languages": ["python", "py"], "run": ["/usr/bin/python3", context],
             "zygote_file": context},
            {"languages": ["javascript"], "run": [
                "/bin/sh", "-c", "exec \"$@\" 3<&0 0</dev/null", "sh", "/usr/bin/node",
                "--no-force-async-hooks-checks", program("node/context.js"),
            ]},
            {"languages": ["shell"], "run": shell_context(dir.path())},
            {"languages": ["nonsense"], "run": ["/bin/sh", "-c", "echo what >&0; cat"]},
            {"languages": ["whoami"], "run": ["/bin/sh", "-c", "echo $(id -un) $HOME $PWD; cat"]},
        ],
    });
    let pack = if Path::new("/usr/bin/python3").exists() {
        pack
    } else {
        let mut pack = pack;
        pack.as_object_mut().unwrap().remove("zygote");
        pack
    };
    Some(Guest::with_pack_in(dir, &pack.to_string()))
}

/// An open context.
pub struct Context {
    host: Host,
    id: u64,
    lines: Vec<u8>,
}

/// What a run brought, in order: events, and output as it came.
#[derive(Debug, Default, PartialEq)]
pub struct Ran {
    pub stdout: String,
    pub stderr: String,
    /// Both, as they came.
    pub output: String,
    pub events: Vec<ContextEvent>,
    result: Option<String>,
    pub exit: Option<ExecExit>,
}

/// The event that an interpreter said in `line`.
pub fn event(line: &[u8]) -> ContextEvent {
    let mut line = line.trim_ascii_end().to_vec();
    wire_json::tame(&mut line);
    ContextEvent::parse(&line.into()).unwrap()
}

impl Ran {
    pub fn result(&self) -> Option<&str> {
        self.result.as_deref()
    }

    /// Name, text and traceback of the error.
    pub fn error(&self) -> Option<[&str; 3]> {
        self.events.iter().find_map(|event| match event {
            ContextEvent::Error { name, value, traceback } => Some([&name[..], value, traceback]),
            _ => None,
        })
    }
}

impl Context {
    pub fn open(guest: &Guest, language: &str) -> Self {
        let spec = ContextSpec { language: Some(language.into()), ..ContextSpec::default() };
        Self::open_with(guest, spec)
    }

    pub fn open_with(guest: &Guest, spec: ContextSpec) -> Self {
        let mut host = guest.greet();
        let id = host.begin(&HostMessage::Context(spec)).id;
        let started = host.answer();
        assert!(matches!(started, GuestMessage::Started { pid: 1.. }), "{started:?}");
        let mut context = Self { host, id, lines: Vec::new() };
        let ready = context.until(|event| *event == ContextEvent::Ready);
        assert_eq!(ready.exit, None, "{ready:?}");
        context
    }

    fn call(&mut self, call: &ContextCall) {
        let mut line = serde_json::to_vec(call).unwrap();
        line.push(b'\n');
        self.host.send_frame(Kind::Data, &line);
    }

    fn send(&mut self, code: &str) {
        let (code, traceparent) = (code.into(), None);
        self.call(&ContextCall::Run { code, traceparent, max_image_bytes: None });
    }

    pub fn run(&mut self, code: &str) -> Ran {
        self.send(code);
        self.finish()
    }

    /// Runs `code` as a part of the span `parent`.
    pub fn run_below(&mut self, code: &str, parent: &str) -> Ran {
        let (code, traceparent) = (code.into(), Some(parent.into()));
        self.call(&ContextCall::Run { code, traceparent, max_image_bytes: None });
        self.finish()
    }

    /// Runs `code` with figures of at most so many bytes.
    pub fn run_with_images(&mut self, code: &str, max_image_bytes: u64) -> Ran {
        let (code, max_image_bytes) = (code.into(), Some(max_image_bytes.to_string()));
        self.call(&ContextCall::Run { code, traceparent: None, max_image_bytes });
        self.finish()
    }

    fn interrupt(&mut self) {
        self.host.send(&HostMessage::Signal { signal: SignalName::SigInt });
    }

    fn finish(&mut self) -> Ran {
        self.until(|event| matches!(event, ContextEvent::Done { .. }))
    }

    /// Interrupts the run until it is over, as the daemon does.
    fn finish_interrupted(&mut self, by: InterruptedBy) -> Ran {
        self.interrupt();
        if by == InterruptedBy::Call {
            self.call(&ContextCall::Interrupt);
        }
        if by == InterruptedBy::Signal { self.finish() } else { self.finish_insisting() }
    }

    fn finish_insisting(&mut self) -> Ran {
        let mut frames = BytesMut::new();
        encode_message(&HostMessage::Signal { signal: SignalName::SigInt }, &mut frames);
        let mut stream = self.host.stream.try_clone().unwrap();
        let (over, ended) = mpsc::channel::<()>();
        let insisting = thread::spawn(move || {
            while ended.recv_timeout(INTERRUPT_AGAIN) == Err(RecvTimeoutError::Timeout) {
                stream.write_all(&frames).unwrap();
            }
        });
        let ran = self.finish();
        drop(over);
        insisting.join().unwrap();
        ran
    }

    /// Reads until the event that is looked for, or until the interpreter has ended.
    fn until(&mut self, last: impl Fn(&ContextEvent) -> bool) -> Ran {
        let mut ran = Ran::default();
        loop {
            while let Some(end) = self.lines.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.lines.drain(..=end).collect();
                let event = event(&line);
                if let ContextEvent::Result { data } = &event {
                    ran.result = data.get("text/plain");
                }
                ran.events.push(event);
                if ran.events.last().is_some_and(&last) {
                    return ran;
                }
            }
            let frame = self.host.frame().expect("connection is open");
            let text = || String::from_utf8_lossy(&frame.payload).into_owned();
            if matches!(frame.kind, Kind::Stdout | Kind::Stderr) {
                ran.output.push_str(&text());
            }
            match frame.kind {
                Kind::Stdout => ran.stdout.push_str(&text()),
                Kind::Stderr => ran.stderr.push_str(&text()),
                Kind::Data => self.lines.extend_from_slice(&frame.payload),
                _ => match frame.message().unwrap() {
                    GuestMessage::Exited(exit) => {
                        ran.exit = Some(exit);
                        return ran;
                    }
                    other => panic!("expected the exit, got {other:?}"),
                },
            }
        }
    }
}

#[test]
fn every_language_remembers_and_tells_results_and_errors() {
    let cases = [
        ("python", "x = 20\nprint('set')", "x * 2 + 2", "42", "1 / 0", "ZeroDivisionError"),
        ("javascript", "const x = 20; console.log('set')", "x * 2 + 2", "42", "nope", "Reference"),
        ("shell", "x=20; echo set", "cd /usr; false", "", "exit 3", "ExitCode"),
    ];
    for (language, set, use_it, result, fail, error) in cases {
        let Some(guest) = guest(language) else { continue };
        let mut context = Context::open(&guest, language);
        let ran = context.run(set);
        assert_eq!(ran.stdout, "set\n", "{ran:?}");
        let begun = &ran.events[0];
        assert!(matches!(begun, ContextEvent::Started { execution_count: 1, .. }), "{begun:?}");
        assert_eq!(ran.events[1..], [ContextEvent::Done { execution_count: 1 }]);
        let ran = context.run(use_it);
        assert_eq!(ran.result().unwrap_or_default(), result, "{ran:?}");
        let ran = context.run(fail);
        assert!(ran.error().unwrap()[0].starts_with(error), "{ran:?}");
        assert_eq!(ran.events.last(), Some(&ContextEvent::Done { execution_count: 3 }));
    }
}

#[test]
fn shell_keeps_variables_functions_and_directory() {
    let Some(guest) = guest("shell") else { return };
    let mut context = Context::open(&guest, "shell");
    context.run("declare -A map; map[a]=1; f() { echo \"f $1\"; }; cd /usr; false");
    let ran = context.run("echo $? ${map[a]} $PWD; f 2");
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("1 1 /usr\nf 2\n", ""));
    for (code, status) in [
        ("exit 3", "3"),
        ("f() { exit 4; echo no; }; f; echo no", "4"),
        ("set -e; false; echo no", "1"),
        ("if then", "2"),
        ("echo a; echo b\0", "2"),
        ("echo ${unset?}; echo no", "1"),
        ("set -u; echo $unset; echo no", "1"),
        ("kill -TERM $$; echo no", "143"),
        ("exec sh -c 'exit 6'; echo no", "6"),
    ] {
        let ran = context.run(code);
        assert_eq!(ran.error().map(|error| error[1]), Some(status), "{code}: {ran:?}");
        assert_eq!(ran.stdout, "", "{code}");
    }
    let ran = context.run("echo before; break; echo after");
    assert_eq!((ran.stdout.as_str(), ran.error()), ("before\nafter\n", None));
    let ran = context.run("echo \"[$(cat)]\" \"quoted\" '\\n\t' é");
    assert_eq!(ran.stdout, "[] quoted \\n\t é\n");
}

#[test]
fn a_shell_that_exits_keeps_its_variables_and_drops_its_options_and_traps() {
    let Some(guest) = guest("shell") else { return };
    let mut context = Context::open(&guest, "shell");
    for leave in [
        "exit 3",
        "set -e; false",
        "set -u; echo $nobody",
        "g() { local x=2; exit 4; }; g > /dev/null",
        "while read -r line; do exit 5; done < /etc/passwd",
        "if then",
        "exec > /dev/null 2>&1; exit 6",
        "exec sh -c 'exit 7' > /dev/null",
        "kill -HUP $$",
        "eval 'trap \"exit 8\" DEBUG'",
        "shopt -s lastpipe; echo a | exit 9",
    ] {
        let code = format!(
            "x=1; f() {{ echo f $x; }}; alias a=f; cd /tmp; set -x +x -C -o pipefail; set -- p; umask 27
trap 'echo err' ERR; trap 'echo bye' EXIT; trap : USR1; exec 7>&1
{leave}
echo never"
        );
        let ran = context.run(&code);
        assert!(ran.error().is_some_and(|error| error[0] == "ExitCode"), "{leave}: {ran:?}");
        assert!(!ran.stdout.contains("never"), "{leave}: {ran:?}");
        let ran =
            context.run("a; echo $PWD $1 $(umask) $-; set -o | grep pipefail; trap; echo to 7 >&7");
        let right = "f 1\n/tmp p 0027 hBs\npipefail       \toff\nto 7\n";
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), (right, ""), "{leave}");
    }
}

#[test]
fn the_trap_of_a_shell_on_exit_runs_once_when_it_exits() {
    let Some(guest) = guest("shell") else { return };
    let mut context = Context::open(&guest, "shell");
    assert_eq!(context.run("work=$(mktemp -d); trap 'rm -r $work; echo gone' EXIT").stdout, "");
    assert_eq!(context.run("ls -d $work | wc -l").stdout, "1\n");
    let ran = context.run("echo working; exit 4; echo never");
    assert_eq!((ran.stdout.as_str(), ran.error().unwrap()[1]), ("working\ngone\n", "4"));
    assert_eq!(context.run("ls -d $work 2>&1 | grep -c 'No such'; exit").stdout, "1\n");
}

#[test]
fn a_shell_reads_code_of_any_size_and_every_character() {
    let Some(guest) = guest("shell") else { return };
    let mut context = Context::open(&guest, "shell");
    let odd = "\u{1}\u{7f}\u{80}é\u{2028}日🐚\u{10ffff}\\\"/\t";
    assert_eq!(context.run(&format!("printf %s '{odd}'")).stdout, odd);
    let lines = ": some words of a line\n".repeat(100_000);
    assert_eq!(context.run(&format!("{lines}echo end")).stdout, "end\n");
    let ran = context.run(&format!("x='{}'; echo ${{#x}}", "y".repeat(6 << 20)));
    assert_eq!(ran.stdout, "6291456\n");
    let ran = context.run("x=1\0; echo never");
    assert_eq!((ran.stdout.as_str(), ran.error().unwrap()[1]), ("", "2"));
    assert!(ran.stderr.contains("NUL"), "{ran:?}");
}

#[test]
fn a_shell_that_cannot_be_a_context_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let run = shell_context(dir.path());
    // Any other program stands for a Bash that lacks what is needed.
    let said = Command::new("/bin/cat").env("LD_PRELOAD", run.last().unwrap()).output().unwrap();
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(!said.status.success() && text.contains("this Bash has no reader_loop"), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn python_is_a_fork_of_the_zygote_and_has_its_surroundings() {
    let Some(guest) = guest("python") else { return };
    let mut host = guest.greet();
    host.send(&HostMessage::Settle);
    let answer = host.answer();
    let GuestMessage::Settled(settled) = answer else { panic!("{answer:?}") };
    assert_eq!(settled.zygote_ready, Some(true));
    let spec = ContextSpec {
        cwd: Some("/usr".into()),
        env: [("COLOUR".into(), "red".into())].into(),
        ..ContextSpec::default()
    };
    let mut context = Context::open_with(&guest, spec);
    let ran = context.run(
        "import os, sys\nos.getcwd(), os.environ['COLOUR'], __name__, sys.argv, sys.path[0], \
         '__file__' in globals(), sys.stdin.read()",
    );
    assert_eq!(ran.result(), Some("('/usr', 'red', '__main__', [''], '', False, '')"));
    let ran = context.run("os._exit(7)");
    let exit = ran.exit.expect("it ended");
    assert_eq!((exit.exit_code, exit.started_by), (7, Some(emberd_proto::StartedBy::Zygote)));
    context.host.ping();
}

#[test]
fn python_shows_what_a_console_would() {
    let Some(guest) = guest("python") else { return };
    let mut context = Context::open(&guest, "python");
    let result = |context: &mut Context, code: &str| {
        let ran = context.run(code);
        ran.result().map_or_else(|| panic!("no result: {ran:?}"), str::to_owned)
    };
    assert_eq!(result(&mut context, "import asyncio\nawait asyncio.sleep(0, 7)"), "7");
    assert_eq!(result(&mut context, "_ + 1"), "8");
    assert_eq!(context.run("3;").events.len(), 2);
    assert_eq!(context.run("None").events.len(), 2);
    context.run("def f(n):\n    return 1 // n");
    let ran = context.run("f(\n    0)");
    let [name, value, traceback] = ran.error().unwrap();
    assert_eq!((name, value), ("ZeroDivisionError", "integer division or modulo by zero"));
    assert!(traceback.contains("return 1 // n") && traceback.contains("<run 6>"), "{traceback}");
    assert!(!traceback.contains("context.py"), "{traceback}");
    for (code, name) in [
        ("import sys; sys.exit(3)", "SystemExit"),
        ("exit()", "SystemExit"),
        ("input()", "EOFError"),
        ("x = = 1", "SyntaxError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("class A:\n  def __repr__(self): raise RuntimeError\nA()", "RuntimeError"),
    ] {
        let ran = context.run(code);
        assert_eq!(ran.error().map(|error| error[0]), Some(name), "{code}: {ran:?}");
        assert!(!ran.error().unwrap()[2].contains("context.py"), "{code}: {ran:?}");
    }
    let shown = "class H:\n  def _repr_html_(self): return '<b>'\n  \
                 def _repr_png_(self): return b'abc'\n  \
                 def _repr_json_(self): return {'a': [1]}\ndisplay(H())";
    let ran = context.run(shown);
    let ContextEvent::Display { data } = &ran.events[1] else { panic!("{ran:?}") };
    for (kind, expect) in [
        ("text/html", json!("<b>")),
        ("image/png", json!("YWJj")),
        ("application/json", json!({"a": [1]})),
    ] {
        assert_eq!(data.get::<Value>(kind), Some(expect));
    }
    let ran = context.run("print('\\ud800'); '\\ud800'.join('ab')");
    assert_eq!(ran.error(), None, "{ran:?}");
}

#[test]
fn output_comes_before_the_event_that_follows_it() {
    let Some(guest) = guest("python") else { return };
    let mut context = Context::open(&guest, "python");
    // Larger than a pipe, and without a line's end that would flush it.
    let ran = context.run("import sys\nprint('x' * (1 << 20), end=''); sys.stderr.write('y' * 9)");
    assert_eq!((ran.stdout.len(), ran.stderr.as_str()), (1 << 20, "yyyyyyyyy"));
    assert_eq!(ran.result(), Some("9"));
}

#[test]
fn large_values_are_cut_and_that_is_said() {
    let Some(guest) = guest("python") else { return };
    let mut context = Context::open(&guest, "python");
    let ran = context.run("'x' * (30 << 20)");
    assert!(ran.result().unwrap().ends_with("more characters left out]"));
    let ran = context.run("display({'image/png': b'x' * (20 << 20), 'text/plain': 'a'}, raw=True)");
    let ContextEvent::Display { data } = &ran.events[1] else { panic!("{ran:?}") };
    let note: String = data.get("text/plain").unwrap();
    assert!(note.starts_with("a\n[image/png left out"), "{note}");
    assert_eq!(data.kinds(), ["text/plain"]);
}

/// Interrupts each piece of code, which says "up", and sees the variable `x` outlive it.
fn interrupt_each(language: &str, by: InterruptedBy, set: &str, get: &str, endless: &[&str]) {
    let Some(guest) = guest(language) else { return };
    let mut context = Context::open(&guest, language);
    context.run(set);
    for code in endless {
        // Nothing runs: it is nobody's.
        context.interrupt();
        context.send(code);
        let begun = context.until(|event| matches!(event, ContextEvent::Started { .. }));
        let ContextEvent::Started { interrupted_by, .. } = begun.events[0] else { unreachable!() };
        assert_eq!(interrupted_by, by);
        // What it prints may overtake the event.
        let up = if begun.stdout.is_empty() { context.host.line() } else { begun.stdout };
        assert_eq!(up.trim_end(), "up");
        let ran = context.finish_interrupted(by);
        assert_eq!(ran.error().map(|e| e[0]), Some("KeyboardInterrupt"), "{code}: {ran:?}");
        assert_eq!(ran.stdout, "", "{code}");
        assert_eq!(context.run(get).stdout, "1\n", "{code}");
    }
}

#[test]
fn interrupt_ends_the_run_of_python_and_not_the_context() {
    let endless = [
        "print('up')\nwhile True: pass",
        "print('up'); import time; time.sleep(1000)",
        "print('up'); import asyncio; await asyncio.sleep(1000)",
        "print('up'); import subprocess as s; s.run(['sleep', '1000'])",
        "print('up')\nwhile True: display('x' * 100000)",
    ];
    interrupt_each("python", InterruptedBy::Signal, "x = 1", "print(x)", &endless);
}

#[test]
fn interrupt_ends_the_run_of_node_and_not_the_context() {
    let endless = [
        "console.log('up'); while (true);",
        "console.log('up'); await new Promise(() => {})",
        "await null; console.log('up'); while (true);",
        "await new Promise(() => setTimeout(() => { console.log('up'); while (true); }, 1))",
        "await new Promise(() => process.nextTick(() => { console.log('up'); while (true); }))",
        "console.log('up'); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)",
        "console.log('up'); require('child_process').execSync('sleep 1000'); while (true);",
        "console.log('up'); ({ [require('util').inspect.custom]() { while (true); } })",
        "console.log('up'); while (true) display('x'.repeat(100000));",
    ];
    interrupt_each("javascript", InterruptedBy::Call, "var x = 1", "console.log(x)", &endless);
}

#[test]
fn interrupt_ends_the_run_of_a_shell_and_not_the_context() {
    let endless = [
        "sh -c 'echo up; exec sleep 1000'; while :; do sleep 1000; done",
        "echo up; while :; do :; done",
        "echo up; while :; do ls / > /dev/null; done",
        "f() { echo up; while :; do sleep 1000 | sleep 1000; done; }; f",
        "echo up; y=$(sleep 1000); echo no",
        "echo up; sleep 1000 && echo no",
        "sleep 1000 & echo up; wait",
        "set -e; trap ': $?' ERR EXIT; echo up; sleep 1000",
        "trap 'sleep 1000' EXIT; echo up; exit 3",
        "echo up; (while :; do :; done) | cat",
        "eval 'f() { echo up; exec sleep 1000; }'; f < /dev/null",
    ];
    interrupt_each("shell", InterruptedBy::RepeatedSignals, "x=1", "echo $x", &endless);
}

#[test]
fn context_outlives_its_connection_until_it_is_deleted() {
    for language in ["python", "shell"] {
        let Some(guest) = guest(language) else { continue };
        let mut context = Context::open(&guest, language);
        let pid = match language {
            "python" => context.run("import os; x = 7; print(os.getpid())").stdout,
            _ => context.run("x=7; echo $$").stdout,
        };
        let id = context.id;
        context.host.leave();
        let mut host = guest.greet();
        host.send(&HostMessage::List);
        let GuestMessage::Program(program) = host.answer() else { panic!("no program") };
        assert_eq!(host.answer(), GuestMessage::Done);
        assert_eq!((program.id, program.received, program.ended), (id, 1, false));
        host.begin(&HostMessage::Attach { id, seq: program.next });
        let mut context = Context { host, id, lines: Vec::new() };
        let code = if language == "python" { "print(x)" } else { "echo $x" };
        assert_eq!(context.run(code).stdout, "7\n");
        let mut other = guest.greet();
        other.send(&HostMessage::Delete { id });
        assert_eq!(other.answer(), GuestMessage::Done);
        await_end(&guest, pid.trim().parse().unwrap());
        while context.host.frame().is_some() {}
    }
}

#[test]
fn a_call_that_was_cut_is_as_if_never_sent() {
    let Some(guest) = guest("shell") else { return };
    let mut context = Context::open(&guest, "shell");
    let id = context.id;
    context.host.send_frame(Kind::Data, b"{\"call\":\"run\",\"code\":\"echo ne");
    context.host.leave();
    let mut host = guest.greet();
    let attached = host.begin(&HostMessage::Attach { id, seq: u64::MAX });
    assert_eq!(attached.received, 0);
    let mut context = Context { host, id, lines: Vec::new() };
    assert_eq!(context.run("echo whole").stdout, "whole\n");
}

#[test]
fn crash_is_told_with_its_signal() {
    let Some(guest) = guest("python") else { return };
    let mut context = Context::open(&guest, "python");
    let ran = context.run(
        "import os, signal\nprint('last words', flush=True)\n\
                           os.kill(os.getpid(), signal.SIGSEGV)",
    );
    assert_eq!((ran.stdout.as_str(), ran.exit.unwrap().signal), ("last words\n", Some(11)));
}

#[test]
fn nonsense_passes_as_it_is_for_the_host_to_judge() {
    let Some(guest) = guest("shell") else { return };
    let mut host = guest.greet();
    let language = Some("nonsense".to_owned());
    host.begin(&HostMessage::Context(ContextSpec { language, ..ContextSpec::default() }));
    assert!(matches!(host.answer(), GuestMessage::Started { .. }));
    assert_eq!(&host.frame().unwrap().payload[..], b"what\n");
    host.send_frame(Kind::Data, b"echo\n");
    let frame = host.frame().unwrap();
    assert_eq!((frame.kind, &frame.payload[..]), (Kind::Stdout, &b"echo\n"[..]));
}

#[test]
fn contexts_run_as_whom_they_are_told_to() {
    let is_root = nix::unistd::geteuid().is_root();
    if !emberd_testing::needs(is_root, "only root can run a program as somebody else") {
        return;
    }
    let Some(guest) = guest("shell") else { return };
    let mut host = guest.greet();
    host.begin(&HostMessage::Context(ContextSpec {
        language: Some("whoami".into()),
        user: Some("nobody".into()),
        ..ContextSpec::default()
    }));
    assert!(matches!(host.answer(), GuestMessage::Started { .. }));
    assert_eq!(host.line(), "nobody /nonexistent /");
    // Nor is it a fork of the zygote, which is root's.
    let language = Some("python".to_owned());
    let spec = ContextSpec { language, user: Some("root".into()), ..ContextSpec::default() };
    let mut context = Context::open_with(&guest, spec);
    let exit = context.run("import os; os._exit(7)").exit.expect("it ended");
    assert_eq!((exit.exit_code, exit.started_by), (7, Some(emberd_proto::StartedBy::Spawn)));
}

#[test]
fn what_cannot_be_opened_is_refused() {
    let Some(guest) = guest("shell") else { return };
    let mut host = guest.greet();
    let spec = |edit: fn(&mut ContextSpec)| {
        let mut spec = ContextSpec { language: Some("shell".into()), ..ContextSpec::default() };
        edit(&mut spec);
        spec
    };
    let cases: [(ContextSpec, RefusalCode, &str); 4] = [
        (spec(|spec| spec.language = Some("cobol".into())), RefusalCode::NotFound, "it has python"),
        (spec(|spec| spec.cwd = Some("/nope".into())), RefusalCode::NotFound, "/nope"),
        (spec(|spec| spec.cwd = Some("/etc/passwd".into())), RefusalCode::WrongType, "passwd"),
        (spec(|spec| spec.user = Some("no-such".into())), RefusalCode::NotFound, "no user"),
    ];
    for (spec, code, message) in cases {
        host.begin(&HostMessage::Context(spec));
        let refusal = host.refusal();
        assert_eq!(refusal.code, code);
        assert!(refusal.message.contains(message), "{refusal:?}");
    }
    host.ping();
    let shell = Guest::shell();
    let mut host = shell.greet();
    host.begin(&HostMessage::Context(ContextSpec::default()));
    assert!(host.refusal().message.contains("has no contexts"));
}
