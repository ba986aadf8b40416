//! Contexts bring what notebooks and consoles bring: cells from the files in `cells`, each with
//! what it is to bring.

use std::fs;

use emberd_proto::{ContextEvent, ContextSpec};
use serde_json::{Value, json};

use crate::contexts::{Context, Ran, guest};
use crate::guest::Guest;

/// Cells of a file: code, and the lines that say what it brings.
fn cells(text: &str) -> Vec<(String, Vec<String>)> {
    let sections = text.split("=====\n").skip(1);
    let cell = |section: &str| {
        let (brings, code): (Vec<_>, Vec<_>) =
            section.lines().partition(|line| line.starts_with("→ "));
        (code.join("\n"), brings.into_iter().map(str::to_owned).collect())
    };
    sections.map(cell).collect()
}

/// What a run brought, in the words of the files.
fn brought(ran: &Ran) -> Vec<String> {
    let mut lines = Vec::new();
    for (stream, text) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
        if !text.is_empty() {
            lines.push(format!("→ {stream} {}", json!(text)));
        }
    }
    for event in &ran.events {
        lines.push(match event {
            ContextEvent::Display { data } => format!("→ display {}", json!(data)),
            ContextEvent::Result { data } => format!("→ result {}", json!(data)),
            ContextEvent::Error { name, .. } => format!("→ error {name}"),
            _ => continue,
        });
    }
    lines
}

/// As the lines are written here, whatever spaces and escapes the file has.
fn normal(line: &str) -> String {
    match line.find(['"', '{']).map(|at| (at, serde_json::from_str::<Value>(&line[at..]))) {
        Some((at, Ok(value))) => format!("{}{value}", &line[..at]),
        _ => line.to_owned(),
    }
}

