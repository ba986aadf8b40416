"""Shapes of the API's bodies and events, as the OpenAPI document names them.

Written by `tools/generate_types.py`. A field that is not required may be absent, and a newer daemon
may send fields and events that are not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict, Union

if TYPE_CHECKING:
    from typing_extensions import NotRequired


class AccessInfo(TypedDict):
    """Callers that the daemon serves."""
    keys: int
    """Number of keys."""
    problem: NotRequired[str | None]
    """Reason why the file of keys cannot be read. Keys that were read before stay in force;
    without any, none is valid. Absent if the file can be read.
    """
    tcp: AccessOverTcp
    """Whether requests over TCP need a key."""


#: Whether requests over TCP need a key.
AccessOverTcp = Literal["open", "key", "insecure"]


class AuditEgress(TypedDict):
    """A connection or a lookup of a program in a sandbox, and what was decided. Paths and
    contents are not in it.
    """
    address: NotRequired[str | None]
    """Address that was connected to, or that the guest named."""
    count: int
    """Number of equal events that the record stands for."""
    decision: str
    """`allowed`, `denied` or `failed`."""
    entry: NotRequired[str | None]
    """The entry that decided, without its options."""
    host: NotRequired[str | None]
    """Name of the destination, or its address where no name is known."""
    kind: str
    """`connection`, `lookup`, `request` or `policy`."""
    port: NotRequired[int | None]
    """Port of the destination."""
    reason: NotRequired[str | None]
    """Why it was denied, or failed."""
    received_bytes: int
    """Bytes from the destination."""
    sent_bytes: int
    """Bytes to the destination."""


#: One element of a journal that is followed.
AuditEvent = Union["AuditRecord", "AuditEventGap"]


class AuditEventGap(TypedDict):
    """Records whose files were removed."""
    gap: int
    """Number of records."""


class AuditPage(TypedDict):
    """A part of the audit journal."""
    gap: int
    """Number of records after the one asked for whose files were removed."""
    is_end: bool
    """Whether the end of the journal was reached."""
    next: int
    """Value of `after` that continues."""
    records: list[AuditRecord]
    """Records, oldest first. There may be fewer than asked for, even none, before the end."""


class AuditRecord(TypedDict):
    """A decision: an answer to a request, a connection of a program, or something about the
    journal itself. One line of the journal, in this order of fields.
    """
    action: str
    """Operation id of the request; `use_port` for a request to a server in a sandbox, by its
    host or by headers; `unknown` where no operation takes it; `egress` for a connection or
    a lookup of a program; `start_daemon`, `stop_daemon`; `lose_records`, `mend_journal` and
    `remove_files` for what happened to the journal.
    """
    code: NotRequired[str | None]
    """Code of the error that the answer has."""
    cut_bytes: NotRequired[int | None]
    """Bytes of a torn line that were cut off, with `mend_journal`."""
    egress: NotRequired[AuditEgress | None]
    left_out: NotRequired[int | None]
    """Number of records: lost with `lose_records`; of the same kind that were left out before
    this one otherwise.
    """
    limits: NotRequired[list[str]]
    """Limits that the request, or its program, has reached."""
    peer: NotRequired[str | None]
    """The other end of the connection: an IP address with its port, or `uid=UID,pid=PID`."""
    prev: str
    """SHA-256 of the line before it, without its line feed, in hexadecimal; 64 zeros in the
    first.
    """
    principal: NotRequired[str | None]
    """On whose behalf the request was made."""
    removed_to: NotRequired[int | None]
    """Number of the last record that was removed with its file, with `remove_files`."""
    request: NotRequired[str | None]
    """Id of the request, as in `x-request-id`."""
    sandbox: NotRequired[str | None]
    """The sandbox."""
    seq: int
    """Number of the record in the journal, from 1 on, without gaps."""
    status: NotRequired[int | None]
    """HTTP status of the answer. Absent where the caller hung up before it."""
    time: str
    """When the decision was made (RFC 3339, UTC)."""


class BootTimes(TypedDict):
    """Time that each stage of a microVM's start took, in microseconds. A microVM of the warm
    pool was started before the request arrived.
    """
    guest_us: int
    """Wait until the guest answered."""
    init_us: NotRequired[int | None]
    """PID 1 to a serving agent, by the guest's clock. Absent where the agent is not PID 1."""
    kernel_us: NotRequired[int | None]
    """Kernel start to PID 1, by the guest's clock. Absent where the agent is not PID 1."""
    load_us: NotRequired[int | None]
    """Load of the template, until its guest ran. Absent after a cold boot."""
    renew_us: NotRequired[int | None]
    """Renewal of a restored guest: clock, randomness and names. Absent after a cold boot."""
    vmm_us: int
    """Start of the VMM process, until its channel or its control socket was open."""
    warm_up_us: NotRequired[int | None]
    """Warm-up of the language pack. Absent where none ran."""


class BuildTemplate(TypedDict):
    """A template to build and to keep. A size that is absent is the daemon's default."""
    memory_mib: NotRequired[int | None]
    """Memory, in MiB."""
    pool_size: NotRequired[int | None]
    """Number of microVMs of this size to keep ready: 0 to 256. As before when absent, and 0 at
    first.
    """
    vcpus: NotRequired[int | None]
    """Number of virtual processors."""


#: Kind of a change.
ChangeKind = Literal["created", "modified", "removed", "renamed", "attributes", "overflow"]


class CheckEgress(TypedDict):
    """A destination to check."""
    host: str
    """The name or the address."""
    port: NotRequired[int]
    """The port. 443 when absent."""


class Context(TypedDict):
    """One context of a sandbox."""
    created_at_ms: int
    """When the request to create it arrived, in milliseconds since the Unix epoch."""
    cwd: NotRequired[str | None]
    """First working directory that the request named. Absent when it is the user's home."""
    execution_count: int
    """Number of runs that the interpreter has begun."""
    id: str
    """Id of the context: `ctx_` and 12 hexadecimal digits."""
    language: NotRequired[str | None]
    """Language that the request named. Absent when it is the sandbox's own."""
    next_event: int
    """The next event of its runs has this number or a higher one."""
    reason: NotRequired[str | None]
    """Why the interpreter has ended. Absent unless `state` is `dead`."""
    state: ContextState
    """State of the context."""


#: One event of a context's runs: a line of JSON, or the data of a server-sent event whose `id` is
#: the event's number.
ContextEvent = Union[
    "ContextEventStarted", "ContextEventStdout", "ContextEventStderr", "ContextEventDisplay",
    "ContextEventResult", "ContextEventError", "ContextEventEnd", "ContextEventGap",
    "ContextEventOther"
]


class ContextEventStarted(TypedDict):
    """The run began."""
    event: Literal["started"]
    execution_count: int
    """Number of runs of the interpreter, this one included."""
    id: int
    """Number of the event, higher than that of the event before it."""


class ContextEventStdout(TypedDict):
    """The code wrote to standard output."""
    event: Literal["stdout"]
    text: str
    """The output, with every invalid UTF-8 sequence replaced by U+FFFD."""
    id: int
    """Number of the event, higher than that of the event before it."""


class ContextEventStderr(TypedDict):
    """The code wrote to standard error."""
    event: Literal["stderr"]
    text: str
    """The output, with every invalid UTF-8 sequence replaced by U+FFFD."""
    id: int
    """Number of the event, higher than that of the event before it."""


class ContextEventDisplay(TypedDict):
    """The code displayed a value."""
    data: dict[str, Any]
    """The value in each of its forms, by MIME type. Text is a string, an image is base64, JSON
    is JSON.
    """
    event: Literal["display"]
    id: int
    """Number of the event, higher than that of the event before it."""


