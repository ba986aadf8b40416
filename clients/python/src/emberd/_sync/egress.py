# Written from aio/egress.py by tools/generate_sync.py: change that one.
"""What a sandbox may reach, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterable

from .._results import given
from ._net import opening
from .streams import EgressEvents

if TYPE_CHECKING:
    from .. import types
    from .client import Client

    Entries = Iterable[types.EntrySpec]


class Egress:
    """Network access of a sandbox."""

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self._id = id

    def show(self) -> types.SandboxEgress:
        """The policy, what is in force, and totals."""
        return self._client.get_egress(self._id)

    def replace(self, policy: types.PolicySpec) -> types.SandboxEgress:
        """Replaces the policy. Connections that it does not allow are reset."""
        return self._client.replace_egress(self._id, policy)

    def change(
        self, *, add: types.EgressLists | None = None, remove: types.EgressLists | None = None
    ) -> types.SandboxEgress:
        """Adds profiles and entries, and removes some: everything, or nothing."""
        return self._client.change_egress(self._id, given(add=add, remove=remove))

    def allow(self, *entries: types.EntrySpec) -> types.SandboxEgress:
        """Allows destinations: `api.example.com`, `*.example.com:443`, `10.0.0.0/8`."""
        return self.change(add={"allow": list(entries)})

    def deny(self, *entries: types.EntrySpec) -> types.SandboxEgress:
        """Denies destinations, whatever allows them."""
        return self.change(add={"deny": list(entries)})

    def check(self, host: str, port: int | None = None) -> types.EgressCheck:
        """Whether a connection would be made, and why. None is."""
        return self._client.check_egress(self._id, given(host=host, port=port))

    def log(
        self,
        *,
        after: int | None = None,
        decision: types.EgressDecision | None = None,
        limit: int | None = None,
    ) -> types.EgressLog:
        """Records of connections after number `after`."""
        return self._client.get_egress_log(
            self._id, after=after, decision=decision, limit=limit
        )

    @opening
    def follow(
        self, *, after: int | None = None, decision: types.EgressDecision | None = None
    ) -> EgressEvents:
        """Records as they come, until the sandbox ends."""
        return self._client.follow_egress_log(self._id, after=after, decision=decision)


def policy_of(
    policy: types.PolicySpec | None,
    profiles: Iterable[str],
    allow: Entries,
    deny: Entries,
) -> types.PolicySpec | None:
    """One policy of what the arguments of a creation say; None for the operator's default."""
    lists = given(
        profiles=list(profiles) or None, allow=list(allow) or None, deny=list(deny) or None
    )
    if policy is None and not lists:
        return None
    merged = dict(policy or {})
    for name, more in lists.items():
        merged[name] = [*merged.get(name, ()), *more]  # type: ignore[misc]
    return merged  # type: ignore[return-value]
