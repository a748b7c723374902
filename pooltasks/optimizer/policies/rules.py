"""The policy ``rules``: the thresholds of the requirements document.

Every 60 s it averages the last 300 s. Its defects are mended: with fewer than
ten samples nothing changes, utilization is measured (busy ÷ warm slots) rather
than guessed, and overflow, which only grew, goes down with the size.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pooltasks.counted import counted
from pooltasks.optimizer.policies.observation import Decision, resized

if TYPE_CHECKING:
    from pooltasks.optimizer.policies.observation import Limits, Observation

INTERVAL = 60.0
WINDOW = 300.0
ENOUGH = 10
HIGH_UTILIZATION = 0.9
LOW_UTILIZATION = 0.3
LONG_WAIT = 0.1
"""Seconds; the document's 100 ms."""


@dataclass(frozen=True)
class _Second:
    """The numbers of one tick."""

    at: float
    waiting: float
    utilization: float
    wait: float
    """Seconds, on average."""
    busy: float
    demand: float
    """Slots that would be busy if nothing waited."""
    completed: float
    failed: float
    seconds: float


class Rules:
    """Steps up when busy and queued, down by one when idle, overflow by one for long waits.

    Overflow is the temporary workers that nodes may have beyond their size; they fork them
    within milliseconds when operations wait, and keep them for as long.

    Args:
        limits: Of the target, in slots.
        per_worker: Slots of a worker: the rules' steps are of workers.
        overflow: Slots that the settings allow.
    """

    def __init__(self, limits: Limits, per_worker: int = 1, overflow: int = 0) -> None:
        self.limits = limits
        self._per_worker = per_worker
        self._set = overflow
        self._samples: deque[_Second] = deque()
        self._more = 0  # slots of overflow beyond what the settings allow
        self._decided: float | None = None

    def observe(self, observation: Observation) -> Decision:
        """Record the tick; decide anew once a minute."""
        now = observation.now
        if self._decided is None:
            self._decided = now
        self._samples.append(
            _Second(
                at=now,
                waiting=float(observation.waiting),
                utilization=observation.busy / observation.warm if observation.warm else 0.0,
                wait=observation.wait_sum / observation.started if observation.started else 0.0,
                busy=observation.busy,
                demand=observation.busy + observation.waiting,
                completed=float(observation.completed),
                failed=float(observation.failed),
                seconds=observation.seconds,
            )
        )
        while self._samples[0].at <= now - WINDOW:
            self._samples.popleft()
        size = observation.size
        if now - self._decided < INTERVAL - 1e-9:
            reason = f"{resized(size, size)}: the rules decide every {INTERVAL:g} s."
            return self._keep(size, reason)
        self._decided = now
        if len(self._samples) < ENOUGH:
            reason = f"{resized(size, size)}: only {counted(len(self._samples), 'sample')} so far."
            return self._keep(size, reason)
        return self._decide(size)

    def _keep(self, size: int, reason: str) -> Decision:
        return Decision(size, reason, lasting=self._lasting(size), overflow=self._allowed)

    @property
    def _allowed(self) -> int:
        return self._set + self._more

    def _decide(self, size: int) -> Decision:
        step = self._per_worker
        depth = self._mean("waiting")
        utilization, wait = self._mean("utilization"), self._mean("wait")
        completed = self._sum("completed")
        inputs = {
            "depth": depth,
            "utilization": utilization,
            "wait": wait,
            "peak_demand": max(second.demand for second in self._samples),
            "throughput": completed / self._sum("seconds"),
            "error_rate": self._sum("failed") / completed if completed else 0.0,
        }
        target = self.limits.clamp(size)
        seen = f"utilization {utilization:.0%}, {depth:.1f} waiting, mean wait {wait * 1000:.0f} ms"
        if utilization > HIGH_UTILIZATION and depth > 0:
            target = self.limits.clamp(size + step * round(1 + min(depth / step / 5, 3)))
            reason = f"{resized(size, target)}: {seen}."
        elif utilization < LOW_UTILIZATION and (size > self.limits.minimum or self._more):
            target = self.limits.clamp(size - step)
            self._more = max(0, self._more - step)
            reason = f"{resized(size, target)}, with {self._allowed} of overflow: {seen}."
        elif wait > LONG_WAIT and depth > 0 and self._allowed < size:
            self._more += min(step, size - self._allowed)
            reason = f"{resized(size, target)} and allow {self._allowed} of overflow: {seen}."
        else:
            reason = f"{resized(size, size)}: {seen}."
        inputs["overflow"] = float(self._allowed)
        return Decision(target, reason, inputs, self._lasting(target), self._allowed)

    def _lasting(self, target: int) -> int:
        """Return the slots of the size at which the rules would stop shrinking."""
        return max(1, min(target, math.ceil(self._mean("busy") / LOW_UTILIZATION)))

    def _sum(self, name: str) -> float:
        return math.fsum(getattr(second, name) for second in self._samples)

    def _mean(self, name: str) -> float:
        return self._sum(name) / len(self._samples)

    def snapshot(self) -> dict[str, Any]:
        """Return the window, the overflow that was added and the time of the last decision."""
        return {
            "samples": [list(vars(second).values()) for second in self._samples],
            "more": self._more,
            "decided": self._decided,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`snapshot` returned."""
        self._samples = deque(_Second(*second) for second in state["samples"])
        self._more = state["more"]
        self._decided = state["decided"]
