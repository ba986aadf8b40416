# Written from aio/streams.py by tools/generate_sync.py: change that one.
"""Events that arrive while something goes on.

A stream whose connection breaks is opened again from the number after the last event received, so
that no event is lost or repeated. Events that the daemon does not keep any more are an event `gap`.
"""

from __future__ import annotations

import json
from collections import deque
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Iterator, Generic, TypeVar

from .. import _http
from .._http import Query
from ..errors import Broken, NotEmberd, Unreachable, told_error
from ._net import sleep
from ._session import RETRIES_MAX, RETRY_PAUSE_S, Answer, Session

if TYPE_CHECKING:
    from typing_extensions import Self

    from .. import types

E = TypeVar("E")

#: A stream that has lasted so long, in seconds, starts its count of attempts again.
SETTLED_S = 10.0

#: Largest event that is read, in bytes (256 MiB): a value of 32 MiB, escaped in JSON.
EVENT_BYTES_MAX = 256 << 20


class Closing:
    """A thing that `with` closes."""

    def close(self) -> None:
        """Ends it."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Events(Closing, Generic[E]):
    """Events as they come. Iterating it waits for the next one; closing it ends the request."""

    def __init__(self, session: Session, path: str, query: Query = ()) -> None:
        self._session = session
        self._path = path
        self._query = list(query)
        self._answer: Answer | None = None
        self._parser = _http.ServerEvents(EVENT_BYTES_MAX)
        self._arrived: deque[E] = deque()
        self._over = False
        #: Attempts to open the stream again, since the last event.
        self._retries = 0
        self._opened_at = monotonic()
        #: Time of `monotonic()` after which waiting for an event fails with `TimedOut`.
        self.deadline: float | None = None
        #: Number of the last event that was received.
        self.last_id: int | None = None

    def start(self) -> Self:
        """Opens the stream, so that a refusal is raised here."""
        while self._answer is None:
            try:
                self._answer = self._open()
            except Broken as error:
                self._broke(error)
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> E:
        try:
            while not self._arrived:
                if self._over:
                    raise StopIteration
                self._receive()
        except StopIteration:
            raise
        except BaseException:
            self._drop()
            raise
        event = self._arrived.popleft()
        self._retries = 0
        try:
            self._note(event)
        except (TypeError, KeyError, IndexError) as error:
            self._drop()
            raise self._malformed(error) from error
        return event

    def _malformed(self, error: Exception) -> NotEmberd:
        return NotEmberd(f"an event of {self._session.address} is not one of emberd: {error!r}")

    def close(self) -> None:
        """Ends the request. Events that were not taken yet are dropped."""
        self._over = True
        self._arrived.clear()
        self._drop()

    def _drop(self) -> None:
        answer, self._answer = self._answer, None
        self._parser = _http.ServerEvents(EVENT_BYTES_MAX)
        if answer is not None:
            answer.close()

    def _receive(self) -> None:
        """Reads once, or opens the stream again."""
        try:
            if self._answer is None:
                self._answer = self._open()
                self._opened_at = monotonic()
            data = self._answer.piece(self.deadline)
        except (Broken, Unreachable) as error:
            self._broke(error)
            return
        if data is None:
            self._ended()
            return
        for name, text in self._parse(data):
            try:
                self._take(name, json.loads(text))
            except (ValueError, TypeError, KeyError) as error:
                raise self._malformed(error) from error

    def _parse(self, data: bytes) -> list[tuple[str, str]]:
        try:
            return self._parser.feed(data)
        except _http.Malformed as error:
            raise self._malformed(error) from error

    def _broke(self, error: Broken | Unreachable) -> None:
        """Prepares another attempt, after a pause."""
        self._drop()
        if monotonic() - self._opened_at > SETTLED_S:
            self._retries = 0
        if self._retries >= RETRIES_MAX:
            raise error
        pause = RETRY_PAUSE_S * 2**self._retries
        self._retries += 1
        if self.deadline is not None:
            pause = max(0.0, min(pause, self.deadline - monotonic()))
        sleep(pause)

    def _open(self) -> Answer:
        query = [*self._query, *self._resume()]
        headers = [("accept", "text/event-stream")]
        path = _http.target(self._path, query)
        return _checked(self._session.send("GET", path, headers=headers), self._session)

    def _resume(self) -> Query:
        """What the query says of the next event; nothing before the first."""
        return () if self.last_id is None else [("from", self.last_id + 1)]

    def _ended(self) -> None:
        """The daemon has ended the stream in order."""
        self._over = True
        self._drop()

    def _take(self, name: str, event: Any) -> None:
        """Takes an event that has arrived."""
        if name == "error" and "code" in event and "id" not in event:
            raise told_error(event)
        self._arrived.append(event)

    def _note(self, event: Any) -> None:
        """Remembers where to go on."""
        self.last_id = event["id"]


def _checked(answer: Answer, session: Session) -> Answer:
    """Refuses an answer of another type than events."""
    kind = answer.headers.get("content-type", "")
    if not kind.startswith("text/event-stream"):
        answer.close()
        raise NotEmberd(f"{session.address} answered with {kind or 'no type'} instead of events")
    return answer


class ProcessEvents(Events["types.ProcessEvent"]):
    """Events of a process; the last one is `exit`."""

    def _note(self, event: Any) -> None:
        super()._note(event)
        if event["event"] == "exit":
            self._over = True

    def _ended(self) -> None:
        # The daemon stops, and the next one takes the process over.
        self._broke(Broken(f"the daemon at {self._session.address} ended the events"))


class ContextEvents(Events["types.ContextEvent"]):
    """Events of all runs of a context, until the context is deleted or the daemon stops."""


class RunEvents(Events["types.ContextEvent"]):
    """Events of one run; the last one is `end`. Closing it before interrupts the run.

    A run whose connection breaks after its first event is read on from the events of its context.
    Before, nobody knows whether the run began: that is `Broken`.
    """

    def __init__(self, session: Session, context_path: str, body: types.ContextRun) -> None:
        super().__init__(session, f"{context_path}/events")
        self._context_path = context_path
        self._body = body
        #: Number of this run, once it has begun.
        self._count: int | None = None
        #: Whether the last event was a gap, in which the end may be.
        self._in_doubt = False

    def start(self) -> Self:
        path = f"{self._context_path}/run"
        body = json.dumps(self._body).encode()
        headers = [("accept", "text/event-stream"), ("content-type", "application/json")]
        answer = self._session.send("POST", path, body, headers=headers)
        self._answer = _checked(answer, self._session)
        return self

    def _broke(self, error: Broken | Unreachable) -> None:
        if self.last_id is None:
            self._drop()
            raise error
        super()._broke(error)

    def _ended(self) -> None:
        self._broke(Broken(f"the daemon at {self._session.address} ended the run's events"))

    def _note(self, event: Any) -> None:
        super()._note(event)
        if event["event"] == "started":
            if self._count not in (None, event["execution_count"]):
                # A gap had the end of this run in it.
                raise Broken("the end of the run is not kept any more")
            self._count = event["execution_count"]
        self._in_doubt = event["event"] == "gap"
        self._over = event["event"] == "end"

    def _receive(self) -> None:
        if self._in_doubt:
            self._in_doubt = False
            self._check_end()
        super()._receive()

    def _check_end(self) -> None:
        """After a gap with nothing behind it: the end of the run may be in the gap."""
        contexts_path, _, name = self._context_path.rpartition("/")
        listed: types.ContextList = self._session.call("GET", contexts_path)
        for context in listed["contexts"]:
            if context["id"] == name:
                more = context["next_event"] > (self.last_id or 0) + 1
                if more or context["state"] == "busy":
                    return
        raise Broken("the end of the run is not kept any more")


class _After(Events[E]):
    """Events that are continued after a number instead of from one."""

    def _resume(self) -> Query:
        return () if self.last_id is None else [("after", self.last_id)]


class DaemonEvents(_After["types.DaemonEvent"]):
    """What becomes of the daemon's sandboxes. A gap has `after` and `before`, and no `event`."""

    def _note(self, event: Any) -> None:
        self.last_id = event["before"] - 1 if "before" in event else event["seq"]


