"""Programs that run in the background, and terminals."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, cast

from .._results import Exit
from ..errors import Broken, NotFound, SandboxGone
from ._net import Content, opening
from .streams import Closing, ProcessEvents

if TYPE_CHECKING:
    from .. import types
    from .client import Client


class Stdin:
    """Standard input of a process."""

    def __init__(self, client: Client, sandbox: str, pid: int) -> None:
        self._client = client
        self._where = (sandbox, pid)

    async def write(self, data: Content) -> None:
        """Writes, and waits while the program reads nothing and 256 KiB are unread."""
        await self._client.write_stdin(*self._where, data)

    async def end(self) -> None:
        """Ends the input. A terminal receives Ctrl-D."""
        await self._client.write_stdin(*self._where, b"", end=True)


class Process(Closing):
    """A program in a sandbox. Iterating it gives its events from the first on; `exit` is the last.

    `async with` kills it at the end. A client that goes away does not end it:
    `sandbox.process(pid)` finds it again.
    """

    def __init__(self, client: Client, sandbox: str, view: types.Process) -> None:
        self._client = client
        self._sandbox = sandbox
        self._stream: ProcessEvents | None = None
        self.pid = view["pid"]
        self.view = view
        self.stdin = Stdin(client, sandbox, self.pid)

    @opening
    async def events(self, from_: int = 0) -> ProcessEvents:
        """Its events from number `from_` on, on a connection of their own."""
        return await self._client.follow_process(self._sandbox, self.pid, from_=from_)

    def __aiter__(self) -> Process:
        return self

    async def __anext__(self) -> types.ProcessEvent:
        if self._stream is None:
            self._stream = await self.events()
        return await self._stream.__anext__()

    async def wait(self, timeout: float | None = None) -> Exit:
        """Waits for its end, at most for so many seconds: then `TimedOut`, and it goes on."""
        info = await self.info()
        exit = info.get("exit")
        if exit is not None:
            return Exit(exit)
        async with self.events(info["next_event"]) as events:
            events.deadline = None if timeout is None else monotonic() + timeout
            async for event in events:
                if event["event"] == "exit":
                    return Exit(event)
        raise Broken("the events of the process ended before it did")

    async def info(self) -> types.Process:
        """What the daemon says of it now."""
        self.view = await self._client.get_process(self._sandbox, self.pid)
        return self.view

    async def signal(self, name: str) -> None:
        """Sends a signal, `INT` or `SIGINT`, to it and to all it started."""
        name = name.upper()
        signal = cast("types.SignalName", name if name.startswith("SIG") else f"SIG{name}")
        await self._client.signal_process(self._sandbox, self.pid, {"signal": signal})

    async def resize(self, cols: int, rows: int) -> None:
        """Changes the size of its terminal."""
        await self._client.resize_process(self._sandbox, self.pid, {"cols": cols, "rows": rows})

    async def kill(self) -> None:
        """Kills it with all it started, and removes it from the list."""
        await self._client.delete_process(self._sandbox, self.pid)

    async def aclose(self) -> None:
        """Kills it; one that is gone already is fine."""
        if self._stream is not None:
            await self._stream.aclose()
        try:
            await self.kill()
        except (NotFound, SandboxGone):
            pass

    def __repr__(self) -> str:
        return f"<emberd.{type(self).__name__} {self.pid} of {self._sandbox}>"


class Terminal(Process):
    """A program at a terminal. All it writes is `stdout`, with the terminal's own sequences."""

    async def write(self, keys: str | bytes) -> None:
        """Types keys: `"ls\\n"`, or `"\\x03"` for Ctrl-C."""
        await self.stdin.write(keys)
