"""Runs in notebooks: how they are shown, and `%%sandbox`.

%load_ext emberd
%sandbox code             a new sandbox of the pack `code` for the cells that follow
%%sandbox [LANGUAGE]      runs the cell in it, in a context that keeps its variables
%sandbox delete           deletes it; so does the end of the kernel
"""

from __future__ import annotations

import atexit
import sys
from typing import Any

from ._results import Result, Run
from ._sync import Sandbox
from .errors import EmberdError

_USAGE = "%sandbox [PACK | connect ID | delete], %%sandbox [LANGUAGE]"

#: The sandbox of the notebook.
_current: Sandbox | None = None


def show_run(run: Run) -> None:
    """Shows what a run wrote and displayed, in order, and its error."""
    for kind, something in run.shown():
        if kind == "result":
            show_result(something)
        else:
            _write(kind, something)
    _show_end(run)


def show_result(result: Result) -> None:
    """Shows a value with all its forms."""
    from IPython.display import display  # type: ignore[import-not-found,unused-ignore]

    display(dict(result.data), raw=True)  # type: ignore[no-untyped-call,unused-ignore]


def _write(kind: str, text: str) -> None:
    stream = sys.stdout if kind == "stdout" else sys.stderr
    stream.write(text)
    stream.flush()


def _show_end(run: Run) -> None:
    if run.error is not None:
        _write(
            "stderr",
            run.error.traceback.rstrip() + "\n" if run.error.traceback else f"{run.error}\n",
        )
    if run.timed_out:
        _write("stderr", "the run was timed out\n")
    if run.hint:
        _write("stderr", f"hint: {run.hint}\n")


def sandbox(line: str, cell: str | None = None) -> Any:
    """Runs a cell in the notebook's sandbox, which is made if there is none."""
    words = line.split()
    if cell is not None:
        if len(words) > 1:
            raise EmberdError(f"usage: {_USAGE}")
        run_cell(cell, words[0] if words else None)
        return None
    if words == ["delete"]:
        unload()
        return None
    if len(words) == 2 and words[0] == "connect":
        return _replace(Sandbox.connect(words[1]))
    if len(words) > 1:
        raise EmberdError(f"usage: {_USAGE}")
    return _replace(Sandbox.create(*words)) if words or _current is None else _current


def run_cell(cell: str, language: str | None) -> Run:
    """Runs a cell and shows what comes of it as it comes."""
    found = _current or _replace(Sandbox.create())
    run = found.run_code(
        cell,
        language=language,
        on_stdout=lambda text: _write("stdout", text),
        on_stderr=lambda text: _write("stderr", text),
        on_result=show_result,
    )
    _show_end(run)
    return run


def _replace(made: Sandbox) -> Sandbox:
    global _current
    unload()
    _current = made
    return made


def load(ipython: Any) -> None:
    """Registers the magic."""
    ipython.register_magic_function(sandbox, "line_cell", "sandbox")
    atexit.register(unload)


def unload() -> None:
    """Deletes the sandbox of the notebook; one that it was connected to stays."""
    global _current
    found, _current = _current, None
    if found is not None:
        found.close()
