"""Requests to one daemon, over connections that are kept and used again."""

from __future__ import annotations

import json
import os
from time import monotonic
from typing import TYPE_CHECKING, Iterable, TypeVar

from .. import _http
from .._address import find_address
from ..errors import Broken, EmberdError, NotEmberd, TimedOut, Unreachable, api_error
from ._net import READ_BYTES, Connection, Content, pieces, place, sleep

if TYPE_CHECKING:
    import ssl

    from .. import types

#: What the JSON of an answer is; chosen by who asks.
Parsed = TypeVar("Parsed")

#: How long an unused connection is kept, in seconds: less than the 10 s after which the daemon
#: closes it, so that no request meets a closing connection.
IDLE_S_MAX = 5.0

#: Most unused connections that are kept.
IDLE_CONNECTIONS_MAX = 64

#: Most bytes of an answer that is read as a whole (256 MiB): 8 MiB of standard output and of
#: standard error, each byte escaped in JSON as six, and again as base64.
ANSWER_BYTES_MAX = 256 << 20

#: Most times that a request is repeated.
RETRIES_MAX = 5

#: Longest pause before a repetition that the daemon may ask for, in seconds.
RETRY_AFTER_S_MAX = 30.0

#: Pause before the first repetition after a broken connection, in seconds. Each further one is
#: twice as long.
RETRY_PAUSE_S = 0.05

Headers = Iterable["tuple[str, str]"]


class Answer:
    """A response that is read piece by piece. Closing it closes the connection."""

    def __init__(self, session: Session, connection: Connection, response: _http.Response) -> None:
        self._session = session
        self._connection = connection
        self._response = response
        #: Whether the connection is closed, or belongs to somebody else.
        self._released = False
        self.status = response.status
        self.headers = response.headers

    @property
    def length(self) -> int | None:
        """Length of the body in bytes, if the daemon named it."""
        return self._response.length

    async def piece(self, deadline: float | None = None) -> bytes | None:
        """The next piece; None at the end. `deadline` is a time of `monotonic()`."""
        try:
            while True:
                if data := self._response.body():
                    return data
                if self._response.is_complete:
                    self.close()
                    return None
                await self._session.receive(self._connection, self._response, deadline)
        except _http.Malformed as error:
            self._abandon()
            raise self._session.malformed(error) from error
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        self._released = True
        self._connection.close()

    async def all(self, bytes_max: int = ANSWER_BYTES_MAX) -> bytes:
        """The rest of the body."""
        read: list[bytes] = []
        size = 0
        while (data := await self.piece()) is not None:
            read.append(data)
            size += len(data)
            if size > bytes_max:
                self.close()
                raise NotEmberd(f"an answer of {self._session.address} has over {bytes_max} bytes")
        return b"".join(read)

    def switched(self) -> tuple[Connection, bytes]:
        """The connection, which speaks another protocol now, and what has arrived on it."""
        self._released = True
        return self._connection, self._response.rest()

    def close(self) -> None:
        """Closes the connection, which ends what was asked for; keeps it after a whole answer."""
        if not self._released:
            self._released = True
            self._session.keep(self._connection, self._response)


