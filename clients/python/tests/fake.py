"""A server that answers as it is told, byte by byte, and breaks where it is told."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from typing import Any, Callable, Iterable, Iterator
from urllib.parse import parse_qs, urlsplit


class Request:
    """A request that has arrived, with its number among all of its server."""

    def __init__(self, number: int, method: str, target: str, headers: dict[str, str]) -> None:
        self.number = number
        self.method = method
        self.target = target
        self.headers = headers
        self.body = b""
        self.body_bytes = 0
        parts = urlsplit(target)
        self.path = parts.path
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}

    def json(self) -> Any:
        return json.loads(self.body)


class Cut(Exception):
    """Ends the connection; `reset` makes an error of it, as a crash of the network would."""

    def __init__(self, *, reset: bool = False) -> None:
        self.reset = reset


Handler = Callable[[Request], "bytes | Iterable[bytes]"]


class FakeDaemon:
    """Listens while the `with` lasts. `handler` gives the bytes of each answer, or raises `Cut`."""

    def __init__(
        self,
        handler: Handler,
        *,
        reads_bodies: bool = True,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.handler = handler
        self.reads_bodies = reads_bodies
        self.requests: list[Request] = []
        #: Set when a connection has ended while an answer was being sent, from either side.
        self.hung_up = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self._tls = tls
        self._host = f"[{host}]" if ":" in host else host
        self._listener.settimeout(30)
        self._connections: list[socket.socket] = []
        self._closing = False
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def address(self) -> str:
        return f"{self._host}:{self._listener.getsockname()[1]}"

    def __enter__(self) -> FakeDaemon:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        # Wakes the thread that accepts.
        socket.create_connection(self._listener.getsockname()[:2]).close()
        self._thread.join()
        self._listener.close()
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._closing:
                connection.close()
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._connections.append(connection)
            file = connection.makefile("rb")
            while (request := self._read(file)) is not None:
                self._answer(connection, request)
        except Cut as cut:
            if cut.reset:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            else:
                connection.shutdown(socket.SHUT_RDWR)
            file.close()
            connection.close()
            self.hung_up.set()
        except OSError:
            self.hung_up.set()

    def _answer(self, connection: socket.socket, request: Request) -> None:
        answer = self.handler(request)
        for piece in [answer] if isinstance(answer, bytes) else answer:
            connection.sendall(piece)

    def _read(self, file: Any) -> Request | None:
        line = file.readline().decode()
        if not line:
            return None
        method, target, _ = line.split(" ")
        headers = {}
        while line := file.readline().decode().rstrip("\r\n"):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        request = Request(len(self.requests), method, target, headers)
        self.requests.append(request)
        if self.reads_bodies:
            for piece in _body(file, headers):
                request.body_bytes += len(piece)
                if request.body_bytes < 1 << 20:
                    request.body += piece
        return request


def _body(file: Any, headers: dict[str, str]) -> Iterator[bytes]:
    if "chunked" in headers.get("transfer-encoding", ""):
        while size := int(file.readline() or b"0", 16):
            yield file.read(size)
            file.readline()
        file.readline()
        return
    left = int(headers.get("content-length", 0))
    while left:
        piece = file.read(min(left, 1 << 18))
        if not piece:
            return
        left -= len(piece)
        yield piece


def answer(body: Any = None, *, status: int = 200, headers: dict[str, str] | None = None) -> bytes:
    """A whole answer: of JSON, or of bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


def refusal(status: int, code: str, headers: dict[str, str] | None = None) -> bytes:
    """An error of the API."""
    return answer({"error": f"it is {code}", "code": code}, status=status, headers=headers)


def chunked(pieces: Iterable[bytes], kind: str = "text/event-stream") -> bytes:
    """A whole answer in chunks."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head.encode() + chunks + b"0\r\n\r\n"


def sse(event: dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event."""
    name = name or event.get("event", "message")
    return f"event: {name}\ndata: {json.dumps(event)}\n\n".encode()


def offsets(size: int, count: int = 20) -> list[int]:
    """So many places in so many bytes, the first and the last byte among them."""
    return sorted({round(at * (size - 1) / (count - 1)) for at in range(count)})
