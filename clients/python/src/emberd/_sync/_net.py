"""Connections over blocking sockets, under the names of `aio/_net.py`."""

from __future__ import annotations

import os
import select
import socket
import struct
from time import sleep as sleep
from typing import TYPE_CHECKING, BinaryIO, Callable, Iterable, Iterator, TypeVar, Union, cast

from .._address import Address, check_listener
from ..errors import EmberdError, TimedOut, Unreachable

if TYPE_CHECKING:
    import ssl

    from typing_extensions import ParamSpec

    P = ParamSpec("P")

T = TypeVar("T")

#: Called with something that has happened.
Told = Callable[[T], None]

#: Content of an upload: bytes, a file that is open for reading, or pieces.
Content = Union[bytes, str, BinaryIO, Iterable[bytes]]

#: Longest wait for a connection, in seconds.
CONNECT_S_MAX = 10.0

#: Most bytes that are read at once (256 KiB).
READ_BYTES = 256 << 10


def opening(make: Callable[P, T]) -> Callable[P, T]:
    """What `with` takes is what the method returns."""
    return make


def tell(told: Told[T] | None, something: T) -> None:
    """Calls `told`, if there is one."""
    if told is not None:
        told(something)


def pieces(content: Content) -> Iterator[bytes]:
    """The pieces of an upload."""
    if isinstance(content, str):
        content = content.encode()
    if isinstance(content, (bytes, bytearray, memoryview)):
        for start in range(0, len(content), READ_BYTES):
            yield bytes(content[start : start + READ_BYTES])
    elif hasattr(content, "read"):
        file = cast(BinaryIO, content)
        while piece := file.read(READ_BYTES):
            yield piece
    else:
        yield from content


def place() -> object:
    """Where connections may be used: this process."""
    return os.getpid()


class Connection:
    """One connection to a daemon."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)

    @classmethod
    def open(cls, address: Address, tls: ssl.SSLContext | None) -> Connection:
        try:
            connected = _connect(address, tls)
        except TimeoutError:
            raise Unreachable(f"{address} does not answer in {CONNECT_S_MAX:.0f} s") from None
        except OSError as error:
            raise Unreachable(f"cannot connect to a daemon at {address}: {error}") from error
        return cls(connected)

    def write(self, data: bytes, timeout: float | None) -> None:
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise _silent(timeout) from None

    def read(self, timeout: float | None) -> bytes:
        """The next bytes; none at the end."""
        self._socket.settimeout(timeout)
        try:
            return self._socket.recv(READ_BYTES)
        except TimeoutError:
            raise _silent(timeout) from None

    def has_input(self) -> bool:
        """Whether bytes, or the end, have arrived. Never waits."""
        pending = getattr(self._socket, "pending", None)
        return bool(pending and pending()) or bool(self._poll.poll(0))

    def is_idle(self) -> bool:
        """Whether the connection is open and nothing has arrived that nobody asked for."""
        return self._socket.fileno() >= 0 and not self.has_input()

    def end(self) -> None:
        """Ends the bytes to the daemon. Those from it go on."""
        if hasattr(self._socket, "unwrap"):
            raise EmberdError("TLS cannot end one direction: close the tunnel instead")
        self._socket.shutdown(socket.SHUT_WR)

    def close(self, *, reset: bool = False) -> None:
        """Closes the connection at once; with `reset`, so that the other side sees an error."""
        if reset and self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


def _connect(address: Address, tls: ssl.SSLContext | None) -> socket.socket:
    if address.path is not None:
        connected = socket.socket(socket.AF_UNIX)
    else:
        connected = socket.create_connection((address.host, address.port), CONNECT_S_MAX)
    try:
        if address.path is not None:
            connected.settimeout(CONNECT_S_MAX)
            connected.connect(address.path)
            check_listener(connected, address)
        else:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            connected = tls.wrap_socket(connected, server_hostname=address.host)
    except BaseException:
        connected.close()
        raise
    return connected


def _silent(timeout: float | None) -> TimedOut:
    return TimedOut(f"the daemon was silent for {timeout or 0:g} s")
