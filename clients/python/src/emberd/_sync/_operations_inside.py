# Written from aio/_operations_inside.py by tools/generate_sync.py: change that one.
"""The operations of the API inside a sandbox: files, processes, contexts and ports."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Union

from .._http import Query, segment, target
from ._net import Content
from ._operations import sandbox_path
from ._session import Answer, Session
from .streams import ContextEvents, Download, FileChanges, ProcessEvents, RunEvents
from .tunnel import Tunnel

if TYPE_CHECKING:
    from .. import types

    #: Path of a file in a sandbox. Names are bytes; a string stands for its UTF-8.
    Path = Union[str, bytes, os.PathLike[str]]


def path_bytes(path: Path) -> bytes:
    """The bytes of a path, also of one with bytes that are not UTF-8."""
    return os.fsencode(path)


def _octal(mode: int | None) -> str | None:
    return None if mode is None else f"{mode:o}"


class FileOperations:
    """Operations on files of a sandbox."""

    _session: Session

    def _bytes(
        self,
        method: str,
        id: str,
        rest: str,
        query: Query,
        content: Content = b"",
        length: int | None = None,
        headers: list[tuple[str, str]] | None = None,
    ) -> Answer:
        path = target(sandbox_path(id, f"/files{rest}"), query)
        return self._session.send(method, path, content, headers=headers or (), length=length)

    def read_file(
        self,
        id: str,
        path: Path,
        *,
        offset: int = 0,
        length: int | None = None,
        user: str | None = None,
    ) -> Download:
        """The content of a file, or of the part from `offset` of at most `length` bytes."""
        headers: list[tuple[str, str]] = []
        if offset or length is not None:
            last = "" if length is None else offset + max(length, 1) - 1
            headers.append(("range", f"bytes={offset}-{last}"))
        query: Query = [("path", path_bytes(path)), ("user", user)]
        return Download(self._bytes("GET", id, "", query, headers=headers))

    def write_file(
        self,
        id: str,
        path: Path,
        content: Content,
        *,
        length: int | None = None,
        mode: int | None = None,
        user: str | None = None,
    ) -> types.FileEntry:
        """Writes a file, whole or not at all. `length`, in bytes, is checked where it is known."""
        query: Query = [("path", path_bytes(path)), ("mode", _octal(mode)), ("user", user)]
        answer = self._bytes("PUT", id, "", query, content, length)
        return self._session.parsed(answer.status, answer.all())

    def delete_file(self, id: str, path: Path, *, user: str | None = None) -> None:
        """Deletes a file, or a directory with its content. A path that does not exist is fine."""
        query: Query = [("path", path_bytes(path)), ("user", user)]
        self._session.do("DELETE", target(sandbox_path(id, "/files"), query))

    def stat_file(self, id: str, path: Path, *, user: str | None = None) -> types.FileEntry:
        """Type, size, owner and mode."""
        query: Query = [("path", path_bytes(path)), ("user", user)]
        return self._session.call("GET", target(sandbox_path(id, "/files/stat"), query))

    def list_files(
        self, id: str, path: Path, *, depth: int = 1, user: str | None = None
    ) -> types.FileList:
        """The content of a directory, `depth` levels deep."""
        query: Query = [("path", path_bytes(path)), ("depth", depth), ("user", user)]
        return self._session.call("GET", target(sandbox_path(id, "/files/list"), query))

    def make_directory(
        self, id: str, path: Path, *, mode: int | None = None, user: str | None = None
    ) -> types.FileEntry:
        """Makes a directory and its parents."""
        query: Query = [("path", path_bytes(path)), ("mode", _octal(mode)), ("user", user)]
        return self._session.call("POST", target(sandbox_path(id, "/files/dir"), query))

    def move_file(
        self, id: str, from_: Path, to: Path, *, user: str | None = None
    ) -> types.FileEntry:
        """Moves a file or a directory. A file at the new path is replaced."""
        query: Query = [("from", path_bytes(from_)), ("to", path_bytes(to)), ("user", user)]
        return self._session.call("POST", target(sandbox_path(id, "/files/move"), query))

    def watch_files(
        self, id: str, path: Path, *, recursive: bool = False, user: str | None = None
    ) -> FileChanges:
        """Changes of a file, or in a directory, from now on."""
        query: Query = [("path", path_bytes(path)), ("recursive", recursive), ("user", user)]
        watched = os.fsdecode(path)
        changes = FileChanges(self._session, sandbox_path(id, "/files/watch"), query, watched)
        return changes.start()

    def read_archive(self, id: str, path: Path, *, user: str | None = None) -> Download:
        """A directory, or one file, as a tar archive."""
        query: Query = [("path", path_bytes(path)), ("user", user)]
        return Download(self._bytes("GET", id, "/archive", query))

    def write_archive(
        self, id: str, path: Path, content: Content, *, user: str | None = None
    ) -> None:
        """Unpacks a tar archive into a directory."""
        query: Query = [("path", path_bytes(path)), ("user", user)]
        answer = self._bytes("PUT", id, "/archive", query, content)
        answer.all()


class ProcessOperations:
    """Operations on processes and ports of a sandbox."""

    _session: Session

    @staticmethod
    def _process(id: str, pid: int, rest: str = "") -> str:
        return sandbox_path(id, f"/processes/{segment(pid)}{rest}")

    def start_process(self, id: str, body: types.ProcessSpec) -> types.Process:
        """Starts a process in the background."""
        return self._session.call("POST", sandbox_path(id, "/processes"), body)

    def list_processes(self, id: str) -> types.ProcessList:
        """Processes that run, and those that ended lately."""
        return self._session.call("GET", sandbox_path(id, "/processes"))

    def get_process(self, id: str, pid: int) -> types.Process:
        """One process."""
        return self._session.call("GET", self._process(id, pid))

    def delete_process(self, id: str, pid: int) -> None:
        """Kills a process with all it started, and removes it from the list."""
        self._session.do("DELETE", self._process(id, pid))

    def follow_process(self, id: str, pid: int, *, from_: int = 0) -> ProcessEvents:
        """Events of a process from number `from_` on."""
        events = ProcessEvents(self._session, self._process(id, pid, "/events"))
        events.last_id = from_ - 1
        return events.start()

    def write_stdin(self, id: str, pid: int, content: Content, *, end: bool = False) -> None:
        """Writes to standard input, and waits until the guest has it; `end` ends the input."""
        path = target(self._process(id, pid, "/stdin"), [("end", end)])
        answer = self._session.send("POST", path, content)
        answer.all()

    def signal_process(self, id: str, pid: int, body: types.SignalProcess) -> None:
        """Sends a signal to a process and all it started."""
        self._session.do("POST", self._process(id, pid, "/signal"), body)

    def resize_process(self, id: str, pid: int, body: types.TtySize) -> None:
        """Changes the size of the terminal."""
        self._session.do("POST", self._process(id, pid, "/resize"), body, idempotent=True)

    def connect_port(self, id: str, port: int) -> Tunnel:
        """A connection to a TCP port inside the sandbox."""
        headers = [("connection", "upgrade"), ("upgrade", "tcp")]
        path = sandbox_path(id, f"/ports/{segment(port)}")
        answer = self._session.send(
            "GET", path, headers=headers, accepted=101, idempotent=False
        )
        return Tunnel(self._session, *answer.switched())


class ContextOperations:
    """Operations on the contexts of a sandbox."""

    _session: Session

    @staticmethod
    def _context(id: str, context: str, rest: str = "") -> str:
        return sandbox_path(id, f"/contexts/{segment(context)}{rest}")

    def create_context(self, id: str, body: types.ContextSpec | None = None) -> types.Context:
        """Opens a context and waits until its interpreter is ready."""
        return self._session.call("POST", sandbox_path(id, "/contexts"), body)

    def list_contexts(self, id: str) -> types.ContextList:
        """The contexts, oldest first."""
        return self._session.call("GET", sandbox_path(id, "/contexts"))

    def delete_context(self, id: str, context: str) -> None:
        """Kills the interpreter and forgets the context."""
        self._session.do("DELETE", self._context(id, context))

    def run_context(self, id: str, context: str, body: types.ContextRun) -> RunEvents:
        """Runs code; its events say how it goes. Closing them before `end` interrupts the run."""
        return RunEvents(self._session, self._context(id, context), body).start()

    def follow_context(self, id: str, context: str, *, from_: int = 0) -> ContextEvents:
        """Events of all runs of a context from number `from_` on."""
        events = ContextEvents(self._session, self._context(id, context, "/events"))
        events.last_id = from_ - 1
        return events.start()

    def interrupt_context(self, id: str, context: str) -> None:
        """Interrupts the run, if there is one."""
        path = self._context(id, context, "/interrupt")
        self._session.do("POST", path, idempotent=True)

    def restart_context(self, id: str, context: str) -> types.Context:
        """Kills the interpreter, whatever it is doing, and starts another."""
        return self._session.call("POST", self._context(id, context, "/restart"))
