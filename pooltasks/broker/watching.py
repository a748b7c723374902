"""The rules by which a watching node tells which nodes of its pool are dead.

Every node has two connections, each subscribed to a channel of the node's own; those of
its workers that wait at the server themselves are, too. The kernel closes them when the
processes end, the workers' right after the node's, so no subscription is left; one
connection that is cut leaves the others. A node without connections that has not
renewed its lease meanwhile is gone. A node that is frozen, or whose host is lost,
keeps its connections as far as the server knows: its lease runs out.

Pure: answers and times come as arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LEASE_SECONDS = 5.0
"""How long a node may be silent before its operations run elsewhere."""
GONE_SECONDS = 0.15
"""How long a node has to be without connections: longer than it takes to connect again."""
GONE_AFTER_OUTAGE_SECONDS = 2.0
"""The same while all nodes come back to their server at once, which takes them longer."""
PATIENCE_SECONDS = 5.0
"""Seconds after which a node that was cut off itself takes others for late: nodes that were
cut off with it need as long to come back. A thousand do after a restart of their server."""


class Reason(StrEnum):
    """The reason why a node is dead; release.lua knows the names."""

    GONE = "gone"
    """Its connections closed, and it has not renewed its lease since."""
    LATE = "late"
    """Its lease ran out."""
    DEAD = "dead"
    """Another watcher found it dead, and did not finish its recovery."""


@dataclass(frozen=True, slots=True)
class Other:
    """Another node, as the server sees it."""

    identity: str
    state: str
    lease: str
    """Server time in ms at which its lease runs out; empty if it has none."""
    connections: int


@dataclass(frozen=True, slots=True)
class Death:
    """A node that is dead."""

    identity: str
    reason: Reason
    lease: str
    """The lease when the connections were first seen closed."""


class Watch:
    """One node's observations of the others since it connected last.

    Args:
        at: Monotonic seconds at which it connected.
        patience: Seconds for which it ignores leases that have run out.
    """

    def __init__(self, at: float, patience: float = 0.0) -> None:
        self._patient_until = at + patience
        self._leases_before: float | None = None
        """Server time in ms: a lease that ends later was renewed since this watch began."""
        self._connected_first: frozenset[str] = frozenset()
        """The nodes that had connections at the first look."""
        self._gone_after = GONE_SECONDS
        """Seconds without connections after which a node is gone."""
        self._gone: dict[str, tuple[float, str]] = {}
        """Since when a node has no connection, and its lease then."""

    @property
    def has_begun(self) -> bool:
        """Whether it has had its first look, which has to be at all nodes."""
        return self._leases_before is not None

    @property
    def suspects(self) -> bool:
        """Whether a node may be dead: the next look should come soon."""
        return bool(self._gone)

    def know_uptime(self, now: float, uptime: float) -> None:
        """Be patient if the server has just started: the others are on their way back.

        Args:
            now: Monotonic seconds.
            uptime: Seconds since the server started; negative: not told.
        """
        if uptime >= 0:
            self._patient_until = max(self._patient_until, now - uptime + PATIENCE_SECONDS)

    def see(self, others: Iterable[Other], now: float, server_now: float) -> list[Death]:
        """Return the nodes that are dead.

        Args:
            others: All other nodes of the pool at the first look, then those that have no
                connection or no valid lease, or that another watcher has found dead.
            now: Monotonic seconds at which the server was asked.
            server_now: The server's time in ms.
        """
        if self._leases_before is None:
            self._leases_before = server_now + LEASE_SECONDS * 1000
            others = tuple(others)
            self._connected_first = frozenset(each.identity for each in others if each.connections)
            if 2 * len(self._connected_first) < len(others):
                self._gone_after = GONE_AFTER_OUTAGE_SECONDS
        deaths = []
        told = set()
        for other in others:
            told.add(other.identity)
            reason = self._judge(other, now, server_now)
            if reason is not None:
                deaths.append(Death(other.identity, reason, other.lease))
        self._gone = {name: since for name, since in self._gone.items() if name in told}
        return deaths

    def _judge(self, other: Other, now: float, server_now: float) -> Reason | None:
        if other.state.startswith("dead"):
            return Reason.DEAD
        its_patience_is_over = now >= self._patient_until
        if other.connections:
            self._gone.pop(other.identity, None)
        elif self._has_lived(other):
            # Only a node that has lived: after a restart of the server all are away.
            since, lease = self._gone.setdefault(other.identity, (now, other.lease))
            if lease != other.lease:  # it lives: it has renewed its lease since
                self._gone[other.identity] = now, other.lease
            elif now - since >= (GONE_SECONDS if its_patience_is_over else self._gone_after):
                return Reason.GONE
        late = not other.lease or float(other.lease) < server_now
        return Reason.LATE if late and its_patience_is_over else None

    def _has_lived(self, other: Other) -> bool:
        """Return whether a node had connections, or renewed its lease, during this watch."""
        assert self._leases_before is not None  # noqa: S101  for the type checker
        return bool(other.lease) and (
            other.identity in self._connected_first or float(other.lease) > self._leases_before
        )
