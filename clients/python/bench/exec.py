"""What the package adds to an exec over a raw socket, and how long its import takes.

    EMBERD_ADDR=HOST:PORT python exec.py [EXECS]

Execs of an empty shell script, by turns over a raw socket and through the package, so that both
meet the same machine; then the median of each, and of their differences in pairs, in milliseconds.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Callable

IMPORTS = 21


def import_ms() -> float:
    """Processor time of the import, without that of the interpreter itself; median."""
    code = "from time import process_time as t; a = t(); import emberd; print(1e3 * (t() - a))"
    run = [sys.executable, "-c", code]
    return statistics.median(float(subprocess.check_output(run)) for _ in range(IMPORTS))


def raw_exec(connection: socket.socket, path: str) -> Callable[[], None]:
    body = json.dumps({"code": ":"}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x.localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    request = head.encode() + body

    def ask() -> None:
        connection.sendall(request)
        answer = connection.recv(1 << 16)
        start = answer.index(b"\r\n\r\n") + 4
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(answer) < start + length:
            answer += connection.recv(1 << 16)

    return ask


def timed(ask: Callable[[], object]) -> float:
    begun = time.perf_counter()
    ask()
    return 1e3 * (time.perf_counter() - begun)


def main() -> None:
    count = int(sys.argv[1]) if sys.argv[1:] else 400
    print(f"import emberd: {import_ms():.1f} ms of processor time (median of {IMPORTS})")
    import emberd

    host, _, port = os.environ["EMBERD_ADDR"].removeprefix("http://").rpartition(":")
    with emberd.Sandbox.create("shell") as sandbox:
        connection = socket.create_connection((host, int(port)))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw = raw_exec(connection, f"/sandboxes/{sandbox.id}/exec")
        pairs = []
        for turn in range(count + 20):
            pair = (timed(raw), timed(lambda: sandbox.exec(":")))
            if turn >= 20:
                pairs.append(pair)
        connection.close()
    raw_ms, own_ms = (statistics.median(one) for one in zip(*pairs, strict=True))
    added = statistics.median(own - raw for raw, own in pairs)
    print(
        f"exec: raw socket {raw_ms:.3f} ms, package {own_ms:.3f} ms, added {added:.3f} ms, "
        f"{count} pairs"
    )


if __name__ == "__main__":
    main()
