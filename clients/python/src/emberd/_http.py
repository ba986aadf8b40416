"""HTTP/1.1 of a client, and server-sent events, without I/O.

A request is bytes. A response is read by feeding a `Response` what arrives; whatever the pieces, it
gives the same head and the same body.
"""

from __future__ import annotations

from typing import Iterable
from urllib.parse import quote

from .errors import EmberdError

#: Most bytes of a response's head (128 KiB): the daemon's own limit for heads of servers at ports.
HEAD_BYTES_MAX = 128 << 10

#: Most bytes of the line before a chunk, and of one line of the trailer.
CHUNK_LINE_BYTES_MAX = 8 << 10

#: Statuses of requests that a server does not read to their end: it closes the connection, also
#: where it does not say so.
ENDING = (408, 413, 414, 431)


class Malformed(Exception):
    """The bytes are not HTTP/1.1, or break a limit."""


#: Names and values of a query.
Query = Iterable["tuple[str, str | bytes | int | bool | None]"]


def target(path: str, query: Query = ()) -> str:
    """A path with a query, percent-encoded. Values that are None are left out."""
    pairs: list[str] = []
    for name, value in query:
        if isinstance(value, bool):
            value = "true" if value else "false"
        if value is not None:
            data = value if isinstance(value, (str, bytes)) else str(value)
            pairs.append(f"{name}={quote(data, safe='')}")
    return f"{path}?{'&'.join(pairs)}" if pairs else path


def segment(word: object) -> str:
    """One segment of a path. A slash in an id names nothing, and must not name another route."""
    text = quote(str(word), safe="")
    if text in ("", ".", ".."):
        raise EmberdError(f"{word!r} cannot be an id")
    return text


def head(method: str, path: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """The head of a request. Line breaks in a value would make a field of their own: refused."""
    lines = [f"{method} {path} HTTP/1.1"]
    for name, value in headers:
        if any(letter in value for letter in "\r\n\0"):
            raise EmberdError(f"the value of {name} has a line break or a null character")
        lines.append(f"{name}: {value}")
    try:
        return "\r\n".join([*lines, "", ""]).encode("latin-1")
    except UnicodeEncodeError as error:
        raise EmberdError("a header of the request has characters beyond Latin-1") from error


class Response:
    """A response that arrives piece by piece."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._buffer = bytearray()
        self.status = 0
        self.headers: dict[str, str] = {}
        #: Bytes of the body, or of the chunk, that are still to come; None until the end of file.
        self._left: int | None = 0
        self._chunked = False
        self._in_trailer = False
        self._body_done = False
        self.length: int | None = None
        #: False where the request was not sent to its end: another one would be read as its rest.
        self.is_request_whole = True

    @property
    def has_head(self) -> bool:
        """Whether the final head has arrived."""
        return self.status != 0

    @property
    def is_complete(self) -> bool:
        """Whether the whole body has been read."""
        return self._body_done

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow on the connection."""
        if not (self.is_request_whole and self._body_done) or self._buffer or self._left is None:
            return False
        if self.status in ENDING:
            return False
        return "close" not in self.headers.get("connection", "").lower()

    def feed(self, data: bytes) -> None:
        """Adds what arrived."""
        # The end of a head may begin in what arrived before.
        start = max(0, len(self._buffer) - 3)
        self._buffer += data
        while not self.has_head and self._take_head(start):
            start = 0

    def rest(self) -> bytes:
        """What arrived behind the head of a response that switches protocols."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def _take_head(self, start: int) -> bool:
        end = self._buffer.find(b"\r\n\r\n", start)
        if end < 0 or end > HEAD_BYTES_MAX:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise Malformed(f"its head has more than {HEAD_BYTES_MAX} bytes")
            return False
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        version, _, rest = lines[0].partition(" ")
        code = rest[:3]
        if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit()):
            raise Malformed("it does not begin with a status line")
        status = int(code)
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise Malformed("a line of its head has no colon")
            name = name.lower()
            value = value.strip(" \t")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if 100 <= status < 200 and status != 101:
            return True  # An interim response: the final one follows.
        self.headers = headers
        self._begin_body(status)
        self.status = status
        return False

    def _begin_body(self, status: int) -> None:
        length = self.headers.get("content-length")
        if status in (101, 204, 304) or self._method == "HEAD":
            self._body_done = True
        elif "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._chunked = True
        elif length is not None:
            if not (length.isascii() and length.isdigit()) or len(length) > 18:
                raise Malformed("its Content-Length is not a number")
            self.length = self._left = int(length)
            self._body_done = self._left == 0
        else:
            self._left = None

    def body(self) -> bytes:
        """What has arrived of the body and was not taken yet; may be empty."""
        if self._body_done or not self.has_head:
            return b""
        if not self._chunked:
            return self._take_plain()
        pieces: list[bytes] = []
        while not self._body_done:
            if self._left is not None and self._left > 0:
                piece = bytes(self._buffer[: self._left])
                del self._buffer[: len(piece)]
                self._left -= len(piece)
                if piece:
                    pieces.append(piece)
                if self._left:
                    break
                self._left = -1  # The line break behind the chunk.
            elif not self._take_chunk_line():
                break
        return b"".join(pieces)

    def _take_plain(self) -> bytes:
        if self._left is None:
            return self.rest()
        piece = bytes(self._buffer[: self._left])
        del self._buffer[: len(piece)]
        self._left -= len(piece)
        self._body_done = self._left == 0
        return piece

    def _take_chunk_line(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0 or end > CHUNK_LINE_BYTES_MAX:
            if len(self._buffer) > CHUNK_LINE_BYTES_MAX:
                raise Malformed("the line of a chunk is too long")
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        if self._in_trailer:
            self._body_done = not line
        elif self._left == -1:
            if line:
                raise Malformed("a chunk is longer than it says")
            self._left = 0
        else:
            digits = line.split(b";")[0].strip()
            if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
                raise Malformed("the length of a chunk is not a number")
            self._left = int(digits, 16)
            self._in_trailer = self._left == 0
        return True

    def end(self) -> bool:
        """The connection has ended: whether the response had."""
        if self.has_head and self._left is None:
            self._body_done = True
        return self._body_done


class Lines:
    """Lines of a stream. Each byte is looked at once, however the pieces fall."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._received = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Adds what arrived, and returns the lines that are whole, without their ends."""
        self._received += data
        lines: list[bytes] = []
        start = 0
        while (end := self._received.find(b"\n", max(self._searched, start))) >= 0:
            lines.append(bytes(self._received[start:end]))
            start = end + 1
        del self._received[:start]
        self._searched = len(self._received)
        if self._searched > self._bytes_max:
            raise Malformed(f"a line has more than {self._bytes_max} bytes")
        return lines


class ServerEvents:
    """Server-sent events (HTML standard, §9.2.6), without `id` and `retry`."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._lines = Lines(bytes_max)
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, data: bytes) -> list[tuple[str, str]]:
        """Adds what arrived, and returns the events that are whole: name and data."""
        events: list[tuple[str, str]] = []
        for raw in self._lines.feed(data):
            try:
                line = raw.decode().removesuffix("\r")
            except UnicodeDecodeError:
                raise Malformed("a server-sent event is not UTF-8") from None
            if not line:
                if self._data:
                    events.append((self._name, "\n".join(self._data)))
                self._name, self._data, self._size = "", [], 0
                continue
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                self._name = value
            elif field == "data":
                self._data.append(value)
                self._size += len(value)
            if self._size > self._bytes_max:
                raise Malformed(f"a server-sent event has more than {self._bytes_max} bytes")
        return events
