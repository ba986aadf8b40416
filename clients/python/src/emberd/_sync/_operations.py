# Written from aio/_operations.py by tools/generate_sync.py: change that one.
"""The operations of the API on sandboxes and on the daemon, under their own names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterable, Mapping

from .._http import segment, target
from ._session import Session, create_once
from .streams import AuditEvents, DaemonEvents, Download, EgressEvents

if TYPE_CHECKING:
    from .. import types


def sandbox_path(id: str, rest: str = "") -> str:
    """The path of a sandbox, or of something in it."""
    return f"/sandboxes/{segment(id)}{rest}"


def _strings(words: str | Iterable[str] | None) -> list[str]:
    return [words] if isinstance(words, str) else list(words or ())


class DaemonOperations:
    """Operations on the daemon, its templates and its sandboxes."""

    _session: Session

    def check_health(self) -> types.Health:
        """Whether the daemon answers."""
        return self._session.call("GET", "/healthz")

    def get_info(self) -> types.Info:
        """Version, VMM, guest size, language packs, pools."""
        return self._session.call("GET", "/info")

    def get_openapi(self) -> dict[str, Any]:
        """The OpenAPI document of the daemon."""
        return self._session.call("GET", "/openapi.json")

    def get_daemon_metrics(self) -> str:
        """What the daemon counts and times, in the text format of Prometheus."""
        answer = self._session.send("GET", "/metrics")
        return (answer.all()).decode()

    def get_usage(self, *, all: bool | None = None) -> types.UsageList:
        """What this key uses and may use; with `all` what every key does, for administrators."""
        return self._session.call("GET", target("/usage", [("all", all)]))

    def create_url(self, id: str, body: types.CreateUrl) -> types.CreatedUrl:
        """A URL with which everybody who has it reaches one port, for some time."""
        return self._session.call("POST", sandbox_path(id, "/urls"), body)

    def delete_urls(self, id: str) -> None:
        """Revokes every URL of a sandbox."""
        self._session.do("DELETE", sandbox_path(id, "/urls"))

    def drain_daemon(self) -> None:
        """Has the daemon create no more sandboxes until it is restarted."""
        self._session.do("POST", "/drain", idempotent=True)

    def follow_events(
        self,
        *,
        sandbox: str | Iterable[str] | None = None,
        after: int | None = None,
        follow: bool = True,
    ) -> DaemonEvents:
        """What becomes of all sandboxes, or of these: the kept events after number `after`, or all
        that are kept, and with `follow` those that come.
        """
        query = [("sandbox", id) for id in _strings(sandbox)]
        events = DaemonEvents(self._session, "/events", [*query, ("follow", follow)])
        events.last_id = after
        return events.start()

    def read_audit(
        self,
        *,
        after: int | None = None,
        since: str | None = None,
        action: str | None = None,
        sandbox: str | None = None,
        limit: int | None = None,
    ) -> types.AuditPage:
        """Records of the audit journal after number `after`, of one action or sandbox if given."""
        filters = [("since", since), ("action", action), ("sandbox", sandbox)]
        query = [*filters, ("after", after), ("limit", limit)]
        return self._session.call("GET", target("/audit", query))

    def follow_audit(
        self,
        *,
        after: int | None = None,
        since: str | None = None,
        action: str | None = None,
        sandbox: str | None = None,
    ) -> AuditEvents:
        """Records of the audit journal, and those that come (`read_audit` with `follow`)."""
        query = [("since", since), ("action", action), ("sandbox", sandbox), ("follow", True)]
        events = AuditEvents(self._session, "/audit", query)
        events.last_id = after
        return events.start()

    def list_templates(self) -> types.TemplateList:
        """The templates, by language pack and size."""
        return self._session.call("GET", "/templates")

    def build_template(
        self, pack: str, body: types.BuildTemplate | None = None
    ) -> types.Template:
        """Builds a template unless it exists, and waits until it is ready."""
        path = f"/templates/{segment(pack)}"
        return self._session.call("POST", path, body, idempotent=True)

    def delete_template(
        self, pack: str, *, vcpus: int | None = None, memory_mib: int | None = None
    ) -> None:
        """Deletes the template of a language pack, or of one of its sizes."""
        query = [("vcpus", vcpus), ("memory_mib", memory_mib)]
        self._session.do("DELETE", target(f"/templates/{segment(pack)}", query))

    def list_egress_profiles(self) -> types.EgressProfileList:
        """The profiles of policies, sorted by name."""
        return self._session.call("GET", "/egress/profiles")

    def list_sandboxes(
        self,
        *,
        metadata: Mapping[str, str] | None = None,
        phase: types.SandboxPhase | Iterable[types.SandboxPhase] | None = None,
        limit: int | None = None,
        after: int | None = None,
    ) -> types.SandboxList:
        """The sandboxes, oldest first; with all pairs of `metadata`, in one of the phases. Where
        there are more than `limit`, the answer has `next`, which is `after` of the next page.
        """
        pairs = [("metadata", f"{name}={value}") for name, value in (metadata or {}).items()]
        phases = [("phase", one) for one in _strings(phase)]
        query = [*pairs, *phases, ("limit", limit), ("after", after)]
        return self._session.call("GET", target("/sandboxes", query))

    def create_sandbox(
        self, body: types.CreateSandbox | None = None, *, idempotency_key: str | None = None
    ) -> types.CreatedSandbox:
        """Creates a sandbox and waits until it is ready. A creation whose connection breaks is
        asked for again with the same key, which is random unless given, so that it happens at most
        once.
        """
        return create_once(self._session, body or {}, idempotency_key)

    def get_sandbox(self, id: str) -> types.Sandbox:
        """One sandbox."""
        return self._session.call("GET", sandbox_path(id))

    def change_sandbox(self, id: str, body: types.UpdateSandbox) -> types.Sandbox:
        """Changes timeout, idle policy, processor time and metadata: everything, or nothing."""
        return self._session.call("PATCH", sandbox_path(id), body, idempotent=True)

    def extend_sandbox(
        self, id: str, body: types.TouchSandbox | None = None
    ) -> types.Sandbox:
        """Thaws the sandbox, which has at least its timeout left afterwards, or `timeout_ms`."""
        path = sandbox_path(id, "/touch")
        return self._session.call("POST", path, body, idempotent=True)

    def delete_sandbox(self, id: str) -> None:
        """Deletes a sandbox. Afterwards no request reaches it."""
        self._session.do("DELETE", sandbox_path(id))

    def exec_code(self, id: str, body: types.ExecBody) -> types.ExecOutcome:
        """Runs a program and waits for its end."""
        return self._session.call("POST", sandbox_path(id, "/exec"), body)

    def get_metrics(self, id: str) -> types.Metrics:
        """What the sandbox uses, by its guest's own account."""
        return self._session.call("GET", sandbox_path(id, "/metrics"))

    def get_logs(self, id: str, *, follow: bool = False, tail: int | None = None) -> Download:
        """The console log, or its last `tail` lines; with `follow` it goes on."""
        path = target(sandbox_path(id, "/logs"), [("follow", follow), ("tail", tail)])
        return Download(self._session.send("GET", path))

    def get_egress(self, id: str) -> types.SandboxEgress:
        """The network access of a sandbox: policy, what is in force, totals."""
        return self._session.call("GET", sandbox_path(id, "/egress"))

    def replace_egress(self, id: str, body: types.PolicySpec) -> types.SandboxEgress:
        """Replaces the policy. Connections that it does not allow are reset."""
        return self._session.call("PUT", sandbox_path(id, "/egress"), body)

    def change_egress(self, id: str, body: types.EgressPatch) -> types.SandboxEgress:
        """Adds entries to the policy and removes some: everything, or nothing."""
        path = sandbox_path(id, "/egress")
        return self._session.call("PATCH", path, body, idempotent=True)

    def check_egress(self, id: str, body: types.CheckEgress) -> types.EgressCheck:
        """Whether a connection would be made. None is."""
        path = sandbox_path(id, "/egress/check")
        return self._session.call("POST", path, body, idempotent=True)

    def get_egress_log(
        self,
        id: str,
        *,
        after: int | None = None,
        decision: types.EgressDecision | None = None,
        limit: int | None = None,
    ) -> types.EgressLog:
        """Records of connections after number `after`."""
        query = [("after", after), ("decision", decision), ("limit", limit)]
        path = target(sandbox_path(id, "/egress/log"), query)
        return self._session.call("GET", path)

    def follow_egress_log(
        self, id: str, *, after: int | None = None, decision: types.EgressDecision | None = None
    ) -> EgressEvents:
        """Records of connections after number `after`, and those that come (`get_egress_log` with
        `follow`).
        """
        query = [("decision", decision), ("follow", True)]
        events = EgressEvents(self._session, sandbox_path(id, "/egress/log"), query)
        events.last_id = after
        return events.start()