class ContextEventResult(TypedDict):
    """The last expression had a value."""
    data: dict[str, Any]
    """The value in each of its forms, by MIME type. Text is a string, an image is base64, JSON
    is JSON.
    """
    event: Literal["result"]
    id: int
    """Number of the event, higher than that of the event before it."""


class ContextEventError(TypedDict):
    """The code failed."""
    event: Literal["error"]
    name: str
    """Name of the exception's class. `ExitCode` for a shell. `ContextEnded` when the
    interpreter itself has ended, so that the context is dead.
    """
    traceback: str
    """The traceback as it is printed."""
    value: str
    """Message of the exception."""
    id: int
    """Number of the event, higher than that of the event before it."""


class ContextEventEnd(TypedDict):
    """The run has ended."""
    egress_denied: NotRequired[list[EgressDenied]]
    """Destinations that the network policy denied to the sandbox while the program ran, the
    latest first, at most 8. Absent when there are none.
    """
    hint: NotRequired[str | None]
    """Advice on what to ask for. Absent when nothing would help."""
    duration_us: int
    """Time from `started` to the end, in microseconds."""
    execution_count: int
    """Number of runs of the interpreter, this one included."""
    timed_out: bool
    """Whether the run reached its time limit."""
    truncated: bool
    """Whether output over 64 MiB, or a value over another limit, was dropped."""
    event: Literal["end"]
    id: int
    """Number of the event, higher than that of the event before it."""


class ContextEventGap(TypedDict):
    """The events from `first_missing` to this event's number are not kept any more. The stream
    of a run has none.
    """
    event: Literal["gap"]
    first_missing: int
    """Number of the first event that is not kept any more."""
    id: int
    """Number of the event, higher than that of the event before it."""


class ContextEventOther(TypedDict):
    """An event that this version does not know."""
    event: Literal["other"]
    id: int
    """Number of the event, higher than that of the event before it."""


class ContextList(TypedDict):
    """All contexts of a sandbox."""
    contexts: list[Context]
    """All contexts, oldest first."""


class ContextRun(TypedDict):
    """The code that a context runs."""
    code: str
    """Program text, at most 8 MiB."""
    max_image_bytes: NotRequired[int | None]
    """Largest PNG or JPEG image of a figure in bytes, 1 to 8,388,608: a Python context draws a
    larger figure again, with fewer dots per inch, and says so in its text. As large as a
    value may be when absent. Other images, and other languages, are left as they are.
    """
    timeout_ms: NotRequired[int | None]
    """Time limit in milliseconds, 1 to 3,600,000, counted from `started`. At the limit, the
    run is interrupted, and killed with its context if that has no effect. No limit when
    absent.
    """


class ContextSpec(TypedDict):
    """The context to create."""
    cwd: NotRequired[str | None]
    """First working directory. The user's home when absent."""
    env: NotRequired[dict[str, str]]
    """Environment variables added to the sandbox's own."""
    language: NotRequired[str | None]
    """Language of the context. The sandbox's own when absent."""
    user: NotRequired[str | None]
    """Name of the user to run as. Root when absent."""


#: State of a context.
ContextState = Literal["idle", "busy", "dead"]


class CreateSandbox(TypedDict):
    """The sandbox to create."""
    auto_resume: NotRequired[bool | None]
    """Whether a request thaws the sandbox, once it is frozen. `true` when absent. With
    `false`, only a touch does, and requests are refused.
    """
    egress: NotRequired[PolicySpec | None]
    env: NotRequired[dict[str, str]]
    """Environment variables of every exec, process and context of the sandbox; the `env` of
    one of them goes before. At most 1,024, of 128 KiB in all, together with that `env`.
    """
    idle: NotRequired[IdleOptions | None]
    language_pack: NotRequired[str | None]
    """Name of the language pack. `python` when absent or empty."""
    metadata: NotRequired[dict[str, str]]
    """Names and values that mean nothing to the daemon: at most 64, of 8 KiB in all."""
    on_timeout: NotRequired[OnTimeout | None]
    resources: NotRequired[Resources]
    """Size of the sandbox."""
    timeout_ms: NotRequired[int | None]
    """Time after which the sandbox ends, from the moment it is ready, in milliseconds: 1,000
    to what the daemon allows (`--timeout-max`). `null` for never. The daemon's default
    (`--timeout`) when absent.
    """


class CreateUrl(TypedDict):
    """The URL to make."""
    base: NotRequired[str | None]
    """Begin of the URL, to which the host of the port is added: `https://sandboxes.example`.
    When absent, the address by which the request came; over a Unix socket, that of the
    daemon.
    """
    expires_ms: NotRequired[int | None]
    """Time for which the URL is valid, in milliseconds: 1,000 to 604,800,000 (7 days). An hour
    when absent.
    """
    port: int
    """The port inside the sandbox, 1 to 65535."""


class CreatedSandbox(TypedDict):
    """A sandbox that was created."""
    id: str
    """`sb_`, the node key of the daemon if it has one, and 12 hexadecimal digits."""


class CreatedUrl(TypedDict):
    """A URL that was made."""
    expires_at_ms: int
    """When it ends, in milliseconds since the Unix epoch, by the host's clock as it is set
    now.
    """
    url: str
    """The URL. Everybody who has it reaches the port."""


#: An event of a sandbox, or a gap.
DaemonEvent = Union["SandboxEvent", "SandboxEventGap"]


EgressCheck = TypedDict("EgressCheck", {
    "addresses": "list[str]",
    "decision": "EgressDecision",
    "entry": "NotRequired[str | None]",
    "from": "NotRequired[str | None]",
    "hint": "NotRequired[str | None]",
    "reason": "NotRequired[EgressReason | None]",
})


#: Outcome of a connection, a lookup or a request.
EgressDecision = Literal["allowed", "denied", "failed"]


class EgressDenials(TypedDict):
    """Denials of a policy while a program of its sandbox ran."""
    egress_denied: NotRequired[list[EgressDenied]]
    """Destinations that the network policy denied to the sandbox while the program ran, the
    latest first, at most 8. Absent when there are none.
    """
    hint: NotRequired[str | None]
    """Advice on what to ask for. Absent when nothing would help."""


class EgressDenied(TypedDict):
    """A destination that the policy denied."""
    count: int
    """Number of attempts."""
    host: str
    """The name, or the address where there was none."""
    port: NotRequired[int | None]
    """The port. Absent if the name was only looked up."""
    reason: EgressReason
    """Why."""


#: One element of a log that is followed.
EgressEvent = Union["EgressRecord", "EgressEventGap"]


class EgressEventGap(TypedDict):
    """Records that are no longer kept."""
    gap: int
    """Number of records."""


class EgressInfo(TypedDict):
    """Network access that the daemon gives to sandboxes."""
    ceiling: list[str]
    """Profiles and entries that policies may allow at most."""
    default: list[str]
    """Profiles and entries of sandboxes whose creation names no policy."""
    profiles: list[str]
    """Names of all profiles."""


class EgressLimits(TypedDict):
    """Limits of one sandbox's connections."""
    connections: NotRequired[int]
    """Connections at once, 1 to 1,024."""
    download_kib_s: NotRequired[int]
    """Rate of data from destinations, in KiB per second; 0 for no limit."""
    opens_per_s: NotRequired[int]
    """Connections opened in a second, on average, 1 to 10,000."""
    upload_kib_s: NotRequired[int]
    """Rate of data to destinations, in KiB per second; 0 for no limit."""
    upload_mib: NotRequired[int]
    """Data to destinations over the sandbox's life, in MiB; 0 for no limit."""


class EgressLists(TypedDict):
    """Profiles and entries of a policy."""
    allow: NotRequired[list[EntrySpec]]
    """Entries of `allow`."""
    deny: NotRequired[list[EntrySpec]]
    """Entries of `deny`."""
    profiles: NotRequired[list[str]]
    """Names of profiles."""