class _Records(_After[E]):
    """Records of a log. A gap has `gap`, the number of records that are lost."""

    def _note(self, event: Any) -> None:
        # Numbers are dense: after a gap of three, three numbers have passed.
        self.last_id = (self.last_id or 0) + event["gap"] if "gap" in event else event["seq"]


class EgressEvents(_Records["types.EgressEvent"]):
    """Records of a sandbox's connections. A gap has `gap`, the number of records that are lost."""


class AuditEvents(_Records["types.AuditEvent"]):
    """Records of the audit journal. A gap has `gap`, the number of records that are gone."""


class FileChanges(Events["types.FileChange"]):
    """Changes of watched files.

    Changes have no numbers. After a connection that broke, the first event is `overflow` of the
    watched path: changes may be lost, list it again.
    """

    def __init__(self, session: Session, path: str, query: Query, watched: str) -> None:
        super().__init__(session, path, query)
        self._watched = watched
        self._started = False

    def _take(self, name: str, event: Any) -> None:
        if name == "watching":
            if self._started:
                self._arrived.append({"change": "overflow", "path": self._watched})
            self._started = True
        elif name in ("change", "error"):
            super()._take(name, event)

    def _note(self, event: Any) -> None:
        pass

    def _resume(self) -> Query:
        return ()


class Download(Closing):
    """Bytes that are read piece by piece."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        #: Length in bytes, if the daemon named it.
        self.length = answer.length

    def read(self) -> bytes:
        """All that is left."""
        return b"".join([piece for piece in self])

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = self._answer.piece()
        if piece is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        """Ends the request, also before the last byte."""
        self._answer.close()
