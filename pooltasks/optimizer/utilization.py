"""Utilization: the shares of busy slots that are right for a pool of this size and objective.

A tight objective needs slots that are mostly idle, and a large pool is busier than a small one
for the same objective: no fixed band is right for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pooltasks.optimizer.staffing import Goal, late_share

if TYPE_CHECKING:
    from pooltasks.metrics.view import PoolMetrics
    from pooltasks.pool_settings import Objective

_SPARE = 0.25
"""Share of its slots that a pool may have beyond its need before it is too large."""
_STEPS = 40


@dataclass(frozen=True)
class Band:
    """Shares (0–1) of the slot-seconds that are busy."""

    low: float
    """Below it a quarter of the slots (one, of few) could be given back."""
    high: float
    """Above it more operations wait too long than the objective allows."""


def band(slots: int, service: float, goal: Goal, factor: float = 1.0) -> Band:
    """Return the utilization that is right.

    Args:
        slots: Of the pool, ≥ 1.
        service: Mean seconds of an operation, > 0.
        goal: The pool's objective.
        factor: The tail factor.
    """
    fewer = slots - max(1, round(_SPARE * slots))
    return Band(
        low=_most_load(fewer, service, goal, factor) / slots,
        high=_most_load(slots, service, goal, factor) / slots,
    )


def band_of(metrics: PoolMetrics, objective: Objective) -> Band | None:
    """Return the utilization that is right for a pool now; None if nothing is known of its runs.

    Args:
        metrics: The slots that it has, and the runs of its operations.
        objective: Of the pool.
    """
    slots, run = metrics.load.capacity, metrics.work.run
    if not slots or run is None or not run.mean:
        return None
    return band(slots, run.mean, Goal(objective.wait_ms / 1000, objective.quantile))


def _most_load(slots: int, service: float, goal: Goal, factor: float) -> float:
    """Return the largest offered load with which ``slots`` meet the goal."""
    low, high = 0.0, float(slots)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if late_share(middle, slots, service, goal.wait, factor) <= goal.allowance:
            low = middle
        else:
            high = middle
    return low