class EgressLog(TypedDict):
    """A part of the log of a sandbox."""
    gap: int
    """Number of records after the one asked for that are no longer kept."""
    next: int
    """Value of `after` that continues."""
    records: list[EgressRecord]
    """Records, oldest first."""


#: Which connections of a sandbox are recorded.
EgressLogMode = Literal["all", "denied", "off"]


class EgressPatch(TypedDict):
    """A change of a policy. Everything is changed, or nothing."""
    add: NotRequired[EgressLists]
    """Profiles and entries to add. Those that the policy has already are no error."""
    remove: NotRequired[EgressLists]
    """Profiles and entries to remove first. Those that the policy does not have are no error."""


EgressProfile = TypedDict("EgressProfile", {
    "allow": "list[str]",
    "from": "str",
    "name": "str",
})


class EgressProfileList(TypedDict):
    """All profiles."""
    profiles: list[EgressProfile]
    """All profiles, sorted by name."""


#: How the content of a connection to a name is checked.
EgressProtocol = Literal["auto", "tcp"]


#: Why a connection, a lookup or a request was refused or failed.
EgressReason = Literal[
    "no_rule", "denied_by_rule", "over_ceiling", "operator_denied", "port_not_allowed",
    "private_address", "own_address", "sni_missing", "sni_mismatch", "host_mismatch",
    "fragmented_hello", "ech", "not_tls", "not_http", "method_not_allowed", "path_not_allowed",
    "lookup_failed", "no_such_name", "connect_failed", "upstream_tls", "connection_limit",
    "rate_limit", "budget", "secret_missing", "secret_wrong_host", "policy_changed", "other"
]


EgressRecord = TypedDict("EgressRecord", {
    "address": "NotRequired[str | None]",
    "count": "int",
    "decision": "EgressDecision",
    "duration_ms": "int",
    "entry": "NotRequired[str | None]",
    "from": "NotRequired[str | None]",
    "host": "NotRequired[str | None]",
    "kind": "str",
    "method": "NotRequired[str | None]",
    "path": "NotRequired[str | None]",
    "port": "NotRequired[int | None]",
    "protocol": "NotRequired[str | None]",
    "reason": "NotRequired[EgressReason | None]",
    "received_bytes": "int",
    "sandbox": "str",
    "sent_bytes": "int",
    "seq": "int",
    "sni": "NotRequired[str | None]",
    "time": "str",
})


EgressRule = TypedDict("EgressRule", {
    "entry": "str",
    "from": "str",
})


#: Whether connections of a sandbox's programs reach the daemon.
EgressState = Literal["ready", "connecting", "unavailable"]


class EgressTotals(TypedDict):
    """Connections and bytes of a sandbox since it was created."""
    denied: int
    """Number of connections and lookups that were denied."""
    failed: int
    """Number of connections and lookups that were allowed and failed."""
    opened: int
    """Number of connections that were made."""
    received_bytes: int
    """Bytes from destinations."""
    sent_bytes: int
    """Bytes to destinations."""


class EntryFields(TypedDict):
    """An entry with options. Where several entries match one destination, their options add
    up: the connection may do what any of them permits.
    """
    ech: NotRequired[bool]
    """Whether TLS connections may hide the name of their server (Encrypted Client Hello)."""
    host: str
    """The host, as in the short form."""
    methods: NotRequired[list[str]]
    """Methods of HTTP requests that are allowed; all when empty. Only for port 80: requests
    over TLS cannot be seen.
    """
    paths: NotRequired[list[str]]
    """Paths of HTTP requests that are allowed, where `*` stands for any characters; all when
    empty. Only for port 80.
    """
    ports: NotRequired[str | None]
    """The ports, as in the short form. 80 and 443 when absent."""
    private: NotRequired[bool]
    """Whether the host may have a private address. The operator must permit its range, too."""
    protocol: NotRequired[EgressProtocol]
    """How the content of connections is checked."""


#: One entry: `HOST[:PORTS]`, or an object with options.
EntrySpec = Union[str, "EntryFields"]


class ErrorBody(TypedDict):
    """Body of every error response."""
    code: ErrorCode
    """Kind of the error, for programs. A code keeps its meaning."""
    error: str
    """Message for people: the error and all its causes. The text may change."""
    hint: NotRequired[str | None]
    """Advice on how to mend the error. Absent where there is none."""
    limit: NotRequired[KeyLimit | None]


#: Kind of an error, for programs. A later version may send more codes: a client treats a code that
#: it does not know like its HTTP status. - `invalid_json`: The body is not the JSON that the
#: operation takes. - `invalid_request`: A value breaks a rule or a limit. - `unknown_pack`: The
#: language pack is not installed. - `unknown_profile`: Neither emberd, nor the operator, nor the
#: image has that profile. - `egress_forbidden`: The operator does not permit what the policy asks
#: for. - `egress_unavailable`: The sandbox, or the daemon, cannot carry connections of programs. -
#: `foreign_origin`: A web page sent the request: its `Origin` is neither the daemon's nor allowed.
#: - `cross_site`: A browser sent the request for a page of another site. - `foreign_host`: The
#: `Host` of the request is not a name of this daemon. - `unauthenticated`: The request has no key
#: that is valid. - `forbidden`: The key, or the user, may not do that. - `quota_exceeded`: The
#: key, or all of its sandboxes together, may not have more; `Retry-After` says when to try again,
#: and is absent where waiting does not help. - `key_forbids`: The key may not have that, whenever
#: it asks: a language pack, a timeout or network access. - `keys_unreadable`: The daemon cannot
#: read its keys, so that none is valid. - `unknown_route`: The path does not exist. -
#: `unknown_sandbox`: The sandbox does not exist. - `method_not_allowed`: The path does not take
#: this method. - `sandbox_gone`: The sandbox's microVM ended by itself, or the sandbox was deleted
#: during the request. - `body_timeout`: The body did not arrive in time. - `body_too_large`: The
#: body is larger than its limit. - `too_many_bytes`: The request bodies under way have used up
#: their shared memory; `Retry-After` says when to try again. - `too_many_sandboxes`: The daemon
#: has as many sandboxes as allowed. - `no_capacity`: The sandboxes of the daemon have as much
#: memory as allowed. - `too_many_connections`: The sandbox has as many connections to its ports as
#: allowed. - `too_many_contexts`: The sandbox has as many contexts as allowed. - `context_busy`:
#: As many runs as allowed wait for the context. - `context_dead`: The interpreter of the context
#: has ended. A restart gives the context a new one. - `denied`: The guest's kernel denies the
#: operation. - `not_found`: The sandbox does not have that file, process, context, user or
#: language. - `already_exists`: The file or directory exists already. - `range_not_satisfiable`:
#: The range begins after the end of the file. - `no_space`: The sandbox has no space left. -
#: `host_full`: The daemon's host has no space left for another sandbox. - `key_reused`: The
#: `Idempotency-Key` was used for another request. - `not_started`: The program could not be
#: started in the sandbox. - `process_ended`: The process, or its standard input, has ended. -
#: `too_many`: The sandbox has as many processes as allowed, or the caller as many WebSockets. -
#: `sandbox_not_ready`: The sandbox is still being created. - `sandbox_frozen`: The sandbox is
#: frozen, and requests do not thaw it. - `resume_failed`: The sandbox is frozen, and its VMM does
#: not thaw it; `Retry-After` says when to try again. - `limit_unavailable`: The host does not hold
#: the limit that was asked for. - `sandbox_unreachable`: An earlier daemon started the sandbox,
#: and its guest has not answered this one yet; `Retry-After` says when to try again. - `draining`:
#: The daemon creates no sandboxes any more, by an operator's wish. - `no_templates`: The daemon
#: keeps no templates. - `audit_off`: The daemon keeps no audit journal. - `audit_failing`: The
#: audit journal takes no records, and the daemon does nothing that it cannot record. - `internal`:
#: The daemon or its host has a defect. - `guest_failed`: The guest broke the protocol or stopped
#: answering. - `port_closed`: Nothing in the sandbox listens on the port. - `port_failed`: The
#: server on the port did not answer with HTTP. - `port_timeout`: The server on the port did not
#: answer in time. - `boot_failed`: The microVM could not be started, or its guest did not answer.
#: - `template_failed`: The template could not be built. - `shutting_down`: The daemon is shutting
#: down.
ErrorCode = Literal[
    "invalid_json", "invalid_request", "unknown_pack", "unknown_profile", "egress_forbidden",
    "egress_unavailable", "foreign_origin", "cross_site", "foreign_host", "unauthenticated",
    "forbidden", "quota_exceeded", "key_forbids", "keys_unreadable", "unknown_route",
    "unknown_sandbox", "method_not_allowed", "sandbox_gone", "body_timeout", "body_too_large",
    "too_many_bytes", "too_many_sandboxes", "no_capacity", "too_many_connections",
    "too_many_contexts", "context_busy", "context_dead", "denied", "not_found", "already_exists",
    "range_not_satisfiable", "no_space", "host_full", "key_reused", "not_started", "process_ended",
    "too_many", "sandbox_not_ready", "sandbox_frozen", "resume_failed", "limit_unavailable",
    "sandbox_unreachable", "draining", "no_templates", "audit_off", "audit_failing", "internal",
    "guest_failed", "port_closed", "port_failed", "port_timeout", "boot_failed", "template_failed",
    "shutting_down"
]


