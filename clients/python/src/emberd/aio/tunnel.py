"""A connection to a port inside a sandbox."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import Broken
from ._net import Connection

if TYPE_CHECKING:
    from ._session import Session


class Tunnel:
    """Bytes to and from a port inside a sandbox.

    Each side may end its direction and go on to read: `end` does. A connection that ends because
    the sandbox does is `Broken`. Left by an exception, it is reset, and the daemon lets go of it at
    once.
    """

    def __init__(self, session: Session, connection: Connection, arrived: bytes) -> None:
        self._session = session
        self._connection = connection
        self._arrived = arrived

    async def read(self) -> bytes:
        """The next bytes; none once the server has ended its direction."""
        if self._arrived:
            data, self._arrived = self._arrived, b""
            return data
        try:
            return await self._connection.read(self._session.timeout)
        except OSError as error:
            raise Broken(f"the connection to the port broke: {error}") from error

    async def read_all(self) -> bytes:
        """All bytes until the server ends its direction."""
        read: list[bytes] = []
        while data := await self.read():
            read.append(data)
        return b"".join(read)

    async def write(self, data: bytes) -> None:
        """Sends bytes to the server, and waits while it takes none."""
        try:
            await self._connection.write(data, self._session.timeout)
        except OSError as error:
            raise Broken(f"the connection to the port broke: {error}") from error

    def end(self) -> None:
        """Ends the bytes to the server. Not over https."""
        self._connection.end()

    def abort(self) -> None:
        """Resets the connection. What was written and not sent yet is lost."""
        self._connection.close(reset=True)

    async def aclose(self) -> None:
        """Closes the connection in both directions."""
        self._connection.close()

    async def __aenter__(self) -> Tunnel:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close(reset=error is not None)
