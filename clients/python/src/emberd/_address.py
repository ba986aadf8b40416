"""Where the daemon is, and who may be it."""

from __future__ import annotations

import os
import socket
import struct
from urllib.parse import urlsplit

from .errors import EmberdError, Unreachable

#: Where a daemon listens unless it is told otherwise.
ADDR_DEFAULT = "127.0.0.1:7777"

#: `Host` of requests over a Unix socket.
_UNIX_HOST = "emberd"


class Address:
    """Address of a daemon: `HOST:PORT`, `http://HOST[:PORT]`, `https://HOST[:PORT]`,
    `unix:PATH`.
    """

    __slots__ = ("host", "path", "port", "tls")

    def __init__(self, text: str) -> None:
        self.path: str | None = None
        self.host, self.port, self.tls = "", 0, False
        if text.startswith("unix:"):
            self.path = text[len("unix:") :]
            if not self.path or "\0" in self.path:
                raise _malformed(text)
            return
        if any(not "!" <= letter <= "~" for letter in text):
            raise _malformed(text)
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            port = parts.port
        except ValueError:
            raise _malformed(text) from None
        rest = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        if parts.scheme not in ("http", "https") or not parts.hostname or rest:
            raise _malformed(text)
        self.tls = parts.scheme == "https"
        if port is None and "://" not in text:
            raise _malformed(text)
        self.host, self.port = parts.hostname, port or (443 if self.tls else 80)

    @property
    def authority(self) -> str:
        """`Host` of requests."""
        if self.path is not None:
            return _UNIX_HOST
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"{'https' if self.tls else 'http'}://{self.authority}"


def _malformed(text: str) -> EmberdError:
    return EmberdError(
        f"{text!r} is not an address\n"
        "hint: use HOST:PORT, http://HOST:PORT, https://HOST or unix:/PATH/emberd.sock"
    )


def find_address(given: str | None) -> Address:
    """The address that is given; else of `EMBERD_URL`, else of `EMBERD_ADDR`, else the socket of
    this user's daemon where there is one, else the default.
    """
    for text in (given, os.environ.get("EMBERD_URL"), os.environ.get("EMBERD_ADDR")):
        if text:
            return Address(text)
    path = _user_socket()
    return Address(f"unix:{path}" if path and os.path.exists(path) else ADDR_DEFAULT)


def _user_socket() -> str | None:
    if os.geteuid() == 0:
        return "/run/emberd/emberd.sock"
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(runtime_dir, "emberd/emberd.sock") if runtime_dir else None


def check_listener(connected: socket.socket, address: Address) -> None:
    """Refuses a Unix socket of another user who is not root: it would learn code and secrets."""
    if not hasattr(socket, "SO_PEERCRED"):
        return
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack(
        "3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    if uid not in (0, os.geteuid()):
        raise Unreachable(f"{address} is owned by user {uid}, not by this user or root")