class ExecBody(TypedDict):
    """The code to run, and its standard input."""
    args: NotRequired[list[str]]
    """Arguments after the program's name, at most 1,024."""
    code: str
    """Program text in the sandbox's language, at most 8 MiB."""
    cwd: NotRequired[str | None]
    """Working directory. The user's home when absent."""
    env: NotRequired[dict[str, str]]
    """Environment variables added to the sandbox's own, at most 1,024."""
    fresh: NotRequired[bool]
    """Whether to start a new interpreter, even if the pack keeps a warm one to fork."""
    limits: NotRequired[Limits]
    """Limits of the program and all it starts."""
    timeout_ms: NotRequired[int]
    """Time limit in milliseconds, 1 to 3,600,000. At the limit, the whole process tree is
    killed.
    """
    user: NotRequired[str | None]
    """Name of the user to run as. Root when absent."""
    stdin: NotRequired[str | None]
    """Standard input as text. Empty when absent."""
    stdin_base64: NotRequired[str | None]
    """Standard input as base64, for bytes that are not text. Excludes `stdin`."""


class ExecExit(TypedDict):
    """How a program ended, without its output."""
    egress_denied: NotRequired[list[EgressDenied]]
    """Destinations that the network policy denied to the sandbox while the program ran, the
    latest first, at most 8. Absent when there are none.
    """
    hint: NotRequired[str | None]
    """Advice on what to ask for. Absent when nothing would help."""
    duration_us: int
    """Wall time from the arrival of the request in the guest to the end of the program, in
    microseconds.
    """
    error: NotRequired[str | None]
    """Why the program could not be started, or that it timed out; else null."""
    exit_code: int
    """Exit code of the program. 128 + n if signal n killed it, -1 if it was never started or
    reached its time limit.
    """
    launch_us: NotRequired[int]
    """Part of `duration_us` before the program had its work, in microseconds."""
    out_of_memory: NotRequired[bool]
    """Whether the limit of memory was reached, so that the guest's kernel killed the program
    or a process that it started. Without `limits.memory_mib`, false if the program
    succeeded.
    """
    signal: NotRequired[int | None]
    """Number of the signal that killed the program, or null."""
    started_by: NotRequired[StartedBy | None]
    stderr_truncated: bool
    """Whether standard error exceeded 8 MiB, or what there was room for, and was cut."""
    stdout_truncated: bool
    """Whether standard output exceeded 8 MiB, or what there was room for, and was cut."""
    timed_out: bool
    """Whether the program reached its time limit, so that its process tree was killed."""


class ExecOutcome(TypedDict):
    """How a program ended, with its output. Output is bytes, JSON is Unicode. `stdout` has
    every invalid UTF-8 sequence replaced by U+FFFD; exactly when that changed something,
    `stdout_base64` has the bytes themselves. The same holds for `stderr`.
    """
    egress_denied: NotRequired[list[EgressDenied]]
    """Destinations that the network policy denied to the sandbox while the program ran, the
    latest first, at most 8. Absent when there are none.
    """
    hint: NotRequired[str | None]
    """Advice on what to ask for. Absent when nothing would help."""
    duration_us: int
    """Wall time from the arrival of the request in the guest to the end of the program, in
    microseconds.
    """
    error: NotRequired[str | None]
    """Why the program could not be started, or that it timed out; else null."""
    exit_code: int
    """Exit code of the program. 128 + n if signal n killed it, -1 if it was never started or
    reached its time limit.
    """
    launch_us: NotRequired[int]
    """Part of `duration_us` before the program had its work, in microseconds."""
    out_of_memory: NotRequired[bool]
    """Whether the limit of memory was reached, so that the guest's kernel killed the program
    or a process that it started. Without `limits.memory_mib`, false if the program
    succeeded.
    """
    signal: NotRequired[int | None]
    """Number of the signal that killed the program, or null."""
    started_by: NotRequired[StartedBy | None]
    stderr_truncated: bool
    """Whether standard error exceeded 8 MiB, or what there was room for, and was cut."""
    stdout_truncated: bool
    """Whether standard output exceeded 8 MiB, or what there was room for, and was cut."""
    timed_out: bool
    """Whether the program reached its time limit, so that its process tree was killed."""
    duration_ms: int
    """`duration_us` in whole milliseconds."""
    stderr: str
    """Standard error as text."""
    stderr_base64: NotRequired[str | None]
    """Standard error as base64. Absent when it is valid UTF-8."""
    stdout: str
    """Standard output as text."""
    stdout_base64: NotRequired[str | None]
    """Standard output as base64. Absent when it is valid UTF-8."""


class ExecSpec(TypedDict):
    """The code to run, and its surroundings."""
    args: NotRequired[list[str]]
    """Arguments after the program's name, at most 1,024."""
    code: str
    """Program text in the sandbox's language, at most 8 MiB."""
    cwd: NotRequired[str | None]
    """Working directory. The user's home when absent."""
    env: NotRequired[dict[str, str]]
    """Environment variables added to the sandbox's own, at most 1,024."""
    fresh: NotRequired[bool]
    """Whether to start a new interpreter, even if the pack keeps a warm one to fork."""
    limits: NotRequired[Limits]
    """Limits of the program and all it starts."""
    timeout_ms: NotRequired[int]
    """Time limit in milliseconds, 1 to 3,600,000. At the limit, the whole process tree is
    killed.
    """
    user: NotRequired[str | None]
    """Name of the user to run as. Root when absent."""


class FileChange(TypedDict):
    """One change below a watched path."""
    change: ChangeKind
    """Kind of the change."""
    path: GuestPath
    """Absolute path of the file."""