fn check(language: &str, text: &str, cells_min: usize) {
    let Some(guest) = guest(language) else { return };
    let cells = cells(text);
    assert!(cells.len() >= cells_min, "{} cells", cells.len());
    let language = Some(language.to_owned());
    let spec = ContextSpec { language, cwd: Some("/".into()), ..ContextSpec::default() };
    let mut context = Context::open_with(&guest, spec);
    let mut wrong = Vec::new();
    for (code, brings) in cells {
        let ran = context.run(&code);
        let expect: Vec<_> = brings.iter().map(|line| normal(line)).collect();
        let found: Vec<_> = brought(&ran).iter().map(|line| normal(line)).collect();
        if found != expect {
            wrong.push(format!("{code}\n  is to bring {expect:#?}\n  and brings {found:#?}"));
        }
        assert_eq!(ran.exit, None, "it ended: {code}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn python_brings_what_a_notebook_brings() {
    check("python", include_str!("cells/python.txt"), 150);
}

#[test]
fn javascript_brings_what_a_console_brings() {
    check("javascript", include_str!("cells/javascript.txt"), 70);
}

/// What programs do to the objects that all code shares, and what goes on as before.
#[test]
fn javascript_shows_values_whatever_code_does_to_its_prototypes() {
    let Some(guest) = guest("javascript") else { return };
    let deeds = [
        "Array.prototype.toJSON = function () { return 'mine' }",
        "Object.prototype.toJSON = function () { return 'mine' }",
        "String.prototype.toJSON = () => 1",
        "JSON.stringify = () => 'x'; JSON.parse = () => { throw 1 }",
        "Array.prototype.join = Array.prototype.map = Array.prototype.slice = () => { throw 1 }",
        "for (const name of ['event', 'data', 'of', 'code', 'error', 'result', 'id', 'order'])\
         Object.defineProperty(Object.prototype, name, { get() { throw 1 }, set() { throw 2 } })",
        "for (const name of ['get', 'set', 'writable']) Object.prototype[name] = 5",
        "String.prototype.split = String.prototype.slice = String.prototype.indexOf = () => null",
        "RegExp.prototype.test = RegExp.prototype.exec = () => { throw 1 }",
        "Promise.prototype.then = () => { throw 1 }",
        "Promise = 1",
        "Error.prepareStackTrace = () => { throw 1 }",
        "Error.prepareStackTrace = () => 5",
        "Symbol.for = () => { throw 1 }",
        "Atomics.wait = Atomics.load = () => { throw 1 }",
        "Object.defineProperty(Array.prototype, Symbol.iterator, { value() { throw 1 } })",
        "MessagePort.prototype.postMessage = () => { throw 1 }",
        "Buffer.from = () => { throw 1 }",
        "Map.prototype.get = Map.prototype.set = () => { throw 1 }",
        "setImmediate = process.nextTick = () => { throw 1 }",
        "globalThis.Error = class {}; globalThis.Object = 1; globalThis.String = 2",
        "Object.freeze(Object.prototype); Object.freeze(Array.prototype)",
        "Object.defineProperty(Error, Symbol.hasInstance, { value() { throw 1 } })",
    ];
    for deed in deeds {
        let mut context = Context::open(&guest, "javascript");
        let ran = context.run(&format!("{deed}; 1 + 1"));
        assert_eq!(ran.result(), Some("2"), "{deed}: {ran:?}");
        let ran = context.run("console.log('printed'); [1]");
        assert_eq!((ran.stdout.as_str(), ran.result()), ("printed\n", Some("[ 1 ]")), "{deed}");
        let ran = context.run("throw new RangeError('r')");
        assert_eq!(ran.error().map(|error| error[1]), Some("r"), "{deed}: {ran:?}");
    }
}

#[test]
fn lines_of_both_streams_keep_their_order() {
    let codes = [
        (
            "python",
            "import subprocess, sys\nfor n in range(20):\n    print('a', n)\n    \
             print('b', n, file=sys.stderr)\n    \
             subprocess.run(['echo', 'c']) if n % 5 == 0 else print('c')\n    \
             print('d', end='', file=sys.stderr)\n    sys.stderr.write('\\n')",
        ),
        (
            "javascript",
            "for (let n = 0; n < 20; n++) { console.log('a', n); console.error('b', n); \
             console.log('c'); console.error('d') }",
        ),
    ];
    let lines = |n| [format!("a {n}"), format!("b {n}"), "c".into(), "d".into()];
    let expect: Vec<_> = (0..20).flat_map(lines).collect();
    for (language, code) in codes {
        let Some(guest) = guest(language) else { continue };
        let mut context = Context::open(&guest, language);
        let ran = context.run(code);
        assert_eq!(ran.error(), None, "{ran:?}");
        assert_eq!(ran.output.lines().collect::<Vec<_>>(), expect, "{language}");
    }
}

#[test]
fn forked_children_end_as_programs_and_say_nothing_to_the_host() {
    let Some(guest) = guest("python") else { return };
    let mut context = Context::open(&guest, "python");
    let ran = context.run(
        "import os, sys\nends = []\nfor code in (3, 0, None, 'a word'):\n    pid = os.fork()\n    \
         if pid == 0:\n        sys.exit(code)\n    \
         ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\nends",
    );
    assert_eq!((ran.result(), ran.stderr.as_str()), (Some("[3, 0, 0, 1]"), "a word\n"), "{ran:?}");
    for (child, status, stdout, stderr) in [
        ("print('child')", 0, "before|child\n", ""),
        ("1 / 0", 1, "before|", "ZeroDivisionError: division by zero\n"),
        ("os._exit(9)", 9, "before|", ""),
        ("display('shown')", 0, "before|'shown'\n", ""),
        ("raise KeyboardInterrupt", -2, "before|", "KeyboardInterrupt\n"),
    ] {
        let ran = context.run(&format!(
            "print('before', end='|')\nchild = os.fork()\nif child == 0:\n    {child}\nelse:\n    \
             status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n\
             status if child else 'of the child'"
        ));
        assert_eq!(ran.result(), Some(&*status.to_string()), "{child}: {ran:?}");
        assert_eq!(ran.stdout, stdout, "{child}: {ran:?}");
        assert!(ran.stderr.ends_with(stderr) && !ran.stderr.contains("context"), "{ran:?}");
    }
    let ran = context.run(
        "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as pool: \
         print(pool.map(abs, [-1, -2]))",
    );
    assert_eq!((ran.stdout.as_str(), ran.error()), ("[1, 2]\n", None), "{ran:?}");
}

#[test]
fn one_event_loop_lasts_and_goes_on_between_runs() {
    let Some(guest) = guest("python") else { return };
    let mut context = Context::open(&guest, "python");
    context.run("import asyncio\nasync def work():\n    await asyncio.sleep(0.01)\n    return 42");
    for make in ["asyncio.get_event_loop().create_task(work())", "asyncio.create_task(work())"] {
        assert_eq!(context.run(&format!("task = {make}")).error(), None, "{make}");
        assert_eq!(context.run("await task").result(), Some("42"), "{make}");
    }
    for run in [
        "asyncio.run(work())",
        "asyncio.get_event_loop().run_until_complete(work())",
        "x = await work()\nasyncio.run(work())",
        "with asyncio.Runner() as runner: x = runner.run(work())\nx",
    ] {
        assert_eq!(context.run(run).result(), Some("42"), "{run}");
    }
    let ran = context.run("async def f():\n    asyncio.run(asyncio.sleep(0))\nawait f()");
    assert_eq!(ran.error().map(|error| error[0]), Some("RuntimeError"), "{ran:?}");
    // Nothing awaits: the pipe tells when the task is through, between two runs.
    context.run(
        "import os, threading\ncame, went = os.pipe()\nasync def tell():\n    \
         os.write(went, b'x')\n    raise KeyError('told later')\n\
         asyncio.create_task(tell())\nNone",
    );
    // As it waits for this one, the loop runs.
    let ran = context.run("os.read(came, 1)");
    assert_eq!(ran.result(), Some("b'x'"));
    let told = ran.stderr + &context.run("import gc; gc.collect(); await asyncio.sleep(0)").stderr;
    assert!(told.contains("KeyError: 'told later'"), "{told}");
}

#[test]
fn what_goes_wrong_in_the_background_is_told_with_the_next_run() {
    let Some(guest) = guest("javascript") else { return };
    let mut context = Context::open(&guest, "javascript");
    let ran = context.run("Promise.reject(new Error('unheard')); 1");
    assert_eq!(ran.result(), Some("1"));
    assert!(ran.stderr.starts_with("Uncaught Error: unheard\n"), "{ran:?}");
    let ran = context.run("setImmediate(() => setImmediate(() => { throw new Error('late') })); 2");
    assert_eq!(ran.result(), Some("2"));
    let told = ran.stderr + &context.run("await new Promise(setImmediate)").stderr;
    assert!(told.contains("Uncaught Error: late"), "{told}");
    assert_eq!(context.run("process.exit(3)").error().map(|error| error[1]), Some("3"));
    let ran = context.run("throw new Error('\\ud800', { cause: new TypeError('inner') })");
    assert!(ran.error().unwrap()[2].contains("[cause]: TypeError: inner"), "{ran:?}");
}

#[test]
fn closed_and_replaced_streams_do_not_end_the_session() {
    let Some(guest) = guest("python") else { return };
    let mut context = Context::open(&guest, "python");
    for (code, error) in [
        ("import os; os.close(1); print('lost')", Some("OSError")),
        ("import sys; sys.stdout.close(); print('x')", Some("ValueError")),
        ("import sys; sys.stdout = None; print('x')", None),
        ("import sys; del sys.stderr", None),
        ("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); None", None),
    ] {
        let ran = context.run(code);
        assert_eq!(ran.error().map(|error| error[0]), error, "{code}: {ran:?}");
        let ran = context.run("print('there')");
        assert!(ran.stdout.ends_with("there\n") && ran.error().is_none(), "{code}: {ran:?}");
    }
}

/// What a context needs of matplotlib, which this machine may not have.
const MATPLOTLIB: [(&str, &str); 3] = [
    ("__init__.py", "rcParams = {'savefig.format': 'png'}"),
    (
        "figure.py",
        "class Figure:\n    lines = patches = texts = images = ()\n    axes = [1]\n    \
         dpi, size = 100, 0\n    \
         def savefig(self, file, dpi=100, **_):\n        \
         file.write(b'drawn' + bytes(int(self.size * dpi * dpi / 10000)))\n    \
         def __repr__(self): return '<Figure>'\n",
    ),
    (
        "pyplot.py",
        "from .figure import Figure\nopened = {}\ndef plot():\n    \
         opened[len(opened) + 1] = Figure()\ndef get_fignums(): return list(opened)\n\
         def figure(number): return opened[number]\ndef close(_): opened.clear()\n",
    ),
];

/// A context whose working directory, which is returned too, has that matplotlib.
fn context_with_matplotlib(guest: &Guest) -> (Context, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("matplotlib")).unwrap();
    for (name, content) in MATPLOTLIB {
        fs::write(dir.path().join("matplotlib").join(name), content).unwrap();
    }
    let cwd = Some(dir.path().to_str().unwrap().to_owned());
    (Context::open_with(guest, ContextSpec { cwd, ..ContextSpec::default() }), dir)
}

#[test]
fn figures_are_shown_with_the_run_that_drew_them_whatever_its_end() {
    let Some(guest) = guest("python") else { return };
    let (mut context, _dir) = context_with_matplotlib(&guest);
    let draw = "import matplotlib.pyplot as plt; plt.plot(); plt.plot()";
    for end in ["", "raise ValueError", "raise KeyboardInterrupt", "import sys; sys.exit()"] {
        let ran = context.run(&format!("{draw}\n{end}"));
        let drawn = json!("ZHJhd24=");
        let is_figure = |event: &&ContextEvent| match event {
            ContextEvent::Display { data } => data.get("image/png").as_ref() == Some(&drawn),
            _ => false,
        };
        assert_eq!(ran.events.iter().filter(is_figure).count(), 2, "{end}: {ran:?}");
        assert_eq!(ran.error().is_some(), !end.is_empty(), "{end}: {ran:?}");
        assert_eq!(context.run("print('next')").events.len(), 2, "{end}");
    }
}

#[test]
fn a_figure_is_drawn_again_until_it_fits_or_is_told_to_be_too_large() {
    let Some(guest) = guest("python") else { return };
    let (mut context, _dir) = context_with_matplotlib(&guest);
    let shown = |context: &mut Context, bytes: u64, max_image_bytes: u64| {
        let code = format!(
            "import matplotlib.pyplot as plt; plt.plot(); plt.figure(1).size = {bytes}; None"
        );
        let ran = context.run_with_images(&code, max_image_bytes);
        let forms = ran.events.iter().find_map(|event| match event {
            ContextEvent::Display { data } => Some(data.clone()),
            _ => None,
        });
        let forms = forms.unwrap_or_else(|| panic!("{ran:?}"));
        let image: String = forms.get("image/png").unwrap();
        let text: String = forms.get("text/plain").unwrap();
        (image.len() as u64 / 4 * 3, text)
    };
    let (bytes, text) = shown(&mut context, 1_000, 2_000);
    assert!(bytes >= 1_005 && text == "<Figure>", "{bytes} {text}");
    let (bytes, text) = shown(&mut context, 1_000_000, 100_000);
    assert!((50_000..=100_000).contains(&bytes), "{bytes} {text}");
    assert!(
        text.starts_with("<Figure>\n[image/png drawn at 28 dpi in place of 100, at "),
        "{text}"
    );
    // With the fewest dots it has a 25th of the bytes.
    let (bytes, text) = shown(&mut context, 1_000_000, 1_000);
    assert!((40_005..40_010).contains(&bytes), "{bytes} {text}");
    assert!(text.ends_with("it still has 40005, over the limit of 1000]"), "{text}");
    // The limit is that of a run.
    let ran = context.run("plt.plot(); plt.figure(1).size = 1_000_000; None");
    let whole = ran.events.iter().any(|event| match event {
        ContextEvent::Display { data } => {
            data.get::<String>("image/png").is_some_and(|image| image.len() > 1_000_000)
        }
        _ => false,
    });
    assert!(whole, "{ran:?}");
}
