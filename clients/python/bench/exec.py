"""What the package adds to an exec over a raw socket, and how long its import takes.

    python exec.py                      against a server that answers at once, in its own process
    EMBERD_ADDR=HOST:PORT python exec.py                against a daemon
    options: --execs N, --pack PACK (python), --json (every time, in microseconds)

The same execs go by turns over a raw socket and through the package, so that both meet the same
machine. Printed are the median of each and of their differences in pairs, in milliseconds.
"""

from __future__ import annotations

import argparse
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


#: Code that does nothing, in the languages of packs.
NOTHING = {"python": "pass", "shell": ":"}


def imports_ms() -> list[float]:
    """Processor times of the import, without that of the interpreter itself."""
    code = "from time import process_time as t; a = t(); import emberd; print(1e3 * (t() - a))"
    run = [sys.executable, "-c", code]
    return [float(subprocess.check_output(run)) for _ in range(IMPORTS)]


@contextlib.contextmanager
def sandbox(pack: str) -> Iterator[tuple[str, int, str]]:
    """Host and port of a daemon, and a sandbox of it."""
    if "EMBERD_ADDR" in os.environ:
        import emberd

        host, _, port = os.environ["EMBERD_ADDR"].removeprefix("http://").rpartition(":")
        with emberd.Sandbox.create(pack) as made:
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
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    request = head.encode() + body

    def ask() -> None:
        connection.sendall(request)
        answer = connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
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


def execs_ms(count: int, pack: str) -> list[tuple[float, float]]:
    """Times over a raw socket and through the package, in pairs."""
    import emberd

    with sandbox(pack) as (host, port, id):
        own = emberd.Sandbox(id, emberd.Client(f"{host}:{port}"))
        connection = socket.create_connection((host, port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = NOTHING[pack]
        raw = raw_exec(connection, f"/sandboxes/{id}/exec", code)
        pairs = [(timed(raw), timed(lambda: own.exec(code))) for _ in range(count + WARM_UP)]
        connection.close()
        own.client.close()
    return pairs[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--execs", type=int, default=400)
    parser.add_argument("--pack", choices=NOTHING, default="python")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    imports, pairs = imports_ms(), execs_ms(options.execs, options.pack)
    raw, own = zip(*pairs, strict=True)
    if options.json:
        series = {"import": imports, "exec_raw": raw, "exec_package": own}
        print(json.dumps({name: [round(1e3 * ms) for ms in all] for name, all in series.items()}))
        return
    median = statistics.median
    print(f"import emberd: {median(imports):.1f} ms of processor time (median of {IMPORTS})")
    added = median(own - raw for raw, own in pairs)
    print(
        f"exec: raw socket {median(raw):.3f} ms, package {median(own):.3f} ms, "
        f"added {added:.3f} ms, {options.execs} pairs"
    )


if __name__ == "__main__":
    main()