class FileEntry(TypedDict):
    """The attributes of a file, directory or link."""
    gid: int
    """Number of the group."""
    group: NotRequired[str | None]
    """Name of the group. Absent if the guest does not know it."""
    mode: int
    """Permission bits as a number, 0 to 4095 (0o7777)."""
    modified_ms: int
    """When the content changed last, in milliseconds since the Unix epoch."""
    owner: NotRequired[str | None]
    """Name of the owner. Absent if the guest does not know it."""
    path: GuestPath
    """Absolute path of the request. Links in it are not resolved."""
    size: int
    """Size in bytes."""
    target: NotRequired[GuestPath | None]
    target_type: NotRequired[FileType | None]
    type: FileType
    """Type of the file itself: a symbolic link is a link."""
    uid: int
    """Number of the owner."""


class FileList(TypedDict):
    """Content of a directory."""
    cut: bool
    """Whether the listing was cut at its limit of 100,000 entries."""
    entries: list[FileEntry]
    """Files and directories, sorted by name. The content of a directory follows it."""


#: Type of a file.
FileType = Literal["file", "directory", "symlink", "other"]


#: A string, or `{"base64": …}` where the name is not UTF-8.
GuestPath = Any


class Health(TypedDict):
    """Sign of life of the daemon."""
    status: str
    """Always `ok`."""


class IdleOptions(TypedDict):
    """The idle policy of a sandbox: when it is stopped for want of use. Absent fields stay as
    they are.
    """
    freeze_ms: NotRequired[int | None]
    """Time without use after which the guest is stopped until the next request, in
    milliseconds: 1,000 to 2,592,000,000 (30 days). `null` for never. Absent at a creation,
    the daemon's default.
    """
    ignore_programs: NotRequired[bool | None]
    """Whether the guest is stopped although programs run in it. `false` unless it was set: a
    program keeps its sandbox awake.
    """
    pause_ms: NotRequired[int | None]
    """Time without use after which the sandbox is paused to disk. Refused: the daemon cannot
    pause sandboxes yet.
    """


class Info(TypedDict):
    """The daemon: version, VMM, guests, language packs and how much is in use."""
    access: NotRequired[AccessInfo]
    """Callers that the daemon serves."""
    boot_path: str
    """How most new sandboxes start: `warm-pool`, `snapshot-restore` or `cold-boot`."""
    draining: NotRequired[bool]
    """Whether the daemon refuses to create sandboxes (`POST /drain`)."""
    egress: NotRequired[EgressInfo | None]
    guest_ram_mib: int
    """Memory of a sandbox whose creation names none, in MiB."""
    guest_vcpus: int
    """Number of virtual processors of a sandbox whose creation names none."""
    limits: NotRequired[list[str]]
    """Resources of each sandbox that the host limits: `memory`, `cpu` and `pids`."""
    pack_descriptions: NotRequired[dict[str, str]]
    """One line of description for each language pack, by name."""
    packs: list[str]
    """Names of the installed language packs."""
    pools: NotRequired[list[Pool]]
    """Warm pools, one for each language pack and one for each pinned size. Empty where the
    daemon keeps no templates.
    """
    reaping: NotRequired[int]
    """Number of deleted sandboxes whose microVMs are still being removed."""
    sandboxes: int
    """Number of sandboxes."""
    sandboxes_max: int
    """Largest number of sandboxes."""
    sandboxes_memory_mib: NotRequired[int]
    """Memory of all sandboxes, in MiB, each counted with all it may use."""
    sandboxes_memory_mib_max: NotRequired[int]
    """Most memory of all sandboxes, in MiB."""
    unclaimed: NotRequired[list[UnclaimedMicroVm]]
    """MicroVMs of an earlier daemon that run and that this one leaves alone, because it does
    not know whose they are. Shown to administrators only.
    """
    version: str
    """Version of the daemon."""
    vmm: VmmInfo
    """The VMM, and why it was chosen."""
    work_dir: str
    """Directory on the host that holds the state of each sandbox."""


class KeyLimit(TypedDict):
    """A limit of a key."""
    name: str
    """Its name, as in `limits` of `GET /usage`."""
    value: NotRequired[int | None]
    """Its value, in the unit of the name. Absent for a list."""


class Limits(TypedDict):
    """Limits of a program and all it starts. A limit that is absent is that of the machine."""
    cpu_ms: NotRequired[int | None]
    """Processor time of each process, in milliseconds, rounded up to whole seconds. At the
    limit, the process receives SIGXCPU (`RLIMIT_CPU`).
    """
    file_mib: NotRequired[int | None]
    """Size of each written file, in MiB. At the limit, the writer receives SIGXFSZ
    (`RLIMIT_FSIZE`).
    """
    memory_mib: NotRequired[int | None]
    """Memory of all processes together, in MiB; two thirds of the guest's memory when absent.
    At the limit, the guest's kernel kills one of them (cgroup `memory.max`).
    """
    pids: NotRequired[int | None]
    """Number of processes and threads at once (cgroup `pids.max`)."""


class Metrics(TypedDict):
    """Current use of a sandbox's machine, by its guest's own account."""
    cpu_count: int
    """Number of processors."""
    cpu_used_percent: float
    """Share of all processors that was in use since the previous request, or since the start,
    0 to 100.
    """
    disk_total_bytes: int
    """Space for files, in bytes."""
    disk_used_bytes: int
    """Space for files that is in use, in bytes."""
    memory_cached_bytes: int
    """Memory for cached files, in bytes."""
    memory_total_bytes: int
    """Memory of the machine, in bytes."""
    memory_used_bytes: int
    """Memory that is not available to programs, in bytes."""
    process_count: int
    """Number of processes."""
    program_count: NotRequired[int | None]
    """Number of processes of callers: programs that run, and what they left behind.
    Interpreters of contexts, and what the language pack keeps ready, do not count; what a
    context started does. Absent where the agent of the image is older.
    """
    time_ms: int
    """Time of the measurement by the guest's clock, in milliseconds since the Unix epoch."""
    uptime_ms: int
    """Time since the start of the guest's kernel, in milliseconds."""


#: Effect of a timeout on its sandbox.
OnTimeout = Literal["delete", "pause", "pause_disk"]


class PolicySpec(TypedDict):
    """The destinations that a sandbox may reach. By default there are none. A destination is
    allowed if an entry of `allow` or of a profile matches it, none of `deny` does, and the
    operator permits it. The order of entries has no meaning.
    """
    allow: NotRequired[list[EntrySpec]]
    """Entries that are allowed. At most 512 together with `deny`."""
    deny: NotRequired[list[EntrySpec]]
    """Entries that are denied, whatever allows them. Without ports, an entry denies all ports."""
    limits: NotRequired[EgressLimits]
    """Limits of the sandbox's connections."""
    log: NotRequired[EgressLogMode]
    """Which connections are recorded."""
    profiles: NotRequired[list[str]]
    """Names of profiles, whose entries are allowed; at most 64."""


class Pool(TypedDict):
    """The warm pool of one language pack and size: microVMs that wait for a request."""
    ceiling: int
    """`target`, raised by recent bursts of requests."""
    discarded: int
    """Number of microVMs that ended, or stopped answering, in the pool."""
    filling: int
    """Number of microVMs that are being restored."""
    handed_out: int
    """Number of sandboxes taken from the pool."""
    language_pack: str
    """Name of the language pack."""
    memory_mib: NotRequired[int]
    """Memory of its microVMs, in MiB."""
    missed: int
    """Number of requests that found the pool empty."""
    ready: int
    """Number of microVMs that are ready."""
    standing_by: int
    """Number of standby VMMs: started ahead, without a template loaded."""
    target: int
    """Number of microVMs that the pool keeps ready. 0 where it keeps standby VMMs only."""
    vcpus: NotRequired[int]
    """Number of virtual processors of its microVMs."""


