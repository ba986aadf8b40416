//! What one program gets and what is told about its end.

use std::thread;

use emberd_proto::ExecSpec;
use emberd_proto::exec::OUTPUT_BYTES_MAX;

use crate::guest::{Guest, Outcome, SHELL_PACK};

/// What the host learns of an ordinary end: exit code, signal, error.
fn end(outcome: &Outcome) -> (i32, Option<i32>, Option<&str>) {
    (outcome.exit.exit_code, outcome.exit.signal, outcome.exit.error.as_deref())
}

#[test]
fn success() {
    let outcome = Guest::shell().run("echo out; echo err >&2");
    assert_eq!(outcome.stdout, b"out\n");
    assert_eq!(outcome.stderr, b"err\n");
    assert_eq!(end(&outcome), (0, None, None));
    assert!(!outcome.exit.timed_out && !outcome.exit.stdout_truncated);
    assert!(outcome.exit.duration_us > 0);
}

#[test]
fn python() {
    let have_python = std::process::Command::new("python3").arg("-V").output().is_ok();
    if !emberd_testing::needs(have_python, "no python3 on this machine") {
        return;
    }
    let pack = r#"{"name":"python","run":["python3","{file}"],"file_name":"main.py"}"#;
    let outcome = Guest::with_pack(pack).run("import sys; print(6 * 7); sys.exit(3)");
    assert_eq!(outcome.text(), "42");
    assert_eq!(end(&outcome), (3, None, None));
}

#[test]
fn arguments_environment_and_working_directory() {
    let guest = Guest::shell();
    let mut spec = ExecSpec::new("echo $#:$1:$2; echo $INHERITED:$PACK:$OVER:$MINE; pwd; umask");
    spec.args = vec!["a b".into(), "é".into()];
    spec.env = [("MINE".into(), "exec".into()), ("OVER".into(), "exec".into())].into();
    spec.cwd = Some("/usr".into());
    let outcome = guest.greet().exec(&spec, b"");
    assert_eq!(
        outcome.text().lines().take(3).collect::<Vec<_>>(),
        ["2:a b:é", "agent:shell:exec:exec", "/usr"]
    );
}

#[test]
fn words_for_the_agent_reach_its_programs_unchanged() {
    let guest = Guest::shell_after("export LIBC_CAPS=caps.hw=-A,-B");
    assert_eq!(guest.run("sh -c 'echo $LIBC_CAPS'").text(), "caps.hw=-A,-B");
}

#[test]
fn working_directory_starts_at_home() {
    let guest = Guest::shell();
    let home = guest.dir().canonicalize().unwrap();
    assert_eq!(guest.run("pwd -P").text(), home.to_str().unwrap());
    std::fs::create_dir(home.join("sub")).unwrap();
    let mut spec = ExecSpec::new("pwd -P");
    spec.cwd = Some("sub".into());
    let outcome = guest.greet().exec(&spec, b"");
    assert_eq!(outcome.text(), home.join("sub").to_str().unwrap());
}

#[test]
fn code_is_private_and_gone_afterwards() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let code = "stat -c '%a %n' \"$0\" \"$(dirname \"$0\")\"; touch \"$0\".more";
    let outcome = host.exec(&ExecSpec::new(code), b"");
    let file = guest.dir().join("agent.sock.scratch/0/main.sh");
    let dir = file.parent().unwrap();
    assert_eq!(outcome.text(), format!("600 {}\n700 {}", file.display(), dir.display()));
    // Tidied up after the answer, and before the next one.
    host.ping();
    assert!(!dir.exists());
}

#[test]
fn exit_codes_pass_through() {
    let guest = Guest::shell();
    for code in [1, 7, 42, 255] {
        assert_eq!(end(&guest.run(&format!("exit {code}"))), (code, None, None));
    }
}

