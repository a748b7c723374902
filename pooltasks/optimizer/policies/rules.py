"""The policy ``rules``: the thresholds of the requirements document.

Every 60 s it averages the last 300 s. Its defects are mended: with fewer than
ten samples nothing changes, utilization is measured (busy ÷ warm slots) rather
than guessed, and overflow, which only grew, is the first to go.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from pooltasks.optimizer.policies.observation import Decision

if TYPE_CHECKING:
    from pooltasks.optimizer.policies.observation import Limits, Observation

INTERVAL = 60.0
WINDOW = 300.0
ENOUGH = 10
HIGH_UTILIZATION = 0.9
LOW_UTILIZATION = 0.3
LONG_WAIT = 0.1
"""Seconds; the document's 100 ms."""


class Rules:
    """Steps up when busy and queued, down by one when idle, overflow by one for long waits."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._samples: deque[tuple[float, float, float, float]] = deque()
        self._overflow = 0
        self._decided: float | None = None

    def observe(self, observation: Observation) -> Decision:
        """Record the tick; decide anew once a minute."""
        now = observation.now
        if self._decided is None:
            self._decided = now
        utilization = observation.busy / observation.warm if observation.warm else 0.0
        wait = observation.wait_sum / observation.started if observation.started else 0.0
        self._samples.append((now, float(observation.waiting), utilization, wait))
        while self._samples[0][0] <= now - WINDOW:
            self._samples.popleft()
        size = observation.size
        if now - self._decided < INTERVAL - 1e-9:
            return Decision(size, f"Keep {size} slots: the rules decide every {INTERVAL:g} s.")
        self._decided = now
        if len(self._samples) < ENOUGH:
            return Decision(size, f"Keep {size} slots: only {len(self._samples)} samples so far.")
        return self._decide(size)

    def _decide(self, size: int) -> Decision:
        count = len(self._samples)
        depth, utilization, wait = (
            sum(sample[column] for sample in self._samples) / count for column in (1, 2, 3)
        )
        inputs = {"depth": depth, "utilization": utilization, "wait": wait}
        seen = f"utilization {utilization:.0%}, {depth:.1f} waiting, mean wait {wait * 1000:.0f} ms"
        if utilization > HIGH_UTILIZATION and depth > 0:
            step = round(1 + min(depth / 5, 3))
            target = self.limits.clamp(size + step)
            return Decision(target, f"Grow from {size} to {target} slots: {seen}.", inputs)
        if utilization < LOW_UTILIZATION and size > self.limits.minimum:
            self._overflow = max(0, self._overflow - 1)
            return Decision(size - 1, f"Shrink from {size} to {size - 1} slots: {seen}.", inputs)
        if wait > LONG_WAIT and depth > 0 and self._overflow < size - self._overflow:
            target = self.limits.clamp(size + 1)
            self._overflow += target - size
            return Decision(target, f"Overflow from {size} to {target} slots: {seen}.", inputs)
        return Decision(self.limits.clamp(size), f"Keep {size} slots: {seen}.", inputs)

    def snapshot(self) -> dict[str, Any]:
        """Return the window, the overflow and the time of the last decision."""
        return {
            "samples": [list(sample) for sample in self._samples],
            "overflow": self._overflow,
            "decided": self._decided,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`snapshot` returned."""
        self._samples = deque((s[0], s[1], s[2], s[3]) for s in state["samples"])
        self._overflow = state["overflow"]
        self._decided = state["decided"]
