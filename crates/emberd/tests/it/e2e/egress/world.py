"""The rest of the world, in a network namespace: a name server and servers on addresses that look
public. Prints a line for each query and each connection to standard error, which is the log.
"""

import os
import socket
import ssl
import subprocess
import sys
import threading
import urllib.parse

NAMES = {
    "good.example": "45.45.0.1",
    "also.example": "45.45.0.1",
    "evil.example": "45.45.0.2",
    "lan.example": "10.77.0.1",
    "meta.example": "169.254.169.254",
    "own.example": "45.45.9.9",
}


SITE = sys.argv[2]
TYPES = {".html": "text/html", ".json": "application/json"}


def log(*words):
    print(*words, file=sys.stderr, flush=True)


def answer(query):
    """The answer to one query: an address, or that the name or its type does not exist."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1").lower())
        at += 1 + query[at]
    name, kind = ".".join(labels), int.from_bytes(query[at + 1 : at + 3], "big")
    log("query", name)
    address = NAMES.get(name)
    rcode = 0 if address else 3
    found = address is not None and kind == 1
    head = query[:2] + bytes([0x81, 0x80 | rcode]) + b"\0\1" + bytes([0, int(found)]) + b"\0\0\0\0"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address) if found else b""
    return head + query[12 : at + 5] + record


def serve_names():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("10.77.0.1", 53))
    while True:
        query, source = s.recvfrom(4096)
        s.sendto(answer(query), source)


def serve(port, talk):
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", port))
    s.listen(1024)
    while True:
        c, _ = s.accept()
        log("connect", c.getsockname()[0], port)
        threading.Thread(target=talk, args=(c,), daemon=True).start()


def page(target, address):
    """Status, type and content of a page: a file of the site, or a greeting at its root."""
    path = os.path.normpath(urllib.parse.unquote(target.split("?")[0]))
    if path == "/":
        return 200, "text/plain", f"hello from {address}".encode()
    file = SITE + path
    if os.path.isdir(file):
        file += "/index.html"
    try:
        with open(file, "rb") as f:
            return 200, TYPES.get(os.path.splitext(file)[1], "application/octet-stream"), f.read()
    except OSError:
        return 404, "text/plain", b"no such page"


def http(c):
    try:
        with c, c.makefile("rb") as lines:
            target = (lines.readline().split() + [b"", b"/"])[1].decode("latin-1")
            while lines.readline() not in (b"\r\n", b""):
                pass
            status, kind, text = page(target, c.getsockname()[0])
            c.sendall(
                f"HTTP/1.1 {status} .\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\n"
                f"Connection: close\r\n\r\n".encode()
                + text
            )
    except OSError:
        pass


def tls(c):
    try:
        http(CONTEXT.wrap_socket(c, server_side=True))
    except OSError:
        pass


def echo(c):
    try:
        with c:
            while data := c.recv(65536):
                c.sendall(data)
    except OSError:
        pass


def main():
    print("born", flush=True)
    sys.stdin.readline()
    for line in (
        "link set lo up",
        "addr add 10.77.0.1/24 dev w0",
        "link set w0 up",
        *(f"addr add {a}/32 dev lo" for a in ("45.45.0.1", "45.45.0.2", "169.254.169.254")),
    ):
        subprocess.run(["ip", *line.split()], check=True)
    CONTEXT.load_cert_chain(sys.argv[1])
    for target, *args in (
        (serve_names,),
        (serve, 80, http),
        (serve, 443, tls),
        (serve, 853, echo),
        (serve, 7777, echo),
    ):
        threading.Thread(target=target, args=args, daemon=True).start()
    for port in (80, 443, 853, 7777):
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                pass
    print("ready", flush=True)
    # Until the test ends.
    sys.stdin.read()
    os._exit(0)


CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
main()