class Process(TypedDict):
    """A process of a sandbox, running or ended."""
    argv: list[str]
    """Program and arguments. Arguments only, if the process was started from code."""
    exit: NotRequired[ExecExit | None]
    next_event: int
    """Number of the next event."""
    pid: int
    """Process id in the sandbox."""
    started_at_ms: int
    """When the process was started, in milliseconds since the Unix epoch."""
    tty: bool
    """Whether the process has a terminal."""
    user: NotRequired[str | None]
    """User that the request named. Absent for root."""


#: One event of a process: the data of a server-sent event whose `id` is the event's number, or a
#: WebSocket message.
ProcessEvent = Union[
    "ProcessEventStarted", "ProcessEventStdout", "ProcessEventStderr", "ProcessEventExit",
    "ProcessEventGap", "ProcessEventOther"
]


class ProcessEventStarted(TypedDict):
    """The process runs."""
    event: Literal["started"]
    pid: int
    """Process id in the sandbox."""
    id: int
    """Number of the event: one more than that of the event before it."""


class ProcessEventStdout(TypedDict):
    """The process wrote to standard output, or to its terminal."""
    base64: NotRequired[str | None]
    """The bytes as base64. Absent when they are valid UTF-8."""
    text: str
    """The bytes as text."""
    event: Literal["stdout"]
    id: int
    """Number of the event: one more than that of the event before it."""


class ProcessEventStderr(TypedDict):
    """The process wrote to standard error."""
    base64: NotRequired[str | None]
    """The bytes as base64. Absent when they are valid UTF-8."""
    text: str
    """The bytes as text."""
    event: Literal["stderr"]
    id: int
    """Number of the event: one more than that of the event before it."""


class ProcessEventExit(TypedDict):
    """The process ended, or its sandbox did. No event follows."""
    egress_denied: NotRequired[list[EgressDenied]]
    """Destinations that the network policy denied to the sandbox while the program ran, the
    latest first, at most 8. Absent when there are none.
    """
    hint: NotRequired[str | None]
    """Advice on what to ask for. Absent when nothing would help."""
    duration_us: int
    """Wall time from the arrival of the request in the guest to the end of the program, in
    microseconds.
    """
    error: NotRequired[str | None]
    """Why the program could not be started, or that it timed out; else null."""
    exit_code: int
    """Exit code of the program. 128 + n if signal n killed it, -1 if it was never started or
    reached its time limit.
    """
    launch_us: NotRequired[int]
    """Part of `duration_us` before the program had its work, in microseconds."""
    out_of_memory: NotRequired[bool]
    """Whether the limit of memory was reached, so that the guest's kernel killed the program
    or a process that it started. Without `limits.memory_mib`, false if the program
    succeeded.
    """
    signal: NotRequired[int | None]
    """Number of the signal that killed the program, or null."""
    started_by: NotRequired[StartedBy | None]
    stderr_truncated: bool
    """Whether standard error exceeded 8 MiB, or what there was room for, and was cut."""
    stdout_truncated: bool
    """Whether standard output exceeded 8 MiB, or what there was room for, and was cut."""
    timed_out: bool
    """Whether the program reached its time limit, so that its process tree was killed."""
    event: Literal["exit"]
    id: int
    """Number of the event: one more than that of the event before it."""


class ProcessEventGap(TypedDict):
    """The events from `first_missing` to this event's number are not kept any more."""
    event: Literal["gap"]
    first_missing: int
    """Number of the first event that is not kept any more."""
    id: int
    """Number of the event: one more than that of the event before it."""


class ProcessEventOther(TypedDict):
    """An event that this version does not know."""
    event: Literal["other"]
    id: int
    """Number of the event: one more than that of the event before it."""


#: Kind of an event.
ProcessEventKind = Union[
    "ProcessEventKindStarted", "ProcessEventKindStdout", "ProcessEventKindStderr",
    "ProcessEventKindExit", "ProcessEventKindGap", "ProcessEventKindOther"
]


class ProcessEventKindStarted(TypedDict):
    """The process runs."""
    event: Literal["started"]
    pid: int
    """Process id in the sandbox."""


class ProcessEventKindStdout(TypedDict):
    """The process wrote to standard output, or to its terminal."""
    base64: NotRequired[str | None]
    """The bytes as base64. Absent when they are valid UTF-8."""
    text: str
    """The bytes as text."""
    event: Literal["stdout"]


class ProcessEventKindStderr(TypedDict):
    """The process wrote to standard error."""
    base64: NotRequired[str | None]
    """The bytes as base64. Absent when they are valid UTF-8."""
    text: str
    """The bytes as text."""
    event: Literal["stderr"]


class ProcessEventKindExit(TypedDict):
    """The process ended, or its sandbox did. No event follows."""
    egress_denied: NotRequired[list[EgressDenied]]
    """Destinations that the network policy denied to the sandbox while the program ran, the
    latest first, at most 8. Absent when there are none.
    """
    hint: NotRequired[str | None]
    """Advice on what to ask for. Absent when nothing would help."""
    duration_us: int
    """Wall time from the arrival of the request in the guest to the end of the program, in
    microseconds.
    """
    error: NotRequired[str | None]
    """Why the program could not be started, or that it timed out; else null."""
    exit_code: int
    """Exit code of the program. 128 + n if signal n killed it, -1 if it was never started or
    reached its time limit.
    """
    launch_us: NotRequired[int]
    """Part of `duration_us` before the program had its work, in microseconds."""
    out_of_memory: NotRequired[bool]
    """Whether the limit of memory was reached, so that the guest's kernel killed the program
    or a process that it started. Without `limits.memory_mib`, false if the program
    succeeded.
    """
    signal: NotRequired[int | None]
    """Number of the signal that killed the program, or null."""
    started_by: NotRequired[StartedBy | None]
    stderr_truncated: bool
    """Whether standard error exceeded 8 MiB, or what there was room for, and was cut."""
    stdout_truncated: bool
    """Whether standard output exceeded 8 MiB, or what there was room for, and was cut."""
    timed_out: bool
    """Whether the program reached its time limit, so that its process tree was killed."""
    event: Literal["exit"]


class ProcessEventKindGap(TypedDict):
    """The events from `first_missing` to this event's number are not kept any more."""
    event: Literal["gap"]
    first_missing: int
    """Number of the first event that is not kept any more."""


class ProcessEventKindOther(TypedDict):
    """An event that this version does not know."""
    event: Literal["other"]


class ProcessList(TypedDict):
    """Processes of a sandbox."""
    processes: list[Process]
    """Processes that run, and those that ended recently, sorted by process id."""


#: A text message to a process over its WebSocket. A binary message is standard input, unchanged.
ProcessMessage = Union[
    "ProcessMessageStdin", "ProcessMessageStdinEnd", "ProcessMessageSignal", "ProcessMessageResize"
]


class ProcessMessageStdin(TypedDict):
    """Writes text to standard input."""
    say: Literal["stdin"]
    text: str
    """The text."""


class ProcessMessageStdinEnd(TypedDict):
    """Ends standard input. A terminal receives Ctrl-D."""
    say: Literal["stdin_end"]


class ProcessMessageSignal(TypedDict):
    """Sends a signal to the process and all it started."""
    signal: SignalName
    """Name of the signal."""
    say: Literal["signal"]


class ProcessMessageResize(TypedDict):
    """Changes the size of the terminal."""
    cols: int
    """Number of columns, 1 to 4,096."""
    rows: int
    """Number of rows, 1 to 4,096."""
    say: Literal["resize"]


