"""The demand on a pool: its arrival rate on two horizons, and its service times."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

FAST = 5.0
"""Seconds of the fast horizon."""
SLOW = 60.0
"""Seconds of the slow horizon."""


@dataclass(frozen=True)
class Rate:
    """An estimate of the arrival rate.

    Attributes:
        mean: Operations a second.
        upper: Its upper bound, operations a second.
        horizon: Seconds of history behind it.
        change: ``up`` or ``down`` when the fast horizon left the slow one, else ``none``.
        trend: While the rate is leaping up: operations a second gained a second, else 0.
    """

    mean: float
    upper: float
    horizon: float
    change: str
    trend: float = 0.0


class ArrivalRate:
    """The arrival rate, from counts.

    The estimate is the mean over the slow horizon (60 s), which is precise, until
    the fast one (the last 1 to 5 s, whichever differs most) is more than
    ``sigmas`` standard deviations away. Then the time before is forgotten: the
    slow horizon starts anew at the change.

    The distance is measured on the square-root scale, where a Poisson count has
    standard deviation ½ whatever its mean (Anscombe 1948, ``2√(x + 3/8)``): three
    sigma then mean the same at 2 operations a second as at 2,000.
    """

    def __init__(self, *, sigmas: float = 3.0, confidence: float = 1.0) -> None:
        self.sigmas = sigmas
        self.confidence = confidence
        self._counts: deque[tuple[float, float, int]] = deque()  # until, seconds, arrivals

    def add(self, now: float, seconds: float, arrivals: int) -> None:
        """Record ``arrivals`` operations in the ``seconds`` up to ``now``."""
        self._counts.append((now, seconds, arrivals))
        while self._counts and self._counts[0][0] <= now - SLOW:
            self._counts.popleft()

    def estimate(self) -> Rate:
        """Return the present estimate, and forget the time before a change."""
        newest = self._counts[-1][2] / self._counts[-1][1] if self._counts else 0.0
        previous = self._counts[-2][2] / self._counts[-2][1] if len(self._counts) > 1 else newest
        change = self._change()
        seconds = sum(item[1] for item in self._counts)
        arrivals = sum(item[2] for item in self._counts)
        if not seconds:
            return Rate(0.0, 0.0, 0.0, "none")
        mean = arrivals / seconds
        # The half-count keeps the bound above zero after silence.
        bound = (math.sqrt(arrivals + 3 / 8) + self.confidence / 2) ** 2 / seconds
        upper = bound if arrivals else min(bound, 1.0 / seconds)
        trend = max(0.0, newest - previous) if change == "up" else 0.0
        return Rate(mean, max(mean, upper), seconds, change, trend)

    def _change(self) -> str:
        furthest, at = 0.0, 0
        recent_seconds, recent = 0.0, 0
        items = list(self._counts)
        seconds = sum(item[1] for item in items)
        arrivals = sum(item[2] for item in items)
        for index in range(len(items) - 1, 0, -1):
            recent_seconds += items[index][1]
            recent += items[index][2]
            if recent_seconds > FAST + 1e-9:
                break
            before = seconds - recent_seconds
            if before <= 0.0:
                break
            expected = (arrivals - recent) / before * recent_seconds
            # The variance of the older estimate adds to that of the recent count.
            spread = math.sqrt(1.0 + recent_seconds / before)
            distance = 2.0 * (math.sqrt(recent + 3 / 8) - math.sqrt(expected + 3 / 8)) / spread
            if abs(distance) > abs(furthest):
                furthest, at = distance, index
        if abs(furthest) <= self.sigmas:
            return "none"
        self._counts = deque(items[at:])
        return "up" if furthest > 0 else "down"

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {"counts": [list(item) for item in self._counts]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`snapshot` returned."""
        self._counts = deque((float(t), float(s), int(n)) for t, s, n in state["counts"])


class ServiceTime:
    """Mean and squared coefficient of variation of the service time.

    Old samples fade with time constant ``memory`` seconds, which is short because
    runs can become longer all of a sudden (a slow database), but never below the
    last ``enough`` operations: a pool that was silent for a while still knows
    how long its operations run.
    """

    def __init__(self, *, memory: float = 60.0, enough: float = 300.0) -> None:
        self.memory = memory
        self.enough = enough
        self._count = self._sum = self._squares = 0.0

    def add(self, seconds: float, count: int, total: float, squares: float) -> None:
        """Record ``count`` operations of the last ``seconds``, with sum and sum of squares."""
        if self._count > self.enough:
            keep = max(math.exp(-seconds / self.memory), self.enough / self._count)
            self._count *= keep
            self._sum *= keep
            self._squares *= keep
        self._count += count
        self._sum += total
        self._squares += squares

    @property
    def known(self) -> bool:
        """Whether any operation was measured."""
        return self._sum > 0.0

    @property
    def mean(self) -> float:
        """Seconds; only if :attr:`known`."""
        return self._sum / self._count

    @property
    def scv(self) -> float:
        """Variance ÷ mean²; 1 (exponential) until ten operations were measured."""
        if self._count < 10:  # noqa: PLR2004  two moments of fewer are noise
            return 1.0
        return max(0.0, self._squares / self._count / self.mean**2 - 1.0)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {"count": self._count, "sum": self._sum, "squares": self._squares}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`snapshot` returned."""
        self._count = float(state["count"])
        self._sum = float(state["sum"])
        self._squares = float(state["squares"])
