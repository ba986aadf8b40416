"""The rest of the world, in a network namespace: a name server and servers on addresses that look
public. Prints a line for each query, connection, server named in TLS and request to standard
error, which is the log.

Arguments: the servers' certificate with its key, the directory of their files, and the directory of
the keys that may log in.
"""

import ctypes
import os
import pwd
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.parse

GOOD, EVIL, PUBLIC, PRIVATE = "45.45.0.1", "45.45.0.2", "45.45.0.3", "10.77.0.1"
NAMES = {
    "good.example": [GOOD],
    "also.example": [GOOD],
    "evil.example": [EVIL],
    "lan.example": [PRIVATE],
    "meta.example": ["169.254.169.254"],
    "own.example": ["45.45.9.9"],
    "mixed.example": [PRIVATE, GOOD],
    # Names that look like those below `wild.example`.
    "wild.example": [EVIL],
    "evil-wild.example": [EVIL],
    "wild.example.evil": [EVIL],
    "a.wild.example.evil": [EVIL],
    "a.xn--wld-rma.example": [EVIL],
    "b.xn--wld-rma.example": [EVIL],
    "a.wild.xn--xample-2of": [EVIL],
}
# Every name below these exists.
BELOW = {".wild.example": [GOOD], ".evil.example": [EVIL]}
# A name whose first address differs from all later ones.
REBOUND = iter([PUBLIC])

CERTIFICATE, SITE, KEYS = sys.argv[1:]
TYPES = {".html": "text/html", ".json": "application/json"}


def log(*words):
    print(*words, file=sys.stderr, flush=True)


def addresses(name, kind):
    """The addresses of a name; none if it does not exist. They are kept for no time."""
    if name == "rebound.example":
        # Addresses of the other family are asked for, too.
        return [next(REBOUND, PRIVATE)] if kind == 1 else [PUBLIC]
    found = NAMES.get(name, [])
    for below, those in BELOW.items():
        if name.endswith(below):
            found = those
    return found


def answer(query):
    """The answer to one query: addresses, or that the name or its type does not exist."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1").lower())
        at += 1 + query[at]
    name, kind = ".".join(labels), int.from_bytes(query[at + 1 : at + 3], "big")
    log("query", name)
    known = addresses(name, kind)
    found = known if kind == 1 else []
    head = query[:2] + bytes([0x81, 0x80 if known else 0x83])
    head += b"\0\1" + bytes([0, len(found)]) + b"\0\0\0\0"
    records = (b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address) for address in found)
    return head + query[12 : at + 5] + b"".join(records)


def serve_names():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((PRIVATE, 53))
    while True:
        query, source = s.recvfrom(4096)
        s.sendto(answer(query), source)


def serve(port, talk, address="0.0.0.0"):
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, port))
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


def chunks(lines):
    while length := int(lines.readline().split(b";")[0], 16):
        yield lines.read(length)
        lines.readline()
    while lines.readline() not in (b"\r\n", b""):
        pass


def git(method, target, fields, body):
    """What git's own server answers: a status, a type and content."""
    path, _, query = target.partition("?")
    env = {
        **os.environ,
        "GIT_PROJECT_ROOT": SITE,
        "GIT_HTTP_EXPORT_ALL": "1",
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_TYPE": fields.get("content-type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": fields.get("content-encoding", ""),
        "GIT_PROTOCOL": fields.get("git-protocol", ""),
    }
    backend = subprocess.run(
        ["git", "-c", "safe.directory=*", "http-backend"], env=env, input=body, capture_output=True
    )
    head, _, content = backend.stdout.partition(b"\r\n\r\n")
    head = head.decode("latin-1")
    status = re.search(r"(?m)^Status: (\d+)", head)
    kind = re.search(r"(?m)^Content-Type: (.*?)\r?$", head)
    return (int(status[1]) if status else 200), (kind[1] if kind else "text/plain"), content


def http(c):
    try:
        with c, c.makefile("rb") as lines:
            while one(c, lines):
                pass
    except (OSError, ValueError):
        pass


def one(c, lines):
    """Serves one request; returns whether there was one."""
    words = lines.readline().decode("latin-1").split()
    if len(words) < 2:
        return False
    fields = {}
    while (line := lines.readline()) not in (b"\r\n", b""):
        field, _, value = line.decode("latin-1").partition(":")
        fields[field.lower()] = value.strip()
    log("request", *words[:2], fields.get("host"))
    if fields.get("transfer-encoding") == "chunked":
        body = b"".join(chunks(lines))
    else:
        body = lines.read(int(fields.get("content-length", 0)))
    target, more = words[1], ""
    path, _, query = target.partition("?")
    if path == "/to":
        status, kind, text, more = 302, "text/plain", b"", f"Location: {query}\r\n"
    elif path.startswith("/smart/"):
        status, kind, text = git(words[0], target, fields, body)
    else:
        status, kind, text = page(target, c.getsockname()[0])
    c.sendall(
        f"HTTP/1.1 {status} .\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\n"
        f"{more}\r\n".encode() + text
    )
    return True


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


def serve_ssh():
    """Logs in those whose keys are in a directory of the test's, in the place of this machine's."""
    home = pwd.getpwuid(0).pw_dir
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", home], check=True)
    os.mkdir(f"{home}/.ssh", 0o700)
    subprocess.run(["mount", "--bind", KEYS, f"{home}/.ssh"], check=True)
    key = f"{home}/key"
    subprocess.run(["dropbearkey", "-t", "ed25519", "-f", key], check=True, capture_output=True)
    with_me = ctypes.CDLL(None).prctl
    server = subprocess.Popen(
        ["dropbear", "-F", "-E", "-s", "-r", key, "-P", "", "-p", f"{GOOD}:22"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # PR_SET_PDEATHSIG
        preexec_fn=lambda: with_me(1, signal.SIGKILL),
    )
    await_port(GOOD, 22, lambda: server.poll() is None)


def await_port(address, port, is_alive=lambda: True):
    while is_alive():
        try:
            socket.create_connection((address, port)).close()
            return
        except OSError:
            pass
    sys.exit(f"no server on port {port}")


def main():
    print("born", flush=True)
    sys.stdin.readline()
    for line in (
        "link set lo up",
        "addr add 10.77.0.1/24 dev w0",
        "link set w0 up",
        *(f"addr add {a}/32 dev lo" for a in (GOOD, EVIL, PUBLIC, "169.254.169.254")),
    ):
        subprocess.run(["ip", *line.split()], check=True)
    CONTEXT.load_cert_chain(CERTIFICATE)
    CONTEXT.sni_callback = lambda _socket, name, _context: log("hello", name)
    threading.Thread(target=serve_names, daemon=True).start()
    servers = (80, http), (443, tls), (853, echo), (7777, echo), (8443, tls), (7070, echo, PRIVATE)
    for server in servers:
        threading.Thread(target=serve, args=server, daemon=True).start()
        await_port(PRIVATE, server[0])
    if shutil.which("dropbear"):
        serve_ssh()
    print("ready", flush=True)
    # Until the test ends.
    sys.stdin.read()
    os._exit(0)


CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
main()
