//! Input and output while a program runs.

use emberd_proto::exec::STDIN_BYTES_MAX;
use emberd_proto::{ExecSpec, Kind};

use crate::guest::Guest;

#[test]
fn input_reaches_the_program_whole() {
    let guest = Guest::shell();
    let input: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let outcome = guest.greet().exec(&ExecSpec::new("cat"), &input[..]);
    assert!(outcome.stdout == input);
}

#[test]
fn input_may_be_a_conversation() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    host.start(&ExecSpec::new("while read line; do echo \"<$line>\"; done; echo end"));
    for word in ["one", "two"] {
        host.send_frame(Kind::Stdin, format!("{word}\n").as_bytes());
        assert_eq!(host.line(), format!("<{word}>"));
    }
    host.send_frame(Kind::StdinEnd, b"");
    assert_eq!(host.outcome().text(), "end");
}

#[test]
fn largest_input_to_a_program_that_does_not_read() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let input = vec![b'x'; STDIN_BYTES_MAX];
    let outcome = host.exec(&ExecSpec::new("echo never read; sleep 0.1"), &input);
    assert_eq!((outcome.text(), outcome.exit.exit_code), ("never read", 0));
    let outcome = host.exec(&ExecSpec::new("exec <&-; head -c 300000 /dev/zero"), &input);
    assert_eq!((outcome.stdout.len(), outcome.exit.exit_code), (300_000, 0));
    host.ping();
}

#[test]
fn more_than_the_largest_input_closes_the_connection() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    host.start(&ExecSpec::new("sleep 60"));
    let chunk = vec![b'x'; STDIN_BYTES_MAX / 32];
    for _ in 0..32 {
        host.send_frame(Kind::Stdin, &chunk);
    }
    host.send_frame(Kind::Stdin, b"one more");
    assert_eq!(host.frame(), None);
    guest.greet().ping();
}

#[test]
fn input_after_the_end_of_the_program_is_dropped() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    host.start(&ExecSpec::new("echo done"));
    assert_eq!(host.outcome().text(), "done");
    host.send_frame(Kind::Stdin, b"too late");
    host.send_frame(Kind::StdinEnd, b"");
    host.ping();
}

#[test]
fn output_written_just_before_the_end_is_not_lost() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    for _ in 0..50 {
        let outcome = host.exec(&ExecSpec::new("head -c 60000 /dev/zero; kill -KILL $$"), b"");
        assert_eq!(outcome.stdout.len(), 60_000);
    }
}

#[test]
fn background_child_that_keeps_stdout_does_not_hold_the_call() {
    let guest = Guest::shell();
    // Had it been held, the call would have ended at its time limit.
    let outcome = guest.run("sleep 600 & echo $!");
    assert!(!outcome.exit.timed_out);
    let child = outcome.text();
    // It lives on, and a later program may end it.
    let outcome = guest.run(&format!("kill {child} && echo it lived"));
    assert_eq!(outcome.text(), "it lived");
}

#[test]
fn background_child_that_writes_on_does_not_hold_the_call() {
    let guest = Guest::shell();
    let outcome = guest.run("yes & echo $! >&2; sleep 0.1");
    assert!(!outcome.exit.timed_out);
    let child = str::from_utf8(&outcome.stderr).unwrap().trim_end();
    // Somebody goes on reading, so that it lives until it is ended.
    let outcome = guest.run(&format!("kill -0 {child} && kill {child}"));
    assert_eq!(outcome.exit.exit_code, 0);
}
