# Written from aio/__init__.py by tools/generate_sync.py: change that one.
"""The asynchronous client: the names of `emberd`, as coroutines of asyncio."""

from __future__ import annotations

from .client import Client
from .contexts import Context, Contexts
from .egress import Egress
from .files import Files
from .processes import Process, Stdin, Terminal
from .sandbox import Sandbox
from .streams import (
    AuditEvents,
    ContextEvents,
    DaemonEvents,
    Download,
    EgressEvents,
    Events,
    FileChanges,
    ProcessEvents,
    RunEvents,
)
from .tunnel import Tunnel

__all__ = [
    "AuditEvents",
    "Client",
    "Context",
    "ContextEvents",
    "Contexts",
    "DaemonEvents",
    "Download",
    "Egress",
    "EgressEvents",
    "Events",
    "FileChanges",
    "Files",
    "Process",
    "ProcessEvents",
    "RunEvents",
    "Sandbox",
    "Stdin",
    "Terminal",
    "Tunnel",
]
