//! Connections to ports, as the host has them carried.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use emberd_proto::frame::BULK_BYTES_MAX;
use emberd_proto::message::DIAL_WINDOW_BYTES;
use emberd_proto::{GuestMessage, HostMessage, Kind, RefusalCode};

use crate::guest::{Guest, Host};

/// A listener of the double's loopback, which is the host's, and its port.
fn listener(address: &str) -> (TcpListener, u16) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Dials and accepts.
fn dialed(host: &mut Host, address: &str) -> TcpStream {
    let (listener, port) = listener(address);
    host.send(&HostMessage::Dial { port });
    assert_eq!(host.answer(), GuestMessage::Dialed);
    listener.accept().unwrap().0
}

/// The data until its end.
fn data(host: &mut Host) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let frame = host.frame().expect("connection is open");
        match frame.kind {
            Kind::Data => data.extend_from_slice(&frame.payload),
            Kind::DataEnd => return data,
            _ => assert!(matches!(frame.message().unwrap(), GuestMessage::DataTaken { .. })),
        }
    }
}

#[test]
fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    for address in ["127.0.0.1", "::1"] {
        let mut server = dialed(&mut host, address);
        host.send_frame(Kind::Data, b"question");
        host.send_frame(Kind::DataEnd, b"");
        let mut question = String::new();
        server.read_to_string(&mut question).unwrap();
        assert_eq!(question, "question");
        server.write_all(b"answer").unwrap();
        drop(server);
        assert_eq!(data(&mut host), b"answer");
        assert_eq!(host.answer(), GuestMessage::Done);
        // The connection is idle again.
        host.ping();
    }
}

#[test]
fn port_that_ends_first_still_takes() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let mut server = dialed(&mut host, "127.0.0.1");
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(data(&mut host), b"");
    host.send_frame(Kind::Data, b"more");
    host.send_frame(Kind::DataEnd, b"");
    let mut taken = String::new();
    server.read_to_string(&mut taken).unwrap();
    assert_eq!(taken, "more");
    assert_eq!(host.answer(), GuestMessage::Done);
    host.ping();
}

#[test]
fn nothing_that_listens_is_a_refusal_that_names_the_port() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let (listener, port) = listener("127.0.0.1");
    drop(listener);
    host.send(&HostMessage::Dial { port });
    let refusal = host.refusal();
    assert_eq!(refusal.code, RefusalCode::NotFound);
    assert_eq!(refusal.message, format!("nothing listens on port {port} of the sandbox"));
    host.send(&HostMessage::Dial { port: 0 });
    assert_eq!(host.refusal().code, RefusalCode::Invalid);
    host.ping();
}

#[test]
fn window_is_given_back_as_the_port_reads() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let mut server = dialed(&mut host, "127.0.0.1");
    let piece = vec![7; BULK_BYTES_MAX];
    let total = 64 * BULK_BYTES_MAX;
    let reads = std::thread::spawn(move || {
        let mut taken = vec![0; total];
        server.read_exact(&mut taken).unwrap();
        taken
    });
    let (mut window, mut sent) = (DIAL_WINDOW_BYTES, 0);
    while sent < total {
        if window < piece.len() {
            let GuestMessage::DataTaken { bytes } = host.answer() else { panic!("no window") };
            window += bytes;
            continue;
        }
        host.send_frame(Kind::Data, &piece);
        window -= piece.len();
        sent += piece.len();
    }
    assert!(reads.join().unwrap().iter().all(|byte| *byte == 7));
}

#[test]
fn host_that_leaves_closes_the_port_even_if_that_does_not_read() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let mut server = dialed(&mut host, "127.0.0.1");
    for _ in 0..DIAL_WINDOW_BYTES / BULK_BYTES_MAX {
        host.send_frame(Kind::Data, &vec![7; BULK_BYTES_MAX]);
    }
    host.leave();
    // What was taken before comes first, then the end, or a reset.
    let mut taken = Vec::new();
    drop(server.read_to_end(&mut taken));
    assert!(taken.len() <= DIAL_WINDOW_BYTES);
    guest.greet().ping();
}

#[test]
fn host_that_leaves_after_its_end_closes_the_port() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let mut server = dialed(&mut host, "127.0.0.1");
    host.send_frame(Kind::DataEnd, b"");
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    host.leave();
    // Writes fail once the other side is closed.
    while server.write_all(&[7; 1024]).is_ok() {}
}

#[test]
fn answer_given_before_the_port_closed_is_not_lost() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let mut server = dialed(&mut host, "127.0.0.1");
    host.send_frame(Kind::Data, b"unread");
    // Closed with bytes unread: a reset follows the answer.
    server.write_all(b"answer").unwrap();
    server.peek(&mut [0]).unwrap();
    drop(server);
    let mut answer = Vec::new();
    while let Some(frame) = host.frame() {
        if frame.kind == Kind::DataEnd {
            break;
        }
        answer.extend_from_slice(&frame.payload);
    }
    assert_eq!(answer, b"answer");
}

#[test]
fn overrun_of_the_window_ends_the_connection() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let _server = dialed(&mut host, "127.0.0.1");
    // More than the kernel's own buffers take beside the window.
    let mut frames = bytes::BytesMut::new();
    for _ in 0..512 {
        emberd_proto::frame::encode(Kind::Data, &vec![7; BULK_BYTES_MAX], &mut frames);
    }
    assert!(host.stream.write_all(&frames).is_err());
    guest.greet().ping();
}

#[test]
fn metrics_say_what_the_machine_has() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    host.send(&HostMessage::Metrics);
    let GuestMessage::Metrics(metrics) = host.answer() else { panic!("no metrics") };
    assert!(metrics.cpu_count >= 1 && metrics.process_count >= 1, "{metrics:?}");
    assert!((0.0..=100.0).contains(&metrics.cpu_used_percent), "{metrics:?}");
    assert!(metrics.memory_used_bytes > 0, "{metrics:?}");
    assert!(metrics.memory_used_bytes <= metrics.memory_total_bytes, "{metrics:?}");
    assert!(metrics.disk_used_bytes <= metrics.disk_total_bytes, "{metrics:?}");
    assert!(metrics.time_ms > 0 && metrics.uptime_ms > 0, "{metrics:?}");
    host.ping();
}
