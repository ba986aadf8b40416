"""Connections over asyncio. `_sync/_net.py` has the same names over blocking sockets; everything
that stands on them is written once, here, and translated.
"""

from __future__ import annotations

import asyncio
import functools
import os
import select
import socket
import struct
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    BinaryIO,
    Callable,
    Coroutine,
    Generator,
    Generic,
    Iterable,
    TypeVar,
    Union,
    cast,
)

from .._address import Address, check_listener
from ..errors import EmberdError, TimedOut, Unreachable

if TYPE_CHECKING:
    import ssl

    from typing_extensions import ParamSpec

    P = ParamSpec("P")

T = TypeVar("T")

#: Called with something that has happened. Of the asynchronous client it may be a coroutine.
Told = Callable[[T], Union[None, Awaitable[None]]]

#: Content of an upload: bytes, a file that is open for reading, or pieces.
Content = Union[bytes, str, BinaryIO, Iterable[bytes], AsyncIterable[bytes]]

#: Longest wait for a connection, in seconds.
CONNECT_S_MAX = 10.0

#: Most bytes that are read at once (256 KiB).
READ_BYTES = 256 << 10

sleep = asyncio.sleep


class Opening(Generic[T]):
    """What `async with` enters and `await` returns: the one that a coroutine makes.

    What is made here has nothing to do when it is entered; leaving it closes it.
    """

    def __init__(self, making: Coroutine[Any, Any, T]) -> None:
        self._making = making

    def __await__(self) -> Generator[Any, None, T]:
        return self._making.__await__()

    async def __aenter__(self) -> T:
        made = await self._making
        self._made: Any = made
        return made

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._made.__aexit__(kind, error, traceback)


def opening(make: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Opening[T]]:
    """Lets `async with` take what a method returns, without another `await`."""

    @functools.wraps(make)
    def begin(*args: P.args, **kwargs: P.kwargs) -> Opening[T]:
        return Opening(make(*args, **kwargs))

    return begin


async def tell(told: Told[T] | None, something: T) -> None:
    """Calls `told`, if there is one."""
    if told is not None:
        waiting = told(something)
        if waiting is not None:
            await waiting


async def pieces(content: Content) -> AsyncIterator[bytes]:
    """The pieces of an upload."""
    if isinstance(content, str):
        content = content.encode()
    if isinstance(content, (bytes, bytearray, memoryview)):
        for start in range(0, len(content), READ_BYTES):
            yield bytes(content[start : start + READ_BYTES])
    elif isinstance(content, AsyncIterable):
        async for piece in content:
            yield piece
    elif hasattr(content, "read"):
        file = cast(BinaryIO, content)
        while piece := file.read(READ_BYTES):
            yield piece
    else:
        for piece in content:
            yield piece


def place() -> object:
    """Where connections may be used: this process and this event loop."""
    return (os.getpid(), id(asyncio.get_running_loop()))


class _Reader(asyncio.StreamReader):
    """Gives all that has arrived before it tells that the connection broke.

    The reader of asyncio drops what nobody has taken yet. A stream whose connection breaks again
    and again would then lose the same events each time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=READ_BYTES, loop=loop)
        #: Why the connection broke. Of use once there is nothing left to read.
        self.broken: Exception | None = None

    def set_exception(self, exc: Exception) -> None:
        self.broken = exc
        self.feed_eof()


class Connection:
    """One connection to a daemon."""

    def __init__(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        #: A read that was begun before anybody waits for its bytes.
        self._early: asyncio.Task[bytes] | None = None
        #: The socket once more, while a request is written whose answer may come before its end.
        self._spare: socket.socket | None = None
        self._poll = select.poll()
        self._poll.register(writer.get_extra_info("socket").fileno(), select.POLLIN)

    @classmethod
    async def open(cls, address: Address, tls: ssl.SSLContext | None) -> Connection:
        try:
            streams = await asyncio.wait_for(_connect(address, tls), CONNECT_S_MAX)
        except asyncio.TimeoutError:
            raise Unreachable(f"{address} does not answer in {CONNECT_S_MAX:.0f} s") from None
        except OSError as error:
            raise Unreachable(f"cannot connect to a daemon at {address}: {error}") from error
        connection = cls(*streams)
        if address.path is not None:
            try:
                check_listener(streams[1].get_extra_info("socket"), address)
            except BaseException:
                connection.close()
                raise
        return connection

    async def write(self, data: bytes, timeout: float | None) -> None:
        self._writer.write(data)
        await _within(self._writer.drain(), timeout)

    async def read(self, timeout: float | None) -> bytes:
        """The next bytes; none at the end."""
        early, self._early = self._early, None
        try:
            data = await _within(early or self._reader.read(READ_BYTES), timeout)
            if not data and self._reader.broken is not None:
                raise self._reader.broken
            return data
        except OSError:
            # A transport that cannot write drops what has arrived: perhaps why it cannot.
            if data := self._left_behind():
                return data
            raise

    def _left_behind(self) -> bytes:
        """What has arrived and the transport has not read."""
        try:
            return self._spare.recv(READ_BYTES, socket.MSG_DONTWAIT) if self._spare else b""
        except OSError:
            return b""

    async def has_input(self) -> bool:
        """Whether bytes, or the end, have arrived. Never waits."""
        if self._early is None:
            self._early = asyncio.ensure_future(self._reader.read(READ_BYTES))
            self._take_spare()
        await asyncio.sleep(0)
        return self._early.done()

    def _take_spare(self) -> None:
        connected = self._writer.get_extra_info("socket")
        is_tls = self._writer.get_extra_info("ssl_object") is not None
        if self._spare is None and not is_tls and connected.fileno() >= 0:
            self._spare = socket.socket(fileno=os.dup(connected.fileno()))

    def is_idle(self) -> bool:
        """Whether the connection is open and nothing has arrived that nobody asked for."""
        if self._early or self._writer.is_closing() or self._reader.at_eof():
            return False
        # An end that has arrived, and that the event loop has not come to see.
        return not self._poll.poll(0)

    def end(self) -> None:
        """Ends the bytes to the daemon. Those from it go on."""
        if not self._writer.can_write_eof():
            raise EmberdError("TLS cannot end one direction: close the tunnel instead")
        self._writer.write_eof()

    def close(self, *, reset: bool = False) -> None:
        """Closes the connection at once; with `reset`, so that the other side sees an error."""
        if self._early is not None:
            self._early.cancel()
            if self._early.done() and not self._early.cancelled():
                self._early.exception()  # Nobody else asks for it.
        if self._spare is not None:
            self._spare.close()
        connected = self._writer.get_extra_info("socket")
        if reset and connected is not None and connected.fileno() >= 0:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            self._writer.transport.abort()
        except RuntimeError:
            pass  # The event loop is closed, and the connection with it.


async def _connect(
    address: Address, tls: ssl.SSLContext | None
) -> tuple[_Reader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = _Reader(loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport: asyncio.Transport
    if address.path is not None:
        transport, _ = await loop.create_unix_connection(lambda: protocol, address.path)
    else:
        host, port = address.host, address.port
        transport, _ = await loop.create_connection(lambda: protocol, host, port, ssl=tls)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _within(waiting: Awaitable[T], timeout: float | None) -> T:
    if timeout is None:
        return await waiting
    try:
        return await asyncio.wait_for(waiting, timeout)
    except asyncio.TimeoutError:
        raise TimedOut(f"the daemon was silent for {timeout:g} s") from None