class Session:
    """Connections to one daemon, and how requests are sent on them."""

    def __init__(
        self,
        url: str | None,
        api_key: str | None,
        ca_cert: str | None,
        timeout: float | None,
    ) -> None:
        self.address = find_address(url)
        self.timeout = timeout
        self._ca_cert = ca_cert or os.environ.get("EMBERD_CA_CERT")
        self._tls: ssl.SSLContext | None = None
        self._headers = [("host", self.address.authority), ("user-agent", "emberd-python")]
        if key := api_key or os.environ.get("EMBERD_API_KEY"):
            if not all("!" <= letter <= "~" for letter in key):
                raise EmberdError(
                    "the API key has spaces, line breaks or characters beyond ASCII\n"
                    "hint: look at EMBERD_API_KEY; files often end with a line break"
                )
            self._headers.append(("authorization", f"Bearer {key}"))
        self._idle: list[tuple[float, Connection]] = []
        self._place: object = None

    def close(self) -> None:
        """Closes the unused connections. The session can be used again."""
        while self._idle:
            self._idle.pop()[1].close()

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Headers = (),
        idempotent: bool | None = None,
    ) -> Parsed:  # type: ignore[type-var,unused-ignore]
        """Sends JSON and returns the JSON of the answer, whose shape is the caller's word."""
        answer = await self._json(method, path, body, headers, idempotent)
        return self.parsed(answer.status, await answer.all())

    async def do(
        self, method: str, path: str, body: object = None, *, idempotent: bool | None = None
    ) -> None:
        """Sends JSON to a route whose answer has no content."""
        answer = await self._json(method, path, body, (), idempotent)
        await answer.all()

    async def _json(
        self, method: str, path: str, body: object, headers: Headers, idempotent: bool | None
    ) -> Answer:
        content = b"" if body is None else json.dumps(body).encode()
        if content:
            headers = [("content-type", "application/json"), *headers]
        return await self.send(method, path, content, headers=headers, idempotent=idempotent)

    async def send(
        self,
        method: str,
        path: str,
        body: Content = b"",
        *,
        headers: Headers = (),
        length: int | None = None,
        idempotent: bool | None = None,
        accepted: int | None = None,
    ) -> Answer:
        """Sends a request, and returns once a successful answer begins.

        Repeats an idempotent request: one whose connection had been kept and has ended, and one
        that the daemon refuses for now (429, 503) and says when to retry.
        """
        if isinstance(body, str):
            body = body.encode()
        if idempotent is None:
            idempotent = method in ("GET", "PUT", "DELETE")
        idempotent = idempotent and isinstance(body, bytes)
        for retry in range(RETRIES_MAX + 1):
            may_retry = idempotent and retry < RETRIES_MAX
            connection, reused = await self._connection()
            try:
                answer = await self._exchange(connection, method, path, body, headers, length)
            except Broken:
                if may_retry and reused:
                    continue
                raise
            if answer.status == accepted or accepted is None and 200 <= answer.status < 300:
                return answer
            pause = _retry_after(answer)
            if not may_retry or answer.status not in (429, 503) or pause is None:
                raise await self._refusal(answer)
            await answer.all()
            await sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _exchange(
        self,
        connection: Connection,
        method: str,
        path: str,
        body: Content,
        headers: Headers,
        length: int | None,
    ) -> Answer:
        """Sends one request on one connection, and waits for the head of its answer."""
        response = _http.Response(method)
        try:
            if isinstance(body, bytes) and len(body) <= READ_BYTES:
                sized = [("content-length", str(len(body)))] if body or method != "GET" else []
                head = _http.head(method, path, [*self._headers, *headers, *sized])
                response.is_request_whole = await self._write(connection, head + body)
            else:
                length = len(body) if isinstance(body, bytes) else length
                sent = self._upload(connection, method, path, body, headers, length)
                response.is_request_whole = await sent
            while not response.has_head:
                await self.receive(connection, response, None)
        except BaseException:
            connection.close()
            raise
        return Answer(self, connection, response)

    async def _upload(
        self,
        connection: Connection,
        method: str,
        path: str,
        body: Content,
        headers: Headers,
        length: int | None,
    ) -> bool:
        """Sends a body of any size piece by piece; stops, with False, where the daemon has
        answered.
        """
        chunked = length is None
        sized = ("transfer-encoding", "chunked") if chunked else ("content-length", str(length))
        head = _http.head(method, path, [*self._headers, *headers, sized])
        await self._write(connection, head)
        sent = 0
        async for piece in pieces(body):
            if await connection.has_input():
                return False
            sent += len(piece)
            if length is not None and sent > length:
                raise EmberdError(
                    f"the content has more than the {length} bytes that were announced"
                )
            if piece:
                data = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
                if not await self._write(connection, data):
                    return False
        if length is not None and sent < length:
            raise EmberdError(f"the content has {sent} of the {length} bytes that were announced")
        return await self._write(connection, b"0\r\n\r\n" if chunked else b"")

    async def _write(self, connection: Connection, data: bytes) -> bool:
        """Writes; False where the daemon takes no more, since its answer may say why."""
        try:
            await connection.write(data, self.timeout)
        except OSError:
            return False
        return True

    async def receive(
        self, connection: Connection, response: _http.Response, deadline: float | None
    ) -> None:
        """Reads once, and feeds the response."""
        try:
            data = await connection.read(self._patience(deadline))
            if data:
                response.feed(data)
                return
        except (OSError, EOFError) as error:
            raise Broken(
                f"the connection to the daemon at {self.address} broke: {error}"
            ) from error
        except _http.Malformed as error:
            raise self.malformed(error) from error
        if not response.end():
            raise Broken(
                f"the daemon at {self.address} closed the connection before its answer ended"
            )

    def malformed(self, error: _http.Malformed) -> NotEmberd:
        """The error of an answer that is not HTTP."""
        return NotEmberd(f"the answer of {self.address} is not HTTP: {error}")

    def _patience(self, deadline: float | None) -> float | None:
        """How long to wait for bytes, in seconds."""
        if deadline is None:
            return self.timeout
        left = deadline - monotonic()
        if left <= 0:
            raise TimedOut("the time limit has passed")
        return left if self.timeout is None else min(left, self.timeout)

    async def _connection(self) -> tuple[Connection, bool]:
        """A connection, and whether it was used before."""
        here = place()
        if here != self._place:
            # Connections belong to another process or event loop, which has them still.
            self._idle, self._place = [], here
        while self._idle:
            since, connection = self._idle.pop()
            if monotonic() - since < IDLE_S_MAX and connection.is_idle():
                return connection, True
            connection.close()
        return await Connection.open(self.address, self._context()), False

    def _context(self) -> ssl.SSLContext | None:
        if not self.address.tls:
            return None
        if self._tls is None:
            import ssl

            try:
                self._tls = ssl.create_default_context(cafile=self._ca_cert)
            except OSError as error:
                raise EmberdError(
                    f"cannot read the certificates in {self._ca_cert}: {error}"
                ) from error
        return self._tls

    def keep(self, connection: Connection, response: _http.Response) -> None:
        """Keeps a connection whose answer has ended, and closes any other."""
        if response.keeps_alive and len(self._idle) < IDLE_CONNECTIONS_MAX and connection.is_idle():
            self._idle.append((monotonic(), connection))
        else:
            connection.close()

    def parsed(self, status: int, data: bytes) -> Parsed:  # type: ignore[type-var]
        """The JSON of an answer."""
        try:
            return json.loads(data)  # type: ignore[no-any-return]
        except ValueError as error:
            raise NotEmberd(
                f"the answer of {self.address} (HTTP {status}) is not an answer of emberd: {error}"
            ) from error

    async def _refusal(self, answer: Answer) -> EmberdError:
        """The error that an answer is."""
        body: object = self.parsed(answer.status, await answer.all())
        if not isinstance(body, dict) or "error" not in body:
            return NotEmberd(f"the answer of {self.address} (HTTP {answer.status}) is not emberd's")
        request_id = answer.headers.get("x-request-id")
        after = _retry_after(answer)
        return api_error(answer.status, body, request_id=request_id, retry_after=after)


def _retry_after(answer: Answer) -> float | None:
    """The pause that the daemon asks for, in seconds."""
    value = answer.headers.get("retry-after", "")
    return min(float(value), RETRY_AFTER_S_MAX) if value.isascii() and value.isdigit() else None


async def create_once(session: Session, body: object, key: str | None) -> types.CreatedSandbox:
    """Creates at most once: asks again with the same key where the connection breaks before the
    answer is here.
    """
    headers = [("idempotency-key", os.urandom(16).hex() if key is None else key)]
    was_sent = False
    for retry in range(RETRIES_MAX + 1):
        try:
            return await session.call("POST", "/sandboxes", body, headers=headers, idempotent=True)
        except (Broken, Unreachable) as error:
            # The daemon may be about to start again.
            was_sent = was_sent or isinstance(error, Broken)
            if not was_sent or retry == RETRIES_MAX:
                raise
            await sleep(RETRY_PAUSE_S * 2**retry)
    raise AssertionError("the last try returns or raises")
