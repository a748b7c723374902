"""A rollout: two versions of a pool's code beside each other, and how each does."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from pooltasks.metrics.sample import FORMAT, OperationRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pooltasks.metrics.counts import Counts

State = Literal["live", "done", "aborted"]

STEPS = (5, 10, 25, 50, 75, 100)
"""Percent of a pool's operations that the new version gets, one after the other."""
WHOLE = STEPS[-1]
"""The share of a version that has all operations."""
MOST_STEPS = 20
"""Steps of a rollout that are remembered."""


@dataclass(frozen=True)
class Step:
    """One change of a rollout's share."""

    at: float
    """Server time, seconds since the epoch."""
    share: int
    """Percent."""
    reason: str


@dataclass(frozen=True)
class Rollout:
    """A rollout as it stands."""

    state: State
    before: str
    """The version before; '' if its nodes have none."""
    version: str
    """The version that is rolled out."""
    share: int
    """Percent of the operations that it gets; 0: it waits for its nodes."""
    started: float
    """Server time, seconds since the epoch."""
    since: float
    """Since when it has this share, the same."""
    ended: float | None
    """When it ended, the same; None while it goes on."""
    paused: bool
    """Whether it keeps its share until somebody resumes it."""
    reason: str
    """The event that it waits for, or the reason why it ended."""
    revision: int
    looked: float
    """When a control node looked last, server time; 0: none has."""
    at: float
    """Server time of what is said here."""
    waiting: int
    """Operations that wait for the new version."""
    is_gathered: bool
    """Whether nothing is left in the lists of the versions; of one that has ended."""
    retired: tuple[str, ...] = ()
    """The versions that this rollout and those before it have taken out of use."""
    steps: tuple[Step, ...] = ()
    counted: Mapping[str, Counts] = field(default_factory=dict)
    """The counts of both versions since: ``before`` and ``canary``."""
    baseline: Counts | None = None
    """The version before in the step before: its counts, for when it has no operations any more."""
    seen: Mapping[str, int] = field(default_factory=dict)
    """The last sample of each node that is counted."""

    @property
    def is_live(self) -> bool:
        """Whether both versions run."""
        return self.state == "live"

    def retires(self, version: str) -> bool:
        """Return whether nodes of a version take nothing."""
        if self.is_live:
            return version not in (self.before, self.version)
        return version in self.retired

    def sentence(self) -> str:
        """Return how it stands, in words."""
        before = self.before or "nodes without a version"
        if self.state == "done":
            return f"version {self.version} has taken over from {before}: {self.reason}"
        if self.state == "aborted":
            return f"version {self.version} was rolled back at {self.share} %: {self.reason}"
        rest = "the rest" if self.share < WHOLE else "nothing"
        paused = ": paused" if self.paused else ""
        return (
            f"version {self.version} has {self.share} % for {self.at - self.since:,.0f} s, "
            f"{before} {rest}{paused}: {self.reason or 'just begun'}"
        )

    def figures(self, side: str) -> dict[str, Any]:
        """Return what a version did since the share was changed; None of what is not known.

        Args:
            side: ``before`` or ``canary``.
        """
        counts = self.counted.get(side)
        return {
            "finished": None if counts is None else counts.finished,
            "error_rate": None if counts is None else counts.error_rate,
            "run_p99": None if counts is None else counts.run.quantile(0.99),
            "recoveries": None if counts is None else counts.recoveries,
        }

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "state": self.state,
            "before": self.before,
            "version": self.version,
            "share": self.share,
            "paused": self.paused,
            "reason": self.reason,
            "started": self.started,
            "since": self.since,
            "ended": self.ended,
            "looked": self.looked,
            "waiting": self.waiting,
            "retired": list(self.retired),
            "steps": [vars(step) for step in self.steps],
        }


def encoded(counted: Mapping[str, Counts]) -> bytes:
    """Return what both versions did as it is stored."""
    return FORMAT + OperationRecord(0, 0.0, counted).encode()


def _counted(value: bytes) -> Mapping[str, Counts]:
    """Return what :func:`encoded` wrote; nothing of another version's."""
    if not value.startswith(FORMAT):
        return {}
    return OperationRecord.decode(value[len(FORMAT) :]).counts


def rollout_of(fields: Mapping[bytes, bytes], now: float, waiting: int) -> Rollout:
    """Return the rollout that is stored.

    Args:
        fields: Of the hash.
        now: Server time.
        waiting: Operations that wait for the new version.
    """

    def text(name: str, default: str = "") -> str:
        return fields.get(name.encode(), default.encode()).decode()

    return Rollout(
        state=cast("State", text("state")),
        before=text("from"),
        version=text("to"),
        share=int(text("share", "0")),
        started=float(text("started", "0")),
        since=float(text("since", "0")),
        ended=float(text("ended")) if text("ended") else None,
        paused=text("paused") == "1",
        reason=text("reason"),
        revision=int(text("revision", "0")),
        looked=float(text("looked", "0")),
        at=now,
        waiting=waiting,
        is_gathered=b"left" not in fields,
        retired=tuple(text("retired", ",").split(",")[1:-1]),
        steps=tuple(Step(**each) for each in json.loads(text("steps", "[]"))),
        counted=_counted(fields.get(b"counted", b"")),
        baseline=_counted(fields.get(b"baseline", b"")).get("before"),
        seen=json.loads(text("seen", "{}")),
    )