#[test]
fn signal_death_is_told() {
    let guest = Guest::shell();
    assert_eq!(end(&guest.run("kill -KILL $$")), (137, Some(9), None));
    assert_eq!(end(&guest.run("kill -TERM $$")), (143, Some(15), None));
    assert_eq!(end(&guest.run("kill -40 $$")), (168, Some(40), None));
}

#[test]
fn programs_start_with_default_signals() {
    let guest = Guest::shell_with_inheritance();
    let outcome = guest.run("sed -n 's/^Sig\\(Blk\\|Ign\\):.//p' /proc/self/status");
    for mask in outcome.text().lines() {
        // 32 and 33 belong to the C library, which lets nobody change them.
        let signals = u64::from_str_radix(mask, 16).unwrap() & !(0b11 << 31);
        assert_eq!(signals, 0, "{mask}");
    }
}

#[test]
fn programs_inherit_no_descriptor() {
    let guest = Guest::shell_with_inheritance();
    let outcome = guest.run("cd /proc/$$/fd; for fd in *; do readlink $fd; done");
    let known = |fd: &&str| fd.starts_with("pipe:") || fd.ends_with("main.sh");
    assert_eq!(outcome.text().lines().filter(|fd| !known(fd)).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(outcome.text().lines().count(), 4);
}

#[test]
fn missing_interpreter_is_named() {
    let pack = SHELL_PACK.replace("/bin/sh", "/nowhere/interpreter");
    let guest = Guest::with_pack(&pack);
    let outcome = guest.run("");
    let error = "cannot run /nowhere/interpreter: No such file or directory (os error 2)";
    assert_eq!(end(&outcome), (-1, None, Some(error)));
    assert!(!outcome.exit.timed_out);
    assert_eq!(std::fs::read_dir(guest.dir().join("agent.sock.scratch")).unwrap().count(), 0);
}

#[test]
fn bad_working_directory_is_named() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let mut check = |cwd: &str, reason: &str| {
        let mut spec = ExecSpec::new("pwd");
        spec.cwd = Some(cwd.into());
        let outcome = host.exec(&spec, b"");
        let error = format!("cannot enter the directory {cwd}: {reason}");
        assert_eq!(end(&outcome), (-1, None, Some(error.as_str())));
    };
    check("/nowhere", "No such file or directory (os error 2)");
    check("/etc/passwd", "not a directory");
}

#[test]
fn output_beyond_the_cap_is_cut_and_flagged() {
    let guest = Guest::shell();
    let outcome = guest.run("head -c 9000000 /dev/zero; echo end >&2; exit 5");
    assert_eq!(outcome.stdout.len(), OUTPUT_BYTES_MAX);
    assert!(outcome.exit.stdout_truncated && !outcome.exit.stderr_truncated);
    assert_eq!(outcome.stderr, b"end\n");
    assert_eq!(end(&outcome), (5, None, None));
    let exactly = guest.run(&format!("head -c {OUTPUT_BYTES_MAX} /dev/zero >&2"));
    assert_eq!(exactly.stderr.len(), OUTPUT_BYTES_MAX);
    assert!(!exactly.exit.stderr_truncated);
}

#[test]
fn output_need_not_be_text() {
    let outcome = Guest::shell().run(r"printf 'a\377\000\n'");
    assert_eq!(outcome.stdout, b"a\xff\0\n");
}

#[test]
fn fifty_at_once() {
    let guest = Guest::shell();
    thread::scope(|scope| {
        for number in 0..50 {
            let guest = &guest;
            scope.spawn(move || {
                let spec = ExecSpec::new(format!("read line; echo $line {number}; exit {number}"));
                let outcome = guest.greet().exec(&spec, b"hello\n");
                assert_eq!(outcome.text(), format!("hello {number}"));
                assert_eq!(end(&outcome), (number, None, None));
            });
        }
    });
}

#[test]
fn one_connection_a_hundred_times() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    for number in 0..100 {
        let outcome = host.exec(&ExecSpec::new(format!("echo {number}")), b"");
        assert_eq!(outcome.text(), number.to_string());
    }
}
