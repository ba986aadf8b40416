"""A client of one daemon."""

from __future__ import annotations

from ._operations import DaemonOperations
from ._operations_inside import ContextOperations, FileOperations, ProcessOperations
from ._session import Session
from .streams import Closing


class Client(DaemonOperations, FileOperations, ProcessOperations, ContextOperations, Closing):
    """Every operation of the API, under its own name, with the API's own fields.

    `Sandbox` is what programs mostly want. A client keeps its connections, and may be shared by
    threads or by the tasks of one event loop.

    `url` is `HOST:PORT`, `http://…`, `https://…` or `unix:PATH`; without it `EMBERD_URL`, then
    `EMBERD_ADDR`, then this user's own socket, then `127.0.0.1:7777`. `api_key` is that of
    `EMBERD_API_KEY`, `ca_cert` the file of `EMBERD_CA_CERT`. `timeout` is the longest silence of
    the daemon in seconds, none by default: an exec may take an hour.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        ca_cert: str | None = None,
        timeout: float | None = None,
    ) -> None:
        self._session = Session(url, api_key, ca_cert, timeout)

    @property
    def url(self) -> str:
        """Address of the daemon."""
        return str(self._session.address)

    def port_url(self, id: str, port: int) -> str | None:
        """Address of a port of a sandbox, for HTTP; None over a Unix socket, which has none."""
        address = self._session.address
        if address.path is not None:
            return None
        scheme = "https" if address.tls else "http"
        numeric = ":" in address.host or address.host.replace(".", "").isdigit()
        host = "localhost" if numeric else address.host
        colon, _, number = address.authority.rpartition(":")
        suffix = f":{number}" if colon and number.isdigit() else ""
        return f"{scheme}://{port}-{id.replace('_', '-')}.{host}{suffix}/"

    async def aclose(self) -> None:
        """Closes the unused connections."""
        self._session.close()

    def __repr__(self) -> str:
        return f"<emberd.{type(self).__name__} of {self.url}>"