class ProcessSpec(TypedDict):
    """The program to start, and its surroundings."""
    args: NotRequired[list[str]]
    """Arguments after the file of `code`."""
    argv: NotRequired[list[str]]
    """Program, found on `PATH` as by a shell, and its arguments. Excludes `code`."""
    code: NotRequired[str | None]
    """Program text in the sandbox's language, at most 8 MiB. Excludes `argv`."""
    cwd: NotRequired[str | None]
    """Working directory. The user's home when absent."""
    env: NotRequired[dict[str, str]]
    """Environment variables added to the sandbox's own."""
    fresh: NotRequired[bool]
    """Whether to start a new interpreter, even if the pack keeps a warm one to fork."""
    limits: NotRequired[Limits]
    """Limits of the program and all it starts."""
    timeout_ms: NotRequired[int | None]
    """Time limit in milliseconds, 1 to 3,600,000. At the limit, the whole process tree is
    killed. No limit when absent.
    """
    tty: NotRequired[TtySize | None]
    user: NotRequired[str | None]
    """Name of the user to run as. Root when absent."""


class Resources(TypedDict):
    """Size of a sandbox. What is absent is the daemon's default."""
    cpu_percent: NotRequired[int | None]
    """Most processor time, in per cent of one processor: 1 to 100 for each virtual processor,
    which is the default. It can be changed later.
    """
    cpu_weight: NotRequired[int | None]
    """Share of processor time beside other sandboxes when processors are short: 1 to 10,000,
    by default 100. It can be changed later.
    """
    disk_mib: NotRequired[int | None]
    """Size of its own disk, in MiB: 64 to the limit of the daemon (`--disk-max-mib`). A
    sandbox with a smaller one than the default (`--disk-mib`) boots cold.
    """
    memory_mib: NotRequired[int | None]
    """Memory, in MiB: an even number from 64 to the limit of the daemon."""
    pids: NotRequired[int | None]
    """Most processes and threads of all programs together: 16 to 65,536, by default 4,096.
    Beyond it programs cannot start others. An exec has a limit of its own besides
    (`limits.pids`).
    """
    vcpus: NotRequired[int | None]
    """Number of virtual processors: 1 to as many as the host has, at most 32."""


#: One event of a run: a line of JSON, or the data of a server-sent event whose name is the value
#: of `event`. The last event is `end`.
RunEvent = Union[
    "RunEventStarted", "RunEventStdout", "RunEventStderr", "RunEventDisplay", "RunEventResult",
    "RunEventError", "RunEventEnd", "RunEventGap", "RunEventOther"
]


class RunEventStarted(TypedDict):
    """The run began."""
    event: Literal["started"]
    execution_count: int
    """Number of runs of the interpreter, this one included."""


class RunEventStdout(TypedDict):
    """The code wrote to standard output."""
    event: Literal["stdout"]
    text: str
    """The output, with every invalid UTF-8 sequence replaced by U+FFFD."""


class RunEventStderr(TypedDict):
    """The code wrote to standard error."""
    event: Literal["stderr"]
    text: str
    """The output, with every invalid UTF-8 sequence replaced by U+FFFD."""


class RunEventDisplay(TypedDict):
    """The code displayed a value."""
    data: dict[str, Any]
    """The value in each of its forms, by MIME type. Text is a string, an image is base64, JSON
    is JSON.
    """
    event: Literal["display"]


class RunEventResult(TypedDict):
    """The last expression had a value."""
    data: dict[str, Any]
    """The value in each of its forms, by MIME type. Text is a string, an image is base64, JSON
    is JSON.
    """
    event: Literal["result"]


class RunEventError(TypedDict):
    """The code failed."""
    event: Literal["error"]
    name: str
    """Name of the exception's class. `ExitCode` for a shell. `ContextEnded` when the
    interpreter itself has ended, so that the context is dead.
    """
    traceback: str
    """The traceback as it is printed."""
    value: str
    """Message of the exception."""


class RunEventEnd(TypedDict):
    """The run has ended."""
    egress_denied: NotRequired[list[EgressDenied]]
    """Destinations that the network policy denied to the sandbox while the program ran, the
    latest first, at most 8. Absent when there are none.
    """
    hint: NotRequired[str | None]
    """Advice on what to ask for. Absent when nothing would help."""
    duration_us: int
    """Time from `started` to the end, in microseconds."""
    execution_count: int
    """Number of runs of the interpreter, this one included."""
    timed_out: bool
    """Whether the run reached its time limit."""
    truncated: bool
    """Whether output over 64 MiB, or a value over another limit, was dropped."""
    event: Literal["end"]


class RunEventGap(TypedDict):
    """The events from `first_missing` to this event's number are not kept any more. The stream
    of a run has none.
    """
    event: Literal["gap"]
    first_missing: int
    """Number of the first event that is not kept any more."""


class RunEventOther(TypedDict):
    """An event that this version does not know."""
    event: Literal["other"]


class Sandbox(TypedDict):
    """One sandbox."""
    auto_resume: NotRequired[bool]
    """Whether a request thaws the sandbox."""
    boot: NotRequired[BootTimes | None]
    boot_path: NotRequired[str | None]
    """How the microVM was started: `warm-pool`, `snapshot-restore` or `cold-boot`. Absent
    until the sandbox is ready.
    """
    created_at_ms: int
    """When the request to create it arrived, in milliseconds since the Unix epoch."""
    dir: str
    """Directory on the host that holds the sandbox's sockets, log and record."""
    env: NotRequired[list[str]]
    """Names of the environment variables that the sandbox was created with. Their values,
    which may be secrets, are not shown.
    """
    expires_at_ms: NotRequired[int | None]
    """When the timeout passes, in milliseconds since the Unix epoch, by the host's clock as it
    is set now. Absent without a timeout, and until the sandbox is ready.
    """
    id: str
    """`sb_`, the node key of the daemon if it has one, and 12 hexadecimal digits."""
    idle: NotRequired[SandboxIdle]
    """When the sandbox is stopped for want of use."""
    language_pack: str
    """Name of the language pack."""
    metadata: NotRequired[dict[str, str]]
    """Names and values that callers gave the sandbox."""
    on_timeout: NotRequired[OnTimeout]
    """Effect of the timeout."""
    owner: NotRequired[str | None]
    """Owner of the sandbox: `key:ID` or `uid:NUMBER`. Absent if it has none."""
    phase: SandboxPhase
    """Phase of the sandbox: whether its guest runs."""
    reason: NotRequired[str | None]
    """Why the microVM ended. Absent unless `state` is `gone`."""
    resources: NotRequired[Resources]
    """Size of the sandbox, with the defaults filled in."""
    state: SandboxState
    """State of the sandbox: whether it can be used."""
    timeout_ms: NotRequired[int | None]
    """Timeout of the sandbox, in milliseconds. Absent if it has none."""
    vmm_pid: NotRequired[int | None]
    """Process id of the VMM on the host. Absent before the VMM runs and after it ended."""


class SandboxEgress(TypedDict):
    """Network access of a sandbox."""
    connections: int
    """Number of open connections."""
    in_force: list[EgressRule]
    """The entries that allow something, within what the operator permits."""
    policy: PolicySpec
    """The policy as it was given."""
    reset: NotRequired[int | None]
    """Number of connections that the change of the policy has reset. Absent where there was no
    change.
    """
    state: EgressState
    """Whether connections of programs reach the daemon."""
    totals: EgressTotals
    """Connections and bytes since the sandbox was created."""
    why: NotRequired[str | None]
    """Why they do not. Absent unless `state` is `unavailable`."""


class SandboxEvent(TypedDict):
    """One event of a sandbox."""
    at_ms: int
    """When it happened, in milliseconds since the Unix epoch, by the host's clock."""
    event: SandboxEventKind
    """Kind of the event."""
    metadata: NotRequired[dict[str, str]]
    """Names and values that callers gave the sandbox, as they were then."""
    phase: SandboxPhase
    """Phase of the sandbox afterwards."""
    reason: NotRequired[str | None]
    """Why the microVM ended. Absent unless it ended by itself."""
    sandbox: str
    """Id of the sandbox."""
    seq: int
    """Number of the event. Numbers grow, also over restarts of the daemon."""


