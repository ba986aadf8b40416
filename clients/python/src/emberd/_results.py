"""What programs and runs leave: outcomes of execs, exits of processes, results of runs."""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING, Any, Mapping

from .errors import ProgramFailed

if TYPE_CHECKING:
    from . import types


def milliseconds(seconds: float | None) -> int | None:
    """Seconds of Python as milliseconds of the API."""
    return None if seconds is None else round(seconds * 1000)


def given(**fields: Any) -> Any:
    """The fields that are not None: what a body leaves out is the daemon's default."""
    return {name: value for name, value in fields.items() if value is not None}


class Exit:
    """How a program ended. `raw` has every field of the API."""

    def __init__(self, raw: types.ExecExit) -> None:
        self.raw = raw
        #: 128 + n after signal n, -1 if the program never ran or was timed out.
        self.exit_code = raw["exit_code"]
        self.signal: int | None = raw.get("signal")
        self.timed_out: bool = raw.get("timed_out", False)
        self.out_of_memory: bool = bool(raw.get("out_of_memory"))
        #: Why the program was not started or timed out.
        self.error: str | None = raw.get("error")
        #: Destinations that the network policy denied meanwhile.
        self.egress_denied: list[types.EgressDenied] = raw.get("egress_denied") or []
        #: Advice on what to ask for.
        self.hint: str | None = raw.get("hint")

    @property
    def ok(self) -> bool:
        """Whether the program ran and exited with 0."""
        return self.exit_code == 0 and not self.error

    def _failure(self) -> str:
        if self.error:
            return self.error
        if self.out_of_memory:
            return "the program ran out of memory"
        if self.signal is not None:
            return f"the program was killed by signal {self.signal}"
        return f"the program exited with {self.exit_code}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {'ok' if self.ok else self._failure()}>"


class Outcome(Exit):
    """How a program ended, and what it wrote."""

    raw: types.ExecOutcome

    def __init__(self, raw: types.ExecOutcome) -> None:
        super().__init__(raw)
        self.stdout = raw["stdout"]
        self.stderr = raw["stderr"]
        self.duration_ms = raw["duration_ms"]

    @property
    def stdout_bytes(self) -> bytes:
        """Standard output as it was, also where it is not UTF-8."""
        return _bytes(self.stdout, self.raw.get("stdout_base64"))

    @property
    def stderr_bytes(self) -> bytes:
        """Standard error as it was."""
        return _bytes(self.stderr, self.raw.get("stderr_base64"))

    def check(self) -> Outcome:
        """Raises `ProgramFailed` unless the program exited with 0."""
        if self.ok:
            return self
        tail = self.stderr[-4000:].rstrip()
        lines = [self._failure(), tail, f"hint: {self.hint}" if self.hint else ""]
        raise ProgramFailed("\n".join(line for line in lines if line), self)

    def __str__(self) -> str:
        return self.stdout


def _bytes(text: str, encoded: str | None) -> bytes:
    return b64decode(encoded) if encoded is not None else text.encode()


class Result:
    """A value that a run displayed, or that its last expression had: `data` by MIME type."""

    def __init__(self, data: Mapping[str, Any], *, is_value: bool) -> None:
        self.data = data
        #: Whether it is the value of the last expression.
        self.is_value = is_value

    @property
    def text(self) -> str:
        """Its `text/plain`."""
        return str(self.data.get("text/plain", ""))

    @property
    def image(self) -> bytes | None:
        """Its picture: PNG, JPEG or SVG."""
        for mime in ("image/png", "image/jpeg"):
            if mime in self.data:
                return b64decode(self.data[mime])
        svg = self.data.get("image/svg+xml")
        return None if svg is None else str(svg).encode()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return dict(self.data)

    def __repr__(self) -> str:
        return self.text or f"<Result: {', '.join(self.data)}>"


class RunFailure:
    """The exception that a run ended with."""

    def __init__(self, name: str, value: str, traceback: str) -> None:
        self.name = name
        self.value = value
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.name}: {self.value}" if self.value else self.name

    def __repr__(self) -> str:
        return f"<RunFailure: {self}>"


class Run:
    """What a run of a context wrote and displayed. Jupyter shows all of it."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.error: RunFailure | None = None
        self.execution_count: int | None = None
        self.timed_out = False
        #: Whether output or a value was over a limit and dropped, or is missing (`gap`).
        self.truncated = False
        self.egress_denied: list[types.EgressDenied] = []
        self.hint: str | None = None
        #: What happened, in order: text of an output, or a result.
        self._shown: list[tuple[str, Any]] = []

    @property
    def stdout(self) -> str:
        """What the run wrote to standard output."""
        return self._written("stdout")

    @property
    def stderr(self) -> str:
        """What the run wrote to standard error."""
        return self._written("stderr")

    def _written(self, stream: str) -> str:
        return "".join(text for kind, text in self._shown if kind == stream)

    @property
    def text(self) -> str:
        """`text/plain` of the last expression's value; empty if it had none."""
        return next((one.text for one in reversed(self.results) if one.is_value), "")

    @property
    def images(self) -> list[bytes]:
        """All pictures, in order."""
        return [image for one in self.results if (image := one.image) is not None]

    @property
    def ok(self) -> bool:
        """Whether the run ended without an error."""
        return self.error is None and not self.timed_out

    def check(self) -> Run:
        """Raises `ProgramFailed` if the run had an error."""
        if self.error is not None:
            lines = [self.error.traceback.rstrip() or str(self.error)]
            raise ProgramFailed("\n".join([*lines, *self._hint()]), self)
        if self.timed_out:
            raise ProgramFailed("the run was timed out", self)
        return self

    def _hint(self) -> list[str]:
        return [f"hint: {self.hint}"] if self.hint else []

    def take(self, event: Any) -> Any:
        """Adds an event of the run; returns the text or the result in it."""
        kind = event["event"]
        if kind in ("stdout", "stderr"):
            self._shown.append((kind, event["text"]))
            return event["text"]
        if kind in ("display", "result"):
            result = Result(event["data"], is_value=kind == "result")
            self.results.append(result)
            self._shown.append(("result", result))
            return result
        if kind == "started":
            self.execution_count = event["execution_count"]
        elif kind == "error":
            self.error = RunFailure(event["name"], event["value"], event["traceback"])
        elif kind == "gap":
            self.truncated = True
        elif kind == "end":
            self.timed_out = event["timed_out"]
            self.truncated = self.truncated or event["truncated"]
            self.egress_denied = event.get("egress_denied") or []
            self.hint = event.get("hint")
        return None

    def _ipython_display_(self) -> None:
        from ._jupyter import show_run

        show_run(self)

    def shown(self) -> list[tuple[str, Any]]:
        """What happened, in order: `stdout` or `stderr` with text, `result` with a `Result`."""
        return list(self._shown)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return dict(self.results[-1].data) if self.results else {"text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"<Run: {self.error or self.text or 'ok'}>"
