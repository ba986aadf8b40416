"""What the package adds to an exec over a raw socket, and how long its import takes.

    python exec.py [EXECS]          against a server that answers at once, in a process of its own
    EMBERD_ADDR=HOST:PORT python exec.py [EXECS]        against a daemon with the pack `python`

The same execs go by turns over a raw socket and through the package, so that both meet the same
machine. Printed are the median of each and of their differences in pairs, in milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Callable, Iterator

IMPORTS = 21

#: Execs before those that count.
WARM_UP = 20

OUTCOME = {
    "stdout": "42\n",
    "stderr": "",
    "exit_code": 0,
    "signal": None,
    "timed_out": False,
    "duration_ms": 1,
}

#: Answers each request of one connection after the other at once.
SERVER = """
import socket, sys, threading
def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while request := connection.recv(65536):
        connection.sendall(sys.argv[1].encode())
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def import_ms() -> float:
    """Processor time of the import, without that of the interpreter itself; median."""
    code = "from time import process_time as t; a = t(); import emberd; print(1e3 * (t() - a))"
    run = [sys.executable, "-c", code]
    return statistics.median(float(subprocess.check_output(run)) for _ in range(IMPORTS))


@contextlib.contextmanager
def sandbox() -> Iterator[tuple[str, int, str]]:
    """Host and port of a daemon, and a sandbox of it."""
    if "EMBERD_ADDR" in os.environ:
        import emberd

        host, _, port = os.environ["EMBERD_ADDR"].removeprefix("http://").rpartition(":")
        with emberd.Sandbox.create("python") as made:
            yield host, int(port), made.id
        return
    body = json.dumps(OUTCOME)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    run = [sys.executable, "-c", SERVER, f"{head}\r\n\r\n{body}"]
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield "127.0.0.1", int(server.stdout.readline()), "sb_000000000000"
        server.kill()


def raw_exec(connection: socket.socket, path: str, code: str) -> Callable[[], None]:
    body = json.dumps({"code": code}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x.localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    request = head.encode() + body

    def ask() -> None:
        connection.sendall(request)
        answer = connection.recv(1 << 16)
        start = answer.index(b"\r\n\r\n") + 4
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(answer) < start + length:
            answer += connection.recv(1 << 16)
        json.loads(answer[start:])

    return ask


def timed(ask: Callable[[], object]) -> float:
    begun = time.perf_counter()
    ask()
    return 1e3 * (time.perf_counter() - begun)


def main() -> None:
    count = int(sys.argv[1]) if sys.argv[1:] else 400
    print(f"import emberd: {import_ms():.1f} ms of processor time (median of {IMPORTS})")
    import emberd

    with sandbox() as (host, port, id):
        own = emberd.Sandbox(id, emberd.Client(f"{host}:{port}"))
        connection = socket.create_connection((host, port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw = raw_exec(connection, f"/sandboxes/{id}/exec", "pass")
        pairs = [(timed(raw), timed(lambda: own.exec("pass"))) for _ in range(count + WARM_UP)]
        connection.close()
        own.client.close()
    pairs = pairs[WARM_UP:]
    raw_ms, own_ms = (statistics.median(one) for one in zip(*pairs, strict=True))
    added = statistics.median(own - raw for raw, own in pairs)
    print(
        f"exec: raw socket {raw_ms:.3f} ms, package {own_ms:.3f} ms, added {added:.3f} ms, "
        f"{count} pairs"
    )


if __name__ == "__main__":
    main()