class SandboxEventGap(TypedDict):
    """Events that a follower misses: those between two numbers. None may have been for it."""
    after: int
    """Number of the last event before the gap."""
    before: int
    """Number of the first event after the gap that is kept, or of the next one."""


#: Kind of an event of a sandbox.
SandboxEventKind = Literal[
    "created", "running", "frozen", "thawed", "expired", "gone", "deleted", "other"
]


class SandboxIdle(TypedDict):
    """The idle policy of a sandbox: when it is stopped for want of use."""
    freeze_ms: NotRequired[int | None]
    """Time without use after which the guest is stopped until the next request, in
    milliseconds. Absent for never.
    """
    ignore_programs: NotRequired[bool]
    """Whether the guest is stopped although programs run in it."""


class SandboxList(TypedDict):
    """Sandboxes: all, or one page of them."""
    next: NotRequired[int | None]
    """Where the next page begins: its `after`. Absent where there are no more."""
    sandboxes: list[Sandbox]
    """The sandboxes, oldest first."""


#: Phase of a sandbox.
SandboxPhase = Literal["creating", "running", "frozen", "gone"]


#: State of a sandbox.
SandboxState = Literal["creating", "ready", "gone"]


#: Name of a signal that a process and all it started can receive.
SignalName = Literal[
    "SIGABRT", "SIGALRM", "SIGCONT", "SIGHUP", "SIGINT", "SIGKILL", "SIGQUIT", "SIGSTOP", "SIGTERM",
    "SIGTSTP", "SIGUSR1", "SIGUSR2", "SIGWINCH"
]


class SignalProcess(TypedDict):
    """The signal to send."""
    signal: SignalName
    """Name of the signal."""


#: How a program was started.
StartedBy = Literal["spawn", "zygote"]


class Template(TypedDict):
    """The template of one language pack and size."""
    dir: NotRequired[str | None]
    """Directory of the template on the host. Absent unless `state` is `ready`."""
    disk_bytes: NotRequired[int | None]
    """Size of the template on disk, in bytes. Absent unless `state` is `ready`."""
    error: NotRequired[str | None]
    """Why the build failed. Absent unless `state` is `failed`."""
    language_pack: str
    """Name of the language pack."""
    made_at_ms: NotRequired[int | None]
    """When the template was built, in milliseconds since the Unix epoch. Absent unless `state`
    is `ready`.
    """
    memory_mib: NotRequired[int]
    """Memory, in MiB."""
    pinned: NotRequired[bool]
    """Whether the template stays, even if it is not used: it is of the default size, or
    pinned.
    """
    state: TemplateState
    """State of the template."""
    vcpus: NotRequired[int]
    """Number of virtual processors."""


class TemplateList(TypedDict):
    """All templates."""
    templates: list[Template]
    """The template of each installed language pack with the default size, and those of other
    sizes, sorted by name and size. Empty where the daemon keeps no templates.
    """


#: State of a template.
TemplateState = Literal["absent", "building", "ready", "failed"]


class Text(TypedDict):
    """Bytes in JSON, which is Unicode. `text` has every invalid UTF-8 sequence replaced by
    U+FFFD; exactly when that changed something, `base64` has the bytes themselves. A
    character is never cut in two between events.
    """
    base64: NotRequired[str | None]
    """The bytes as base64. Absent when they are valid UTF-8."""
    text: str
    """The bytes as text."""


class TouchSandbox(TypedDict):
    """More time for a sandbox."""
    timeout_ms: NotRequired[int | None]
    """Least time that the sandbox has left afterwards, in milliseconds: 1,000 to what the
    daemon allows (`--timeout-max`). Its own timeout when absent.
    """


class TtySize(TypedDict):
    """Size of a terminal, in characters."""
    cols: int
    """Number of columns, 1 to 4,096."""
    rows: int
    """Number of rows, 1 to 4,096."""


class UnclaimedMicroVm(TypedDict):
    """A microVM of an earlier daemon that runs and is left alone."""
    dir: str
    """Its directory on the host."""
    vmm_pid: int
    """Process id of its VMM."""
    why: str
    """Why it is left alone."""


class UpdateResources(TypedDict):
    """A change of what a sandbox may take. What is absent stays as it is; `null` is the
    default.
    """
    cpu_percent: NotRequired[int | None]
    """Most processor time, in per cent of one processor: 1 to 100 for each virtual processor."""
    cpu_weight: NotRequired[int | None]
    """Share of processor time beside other sandboxes: 1 to 10,000."""


class UpdateSandbox(TypedDict):
    """A change of a sandbox. What is absent stays as it is."""
    auto_resume: NotRequired[bool | None]
    """Whether a request thaws the sandbox."""
    idle: NotRequired[IdleOptions | None]
    metadata: NotRequired[dict[str, str | None]]
    """Metadata to set. `null` removes a name."""
    on_timeout: NotRequired[OnTimeout | None]
    resources: NotRequired[UpdateResources | None]
    timeout_ms: NotRequired[int | None]
    """Time after which the sandbox ends, from now on, in milliseconds: 1,000 to what the
    daemon allows (`--timeout-max`). It may be shorter than what is left. `null` for never.
    """


class Usage(TypedDict):
    """Use and limits of one caller."""
    limits: NotRequired[UsageLimits]
    """The most that it may use. Only keys have limits."""
    name: NotRequired[str | None]
    """Name of the key. Absent without one, and for one that was removed."""
    owner: NotRequired[str | None]
    """Owner of its sandboxes: `key:ID` or `uid:NUMBER`. Absent for those that are nobody's."""
    used: Used
    """Its use now."""


class UsageLimits(TypedDict):
    """The most that one caller may use. What is absent is not limited."""
    creates_per_minute: NotRequired[int | None]
    """Most creations in a minute, and at once."""
    disk_gib: NotRequired[int | None]
    """Most disk of all sandboxes, in GiB."""
    egress: NotRequired[list[str] | None]
    """The most that its sandboxes may reach: profiles and entries. Nothing if it is empty."""
    memory_mib: NotRequired[int | None]
    """Most memory of all sandboxes, in MiB."""
    packs: NotRequired[list[str] | None]
    """The language packs that its sandboxes may have."""
    requests: NotRequired[int | None]
    """Most requests under way."""
    sandboxes: NotRequired[int | None]
    """Most sandboxes."""
    timeout_ms: NotRequired[int | None]
    """Longest timeout of a sandbox, in milliseconds. One that asks for none gets it."""
    vcpus: NotRequired[int | None]
    """Most virtual processors of all sandboxes."""


class UsageList(TypedDict):
    """Use and limits of callers."""
    callers: list[Usage]
    """The caller, or every key and every other owner of sandboxes."""


class Used(TypedDict):
    """Use of one caller."""
    creates_left: NotRequired[int | None]
    """Creations that it may begin at once. Absent without such a limit."""
    disk_mib: int
    """Disks of all its sandboxes, in MiB, likewise."""
    memory_mib: int
    """Memory of all its sandboxes, in MiB, each counted with all it may use."""
    requests: NotRequired[int | None]
    """Requests under way, without the one that asks. Absent without a key."""
    sandboxes: int
    """Number of sandboxes, those being created included."""
    vcpus: int
    """Virtual processors of all its sandboxes."""


class VmmInfo(TypedDict):
    """The VMM the daemon uses."""
    accelerator: str
    """`kvm` or `tcg` (software emulation)."""
    driver: str
    """`qemu` or `firecracker`."""
    reason: str
    """Why this driver and this accelerator were chosen."""
    version: str
    """Version of the VMM's binary."""
