//! Renewals off PID 1: checked, answered, and without any effect on the machine.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use bytes::BytesMut;
use emberd_proto::frame::encode_message;
use emberd_proto::{Decoder, GuestLimits, GuestMessage, HostMessage, RefusalCode, Renewal};

use crate::guest::Guest;

fn renewal() -> Renewal {
    Renewal {
        wall_clock_us: 1_000_000,
        entropy_base64: "AAAA".repeat(11),
        hostname: "not-this-machine".into(),
        machine_id: "0".repeat(32),
        boot_id: "00000000-0000-0000-0000-000000000000".into(),
    }
}

#[test]
fn renewal_is_answered_and_changes_nothing() {
    let machine = || {
        ["/proc/sys/kernel/hostname", "/proc/sys/kernel/random/boot_id", "/etc/machine-id"]
            .map(|file| fs::read_to_string(file).ok())
    };
    let before = machine();
    let guest = Guest::shell();
    let mut host = guest.greet();
    for _ in 0..2 {
        host.send(&HostMessage::Renew(renewal()));
        let GuestMessage::Renewed(renewed) = host.answer() else { panic!("not renewed") };
        assert!(renewed.wall_clock_us > Some(0), "{renewed:?}");
    }
    assert_eq!(machine(), before);
    assert_ne!(guest.run("date +%Y").text(), "1970");
}

#[test]
fn invalid_renewal_is_refused_and_the_connection_stays() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    host.send(&HostMessage::Renew(Renewal { machine_id: "none".into(), ..renewal() }));
    let refusal = host.refusal();
    assert_eq!(refusal.code, RefusalCode::Invalid);
    assert_eq!(refusal.message, "machine_id is not 32 lower-case hexadecimal digits");
    host.send(&HostMessage::Renew(Renewal { entropy_base64: "AAAA".into(), ..renewal() }));
    assert_eq!(host.refusal().message, "entropy is 3 bytes, not 32 to 256");
    host.ping();
}

#[test]
fn limits_are_checked_and_answered() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    for pids in [None, Some(16), Some(65_536)] {
        host.send(&HostMessage::Limit(GuestLimits { pids, disk_mib: Some(4096) }));
        assert_eq!(host.answer(), GuestMessage::Done);
    }
    host.send(&HostMessage::Limit(GuestLimits { pids: Some(15), ..GuestLimits::default() }));
    let refusal = host.refusal();
    assert_eq!(refusal.code, RefusalCode::Invalid);
    assert_eq!(refusal.message, "pids: 15 is not from 16 to 65536");
    host.ping();
}

#[test]
fn greeting_and_renewal_in_one_breath_are_answered_in_one() {
    let guest = Guest::shell();
    let mut host = UnixStream::connect(guest.socket()).unwrap();
    let mut said = BytesMut::new();
    encode_message(&HostMessage::hello(), &mut said);
    encode_message(&HostMessage::Renew(renewal()), &mut said);
    host.write_all(&said).unwrap();
    let mut piece = [0; 4096];
    let bytes = host.read(&mut piece).unwrap();
    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(&piece[..bytes]);
    let mut answers = Vec::new();
    while let Some(frame) = decoder.next_frame().unwrap() {
        answers.push(frame.message::<GuestMessage>().unwrap());
    }
    let in_order = matches!(answers[..], [GuestMessage::Welcome(_), GuestMessage::Renewed(_)]);
    assert!(in_order, "{answers:?}");
}
