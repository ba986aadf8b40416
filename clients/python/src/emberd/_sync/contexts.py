# Written from aio/contexts.py by tools/generate_sync.py: change that one.
"""Interpreters that keep their variables between runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Mapping

from .._results import Result, Run, given, milliseconds
from ..errors import NotFound
from ._net import Told, opening, tell
from .streams import Closing, ContextEvents, RunEvents

if TYPE_CHECKING:
    from .. import types
    from .client import Client


class Contexts:
    """The contexts of a sandbox."""

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self._id = id

    @opening
    def open(
        self,
        language: str | None = None,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> Context:
        """Opens a context. `with` deletes it at the end."""
        spec = given(language=language, cwd=cwd, env=env and dict(env), user=user)
        return Context(self._client, self._id, self._client.create_context(self._id, spec))

    def list(self) -> List[Context]:
        """All contexts, oldest first."""
        listed = self._client.list_contexts(self._id)
        return [Context(self._client, self._id, view) for view in listed["contexts"]]

    def get(self, context: str) -> Context:
        """The context of that id."""
        for found in self.list():
            if found.id == context:
                return found
        raise NotFound(f"there is no context {context!r}", code="not_found", status=404)


class Context(Closing):
    """An interpreter in a sandbox. `view` is what the daemon said of it last."""

    def __init__(self, client: Client, sandbox: str, view: types.Context) -> None:
        self._client = client
        self._sandbox = sandbox
        self.id = view["id"]
        self.view = view

    def run(
        self,
        code: str,
        *,
        timeout: float | None = None,
        max_image_bytes: int | None = None,
        on_stdout: Told[str] | None = None,
        on_stderr: Told[str] | None = None,
        on_result: Told[Result] | None = None,
    ) -> Run:
        """Runs code and returns what came of it; code that fails raises nothing.

        At the end of `timeout`, in seconds, the run is interrupted. So is one whose caller is: by
        Ctrl-C, or by an exception. A figure of Matplotlib whose image has more than
        `max_image_bytes` is drawn again with fewer dots per inch.
        """
        run = Run()
        with self.stream(
            code, timeout=timeout, max_image_bytes=max_image_bytes
        ) as events:
            for event in events:
                something = run.take(event)
                kind = event["event"]
                if kind == "stdout":
                    tell(on_stdout, something)
                elif kind == "stderr":
                    tell(on_stderr, something)
                elif kind in ("display", "result"):
                    tell(on_result, something)
        return run

    @opening
    def stream(
        self, code: str, *, timeout: float | None = None, max_image_bytes: int | None = None
    ) -> RunEvents:
        """Runs code and returns its events as they come. Closing them before `end` interrupts
        it.
        """
        body = given(
            code=code, timeout_ms=milliseconds(timeout), max_image_bytes=max_image_bytes
        )
        return self._client.run_context(self._sandbox, self.id, body)

    @opening
    def events(self, from_: int = 0) -> ContextEvents:
        """Events of all runs, from number `from_` on. Closing them interrupts nothing."""
        return self._client.follow_context(self._sandbox, self.id, from_=from_)

    def interrupt(self) -> None:
        """Interrupts the run, as Ctrl-C does."""
        self._client.interrupt_context(self._sandbox, self.id)

    def restart(self) -> None:
        """Kills the interpreter, whatever it is doing, and starts another."""
        self.view = self._client.restart_context(self._sandbox, self.id)

    def delete(self) -> None:
        """Kills the interpreter and forgets the context."""
        self._client.delete_context(self._sandbox, self.id)

    def close(self) -> None:
        """Deletes the context; one that is gone already is fine."""
        try:
            self.delete()
        except NotFound:
            pass

    def __repr__(self) -> str:
        return f"<emberd.Context {self.id} of {self._sandbox}>"
