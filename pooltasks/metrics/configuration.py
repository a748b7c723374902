"""Configuration: a pool's limits by its settings, and the size that its optimizer gave it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pooltasks.metrics.decisions import PoolDecision
    from pooltasks.pool_settings import PoolSettings


@dataclass(frozen=True)
class OptimizedConfig:
    """The configuration of a pool. All but ``pool_size`` is of each node, as the settings say."""

    pool_size: int | None
    """Workers that all nodes together are to have since the last decision. While the optimizer
    only watches, the workers that they had then. None: it decided nothing within the last hour."""
    min_pool_size: int
    """Fewest workers of a node."""
    max_pool_size: int
    """Most workers of a node, without spares and overflow."""
    max_overflow: int
    """Most temporary workers of a node beyond its size; the policy ``rules`` may allow more
    than the settings do."""
    spares: int
    """Warm workers of a node beyond its size."""
    slots: int
    """Operations that a worker runs at once."""
    strategy: Literal["lifo", "fifo"]
    """The idle worker that is next: the last or the first that became idle."""
    decision: PoolDecision | None
    """The last decision with its inputs and its reason; None if there was none within the hour:
    the optimizer is off (``enable_optimizer``), or beat or the control node does not run."""

    @classmethod
    def of(cls, settings: PoolSettings, decision: PoolDecision | None) -> OptimizedConfig:
        """Return the configuration of a pool with these settings after this decision."""
        return cls(
            pool_size=_workers(decision, settings.slots),
            min_pool_size=settings.min_pool_size,
            max_pool_size=settings.max_pool_size,
            max_overflow=settings.max_overflow
            if decision is None or decision.overflow is None or not decision.acting
            else decision.overflow,
            spares=settings.spares,
            slots=settings.slots,
            strategy=settings.strategy,
            decision=decision,
        )


def _workers(decision: PoolDecision | None, slots: int) -> int | None:
    """Return the workers that a pool has after a decision; None if that is not known."""
    if decision is None:
        return None
    size = decision.target if decision.acting else decision.before
    return None if size is None else math.ceil(size / slots)
