"""Why a call failed.

EmberdError
├── ApiError            the daemon answered with an error: code, status, hint, request_id
│   ├── InvalidRequest  400, 405, 413, 414, 416, 422, 431
│   ├── Unauthorized    401
│   ├── Denied          403, 421
│   ├── NotFound        404
│   ├── Conflict        409: AlreadyExists, ContextDead, ProcessEnded, SandboxFrozen
│   ├── SandboxGone     410
│   ├── TooMany         429
│   ├── GuestFailed     502, 504: PortClosed
│   ├── Unavailable     503
│   └── NoSpace         507
├── Unreachable         no daemon listens at the address
├── Broken              the connection ended before the answer did
├── NotEmberd           the answer is none of emberd's
├── TimedOut            a time limit of this client has passed
└── ProgramFailed       `check()` of an outcome or a run that failed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import types
    from ._results import Outcome, Run


class EmberdError(Exception):
    """Every error of this package."""


class ApiError(EmberdError):
    """The daemon answered with an error.

    `code` is for programs and keeps its meaning, the message is for people and may change. `hint`
    is advice, if there is any; `request_id` finds the request in the daemon's log; `retry_after` is
    the pause in seconds that the daemon asks for. `limit` is the limit of the key that has refused
    the request, with its `name` and `value`, if one has.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int,
        hint: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        limit: types.KeyLimit | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.hint = hint
        self.request_id = request_id
        self.retry_after = retry_after
        self.limit = limit

    def __str__(self) -> str:
        text = f"{self.message} ({self.status} {self.code})"
        return f"{text}\nhint: {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        return (_again, (type(self), self.message, dict(self.__dict__)))


def _again(kind: type[ApiError], message: str, fields: dict[str, Any]) -> ApiError:
    error = kind(message, code="", status=0)
    error.__dict__.update(fields)
    return error


class InvalidRequest(ApiError):
    """The request breaks a rule or a limit."""


class Unauthorized(ApiError):
    """The daemon does not know the key, or wants one: set `EMBERD_API_KEY`."""


class Denied(ApiError):
    """The caller or the guest's kernel does not permit it."""


class NotFound(ApiError):
    """There is no such sandbox, file, process, context or user."""


class Conflict(ApiError):
    """The sandbox, or what it has, is in another state."""


class AlreadyExists(Conflict):
    """The path exists."""


class ContextDead(Conflict):
    """The interpreter of the context has ended; restart the context."""


class ProcessEnded(Conflict):
    """The process, or its standard input, has ended."""


class SandboxFrozen(Conflict):
    """The sandbox is frozen and thaws by `touch` only."""


class SandboxGone(ApiError):
    """The microVM of the sandbox has ended."""


class TooMany(ApiError):
    """A limit is reached: sandboxes, processes, contexts, connections or bytes."""


class GuestFailed(ApiError):
    """The guest, or the server at its port, failed to answer."""


class PortClosed(GuestFailed):
    """Nothing in the sandbox listens on the port."""


class Unavailable(ApiError):
    """The daemon cannot do it now."""


class NoSpace(ApiError):
    """The sandbox has no space left."""


class Unreachable(EmberdError):
    """No daemon listens at the address, or another user's does. Nothing was sent."""


class Broken(EmberdError):
    """The connection ended before the answer did. What was asked for may have happened."""


class NotEmberd(EmberdError):
    """The answer is none of emberd's: another server listens there, or an older daemon."""


class TimedOut(EmberdError):
    """A time limit of this client has passed."""


class ProgramFailed(EmberdError):
    """A program or a run failed, and `check()` was called. `outcome` is what it left."""

    def __init__(self, message: str, outcome: Outcome | Run) -> None:
        super().__init__(message)
        self.outcome = outcome


_BY_CODE: dict[str, type[ApiError]] = {
    "already_exists": AlreadyExists,
    "context_dead": ContextDead,
    "process_ended": ProcessEnded,
    "sandbox_frozen": SandboxFrozen,
    "port_closed": PortClosed,
}

_BY_STATUS: dict[int, type[ApiError]] = {
    **dict.fromkeys((400, 405, 408, 413, 414, 416, 422, 431), InvalidRequest),
    401: Unauthorized,
    403: Denied,
    421: Denied,
    404: NotFound,
    409: Conflict,
    410: SandboxGone,
    429: TooMany,
    502: GuestFailed,
    504: GuestFailed,
    503: Unavailable,
    507: NoSpace,
}


def api_error(
    status: int, body: Any, *, request_id: str | None = None, retry_after: float | None = None
) -> ApiError:
    """The error of a response. An unknown code is treated like its status."""
    code = str(body.get("code", ""))
    hint = body.get("hint")
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, ApiError)
    return kind(
        str(body.get("error", "")),
        code=code,
        status=status,
        hint=hint if isinstance(hint, str) else None,
        request_id=request_id,
        retry_after=retry_after,
        limit=body.get("limit"),
    )


#: Statuses of the errors that end a stream, which has none.
_TOLD: dict[str, int] = {
    "not_found": 404,
    "unknown_sandbox": 404,
    "sandbox_gone": 410,
    "internal": 500,
    "guest_failed": 502,
    "shutting_down": 503,
    "no_space": 507,
}


def told_error(body: Any) -> ApiError:
    """The error that ends a stream of events."""
    return api_error(_TOLD.get(str(body.get("code")), 500), body)
