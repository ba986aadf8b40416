"""Runs code in microVMs of emberd.

    import emberd
    with emberd.Sandbox.create("python") as sandbox:
        print(sandbox.exec("print(6*7)").stdout)

`emberd.aio` has the same names for asyncio, `emberd.types` the shapes of what the daemon answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import errors
from ._results import Exit, Outcome, Result, Run, RunFailure
from ._sync import (
    AuditEvents,
    Client,
    Context,
    ContextEvents,
    Contexts,
    DaemonEvents,
    Download,
    Egress,
    EgressEvents,
    Events,
    FileChanges,
    Files,
    Process,
    ProcessEvents,
    RunEvents,
    Sandbox,
    Stdin,
    Terminal,
    Tunnel,
)
from .errors import (
    AlreadyExists,
    ApiError,
    Broken,
    Conflict,
    ContextDead,
    Denied,
    EmberdError,
    GuestFailed,
    InvalidRequest,
    NoSpace,
    NotEmberd,
    NotFound,
    PortClosed,
    ProcessEnded,
    ProgramFailed,
    SandboxFrozen,
    SandboxGone,
    TimedOut,
    TooMany,
    Unauthorized,
    Unavailable,
    Unreachable,
)

if TYPE_CHECKING:
    from . import aio, types

__version__ = "0.1.0"

__all__ = [
    "AlreadyExists",
    "ApiError",
    "AuditEvents",
    "Broken",
    "Client",
    "Conflict",
    "Context",
    "ContextDead",
    "ContextEvents",
    "Contexts",
    "DaemonEvents",
    "Denied",
    "Download",
    "Egress",
    "EgressEvents",
    "EmberdError",
    "Events",
    "Exit",
    "FileChanges",
    "Files",
    "GuestFailed",
    "InvalidRequest",
    "NoSpace",
    "NotEmberd",
    "NotFound",
    "Outcome",
    "PortClosed",
    "Process",
    "ProcessEnded",
    "ProcessEvents",
    "ProgramFailed",
    "Result",
    "Run",
    "RunEvents",
    "RunFailure",
    "Sandbox",
    "SandboxFrozen",
    "SandboxGone",
    "Stdin",
    "Terminal",
    "TimedOut",
    "TooMany",
    "Tunnel",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "aio",
    "errors",
    "load_ipython_extension",
    "types",
]


def __getattr__(name: str) -> Any:
    # Imported when they are used: asyncio alone takes longer than all of this package.
    if name in ("aio", "types"):
        import importlib

        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(ipython: Any) -> None:
    """Adds `%%sandbox` to IPython and Jupyter: `%load_ext emberd`."""
    from ._jupyter import load

    load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Deletes the sandbox of the notebook."""
    from ._jupyter import unload

    unload()
