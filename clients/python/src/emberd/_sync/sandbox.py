# Written from aio/sandbox.py by tools/generate_sync.py: change that one.
"""A sandbox: a microVM of its own."""

from __future__ import annotations

from base64 import b64encode
from time import monotonic
from typing import TYPE_CHECKING, Iterable, Mapping, Sequence

from .._results import Outcome, Result, Run, given, milliseconds
from ..errors import EmberdError, NotFound, PortClosed, TimedOut
from ._net import Told, opening, sleep
from .client import Client
from .contexts import Context, Contexts
from .egress import Egress, policy_of
from .files import Files
from .processes import Process, Terminal
from .streams import Closing, DaemonEvents, Download
from .tunnel import Tunnel

if TYPE_CHECKING:
    from .. import types
    from .egress import Entries

#: Pause between two looks at a port that nothing listens on, in seconds.
PORT_PAUSE_S = 0.05


class Sandbox(Closing):
    """A sandbox. `create` makes one, which `with` deletes at the end; `connect` finds one,
    which stays.

    Times are seconds. What the daemon answers keeps the names of the API: see `emberd.types`.
    """

    def __init__(self, id: str, client: Client, *, owned: bool = False) -> None:
        self.id = id
        self.client = client
        self.files = Files(client, id)
        self.contexts = Contexts(client, id)
        self.egress = Egress(client, id)
        self._owned = owned
        #: The contexts that `run_code` runs in, by language.
        self._own_contexts: dict[str | None, Context] = {}

    @classmethod
    @opening
    def create(
        cls,
        pack: str | None = None,
        *,
        timeout: float | None = None,
        on_timeout: types.OnTimeout | None = None,
        env: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        vcpus: int | None = None,
        memory_mib: int | None = None,
        resources: types.Resources | None = None,
        profiles: Iterable[str] = (),
        allow: Entries = (),
        deny: Entries = (),
        egress: types.PolicySpec | None = None,
        idle: types.IdleOptions | None = None,
        auto_resume: bool | None = None,
        idempotency_key: str | None = None,
        client: Client | None = None,
    ) -> Sandbox:
        """Creates a sandbox of a language pack, `python` by default, and waits until it is ready.

        The daemon deletes it after `timeout`, whatever becomes of this program. `vcpus` and
        `memory_mib` go into `resources`; `profiles`, `allow` and `deny` into `egress`, without
        which the operator's default applies. The same `idempotency_key` with the same arguments
        creates nothing further.
        """
        size = {**(resources or {}), **given(vcpus=vcpus, memory_mib=memory_mib)}
        body = given(
            language_pack=pack,
            timeout_ms=milliseconds(timeout),
            on_timeout=on_timeout,
            env=dict(env) if env else None,
            metadata=dict(metadata) if metadata else None,
            resources=size or None,
            egress=policy_of(egress, profiles, allow, deny),
            idle=idle,
            auto_resume=auto_resume,
        )
        client = client or Client()
        created = client.create_sandbox(body, idempotency_key=idempotency_key)
        return cls(created["id"], client, owned=True)

    @classmethod
    @opening
    def connect(cls, id: str, *, client: Client | None = None) -> Sandbox:
        """Finds the sandbox of that id. `with` does not delete it."""
        client = client or Client()
        client.get_sandbox(id)
        return cls(id, client)

    def exec(
        self,
        code: str,
        *,
        args: Sequence[str] = (),
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        limits: types.Limits | None = None,
        timeout: float | None = None,
        fresh: bool | None = None,
    ) -> Outcome:
        """Runs a program in the language of the pack, and waits for its end.

        Each is a new process; `run_code` keeps variables. A program that fails raises nothing,
        unless `check()` of the outcome is called. It is killed after `timeout`, 30 seconds by
        default, with everything that it started.
        """
        body = given(
            code=code,
            args=list(args) or None,
            stdin=stdin if isinstance(stdin, str) else None,
            stdin_base64=b64encode(stdin).decode() if isinstance(stdin, bytes) else None,
            env=dict(env) if env else None,
            cwd=cwd,
            user=user,
            limits=limits,
            timeout_ms=milliseconds(timeout),
            fresh=fresh,
        )
        return Outcome(self.client.exec_code(self.id, body))

    def run_code(
        self,
        code: str,
        *,
        language: str | None = None,
        timeout: float | None = None,
        max_image_bytes: int | None = None,
        on_stdout: Told[str] | None = None,
        on_stderr: Told[str] | None = None,
        on_result: Told[Result] | None = None,
    ) -> Run:
        """Runs code in the sandbox's own context of a language, which keeps variables between runs.

        Results are values, pictures and tables. Jupyter shows a run that is the value of a cell.
        A figure of Matplotlib whose image has more than `max_image_bytes` is drawn with fewer dots
        per inch, until it fits.
        """
        context = self._own_contexts.get(language)
        if context is None:
            context = self.contexts.open(language)
            self._own_contexts[language] = context
        return context.run(
            code,
            timeout=timeout,
            max_image_bytes=max_image_bytes,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            on_result=on_result,
        )

    @opening
    def spawn(
        self,
        argv: Sequence[str] | None = None,
        *,
        code: str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        limits: types.Limits | None = None,
        timeout: float | None = None,
    ) -> Process:
        """Starts a program, or code with its `args`, in the background. No time limit by
        default.
        """
        body = given(
            argv=list(argv) if argv is not None else None,
            code=code,
            args=list(args) or None,
            env=dict(env) if env else None,
            cwd=cwd,
            user=user,
            limits=limits,
            timeout_ms=milliseconds(timeout),
        )
        return Process(self.client, self.id, self.client.start_process(self.id, body))

    @opening
    def terminal(
        self,
        argv: str | Sequence[str] = "bash",
        *,
        cols: int = 80,
        rows: int = 24,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> Terminal:
        """Starts a program at a terminal."""
        body = given(
            argv=[argv] if isinstance(argv, str) else list(argv),
            tty={"cols": cols, "rows": rows},
            env=dict(env) if env else None,
            cwd=cwd,
            user=user,
        )
        return Terminal(self.client, self.id, self.client.start_process(self.id, body))

    def processes(self) -> list[Process]:
        """Processes that run, and those that ended lately."""
        listed = self.client.list_processes(self.id)
        return [Process(self.client, self.id, view) for view in listed["processes"]]

    def process(self, pid: int) -> Process:
        """A process that was started before, also by another program."""
        return Process(self.client, self.id, self.client.get_process(self.id, pid))

    def url(self, port: int) -> str:
        """Address of a port for HTTP: `http://PORT-ID.localhost:7777/`."""
        url = self.client.port_url(self.id, port)
        if url is None:
            raise EmberdError(
                "ports have no URL over a Unix socket\n"
                "hint: use the daemon's TCP address (EMBERD_URL), or tunnel()"
            )
        return url

    def signed_url(
        self, port: int, *, expires: float | None = None, base: str | None = None
    ) -> str:
        """A URL of a port that a browser can open without a key, for `expires` seconds (an hour
        by default). It is a secret: everybody who has it reaches the port. `base` is the begin of
        the URL (`https://sandboxes.example`), by default the address of this client.
        """
        wanted: types.CreateUrl = {"port": port}
        if expires is not None:
            wanted["expires_ms"] = round(expires * 1000)
        if base is not None:
            wanted["base"] = base
        created = self.client.create_url(self.id, wanted)
        return created["url"]

    def revoke_urls(self) -> None:
        """Revokes every signed URL of the sandbox; what was begun with one ends."""
        self.client.delete_urls(self.id)

    def port_headers(self, port: int) -> dict[str, str]:
        """Headers that lead a request to the daemon's own URL to a port, where host names
        cannot.
        """
        return {"x-emberd-sandbox": self.id, "x-emberd-port": str(port)}

    def wait_port(self, port: int, *, timeout: float = 30.0) -> None:
        """Waits until something listens on a port; `TimedOut` if nothing does."""
        deadline = monotonic() + timeout
        while True:
            try:
                with self.client.connect_port(self.id, port):
                    return
            except PortClosed:
                if monotonic() >= deadline:
                    raise TimedOut(f"nothing listens on port {port} after {timeout:g} s") from None
            sleep(PORT_PAUSE_S)

    @opening
    def tunnel(self, port: int) -> Tunnel:
        """A connection to a TCP port inside the sandbox, for any protocol."""
        return self.client.connect_port(self.id, port)

    def info(self) -> types.Sandbox:
        """What the daemon says of the sandbox."""
        return self.client.get_sandbox(self.id)

    def change(self, change: types.UpdateSandbox) -> types.Sandbox:
        """Changes timeout, idle policy, processor time and metadata: everything, or nothing."""
        return self.client.change_sandbox(self.id, change)

    def touch(self, timeout: float | None = None) -> types.Sandbox:
        """Thaws the sandbox, which has at least its timeout left afterwards, or so many seconds."""
        body = given(timeout_ms=milliseconds(timeout))
        return self.client.extend_sandbox(self.id, body)

    def metrics(self) -> types.Metrics:
        """What the sandbox uses, by its guest's own account."""
        return self.client.get_metrics(self.id)

    def logs(self, *, tail: int | None = None) -> str:
        """The console log of the guest, or its last lines."""
        with self.client.get_logs(self.id, tail=tail) as log:
            return (log.read()).decode(errors="replace")

    @opening
    def follow_logs(self, *, tail: int | None = None) -> Download:
        """The console log as it grows, until the sandbox ends."""
        return self.client.get_logs(self.id, follow=True, tail=tail)

    @opening
    def events(self, *, after: int | None = None, follow: bool = True) -> DaemonEvents:
        """What becomes of the sandbox: the kept events, and with `follow` those that come."""
        return self.client.follow_events(sandbox=self.id, after=after, follow=follow)

    def delete(self) -> None:
        """Deletes the sandbox; one that does not exist any more is fine."""
        try:
            self.client.delete_sandbox(self.id)
        except NotFound:
            pass

    def close(self) -> None:
        """Deletes the sandbox if `create` has made it, and closes unused connections."""
        try:
            if self._owned:
                self.delete()
        finally:
            self.client.close()

    def __repr__(self) -> str:
        return f"<emberd.{type(self).__name__} {self.id} at {self.client.url}>"
