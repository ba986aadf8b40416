"""What programs send that is not what it seems. Comes after the beginning of every program."""

import collections
import random
import struct
import time


def vector(content, length_bytes=2):
    return len(content).to_bytes(length_bytes, "big") + content


def record(content):
    """A record of TLS that holds (a part of) a handshake message."""
    return b"\x16\3\1" + vector(content)


def message(*extensions):
    """The first message of a TLS connection."""
    listed = b"".join(struct.pack(">H", kind) + vector(content) for kind, content in extensions)
    fixed = b"\3\3" + bytes(32) + b"\0" + vector(b"\x13\1") + b"\1\0"
    return b"\1" + vector(fixed + vector(listed), 3)


def hello(*extensions):
    return record(message(*extensions))


def sni(*names):
    return 0, vector(b"".join(b"\0" + vector(name.encode()) for name in names))


def real(server):
    """The message that OpenSSL sends."""
    going = ssl.MemoryBIO()
    tls = ssl._create_unverified_context().wrap_bio(ssl.MemoryBIO(), going, server_hostname=server)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return going.read()[5:]


def get(host, *fields, line="GET / HTTP/1.1"):
    """A request."""
    lines = [line, *([f"Host: {host}"] if host else []), *fields, "", ""]
    return "\r\n".join(lines).encode()


def connect(host, port):
    """A connection; names are looked up no faster than is allowed."""
    while True:
        try:
            found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
            return socket.create_connection(found[0][4])
        except socket.gaierror as e:
            if e.errno != socket.EAI_AGAIN:
                raise


def told(host, port, *pieces):
    """The first line that a server says, or why it says nothing."""
    try:
        with connect(host, port) as s, s.makefile("rb") as lines:
            for piece in pieces:
                s.sendall(piece)
            return lines.readline().decode().strip() or "nothing"
    except OSError as e:
        return name(e)


def page(host, server, piece_bytes=1 << 14, port=443):
    """What a page says over TLS that names `server`, sent in pieces of so many bytes."""
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl._create_unverified_context().wrap_bio(coming, going, server_hostname=server)
    try:
        with connect(host, port) as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def drive(step, *args):
                while True:
                    try:
                        return step(*args)
                    except ssl.SSLWantReadError:
                        pass
                    finally:
                        data = going.read()
                        for at in range(0, len(data), piece_bytes):
                            s.sendall(data[at : at + piece_bytes])
                    coming.write(s.recv(1 << 16))

            drive(tls.do_handshake)
            drive(tls.write, get(server))
            return drive(tls.read, 4096).decode().split("\r\n\r\n")[1]
    except OSError as e:
        return name(e)


def asked(below, count, at_once=50):
    """Asks for random names below another; returns how many were found, failed, and are none."""
    codes = collections.Counter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("198.18.0.1", 53))
        tail = b"".join(vector(label.encode(), 1) for label in below.split("."))
        for _ in range(count // at_once):
            for _ in range(at_once):
                label = vector(random.randbytes(16).hex().encode(), 1)
                s.send(b"\0\1\1\0\0\1\0\0\0\0\0\0" + label + tail + b"\0\0\1\0\1")
            for _ in range(at_once):
                codes[s.recv(512)[3] & 15] += 1
    return [codes[code] for code in (0, 2, 3)]
