//! What each built-in language pack promises to hold.

use emberd_api::ProcessSpec;

use super::processes::output;
use super::{Daemon, code};

#[tokio::test(flavor = "multi_thread")]
async fn python_has_its_standard_library_and_pip() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("python").await;
    // All modules but those Debian splits off or that need a display: named, not waved through.
    let imports = "import importlib.util, sys\n\
        left_out = {'idlelib', 'tkinter', '_tkinter', 'turtledemo', 'turtle'}\n\
        other_systems = {'msilib', 'nt', 'ntpath', 'winreg', 'winsound', 'msvcrt', '_winapi',\n\
            'nturl2path', '_msi', '_overlapped', '_scproxy', 'antigravity', 'this'}\n\
        names = sys.stdlib_module_names - left_out - other_systems\n\
        missing = [name for name in names if importlib.util.find_spec(name) is None]\n\
        [importlib.import_module(name) for name in names - set(missing)]\n\
        print(missing)";
    let outcome = daemon.exec(&id, &code(imports)).await;
    assert_eq!(outcome.stdout, "[]\n", "{}", outcome.stderr);
    let pip = "import subprocess, sys\n\
        print(subprocess.check_output([sys.executable, '-m', 'pip', '--version'], text=True))";
    assert!(daemon.output(&id, pip).await.starts_with("pip "));
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn shell_has_its_tools() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("shell").await;
    let tools = "for tool in bash dash ls grep sed awk find tar curl git ps; do\n\
        command -v $tool >/dev/null || echo \"$tool is missing\"\ndone";
    assert_eq!(daemon.output(&id, tools).await, "");
    let git = "git init -q repo && cd repo && git -c user.name=a -c user.email=a@b \
        commit -q --allow-empty -m first && git log --format=%s";
    assert_eq!(daemon.output(&id, git).await, "first\n");
    // A child in the background neither holds the call nor ends with it.
    daemon.output(&id, "sleep 1000 & echo $! > pid").await;
    daemon.output(&id, "kill -0 $(cat pid)").await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pack_has_what_every_machine_has() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let script = "for tool in ps pkill pgrep free top mount umount adduser; do\n\
        command -v $tool >/dev/null || echo \"$tool is missing\"\ndone\n\
        getent services https && getent protocols tcp";
    for pack in ["python", "shell", "node"] {
        let id = daemon.create(pack).await;
        let spec = ProcessSpec::of_argv(["bash", "-c", script]);
        let (told, _) = output(&daemon, &id, &spec).await;
        let words: Vec<_> = told.split_whitespace().collect();
        assert_eq!(words, ["https", "443/tcp", "tcp", "6", "TCP"], "{pack}");
    }
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn node_runs_javascript() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("node").await;
    let script = "const fs = require('fs');\n\
        console.log(process.platform, 6 * 7, process.argv.length, fs.readFileSync(0, 'utf8'));\n\
        process.exit(3);";
    let outcome = daemon.exec(&id, &code(script)).await;
    assert_eq!(
        (outcome.stdout.as_str(), outcome.exit.exit_code),
        ("linux 42 2 \n", 3),
        "{outcome:?}"
    );
    daemon.stop();
}
