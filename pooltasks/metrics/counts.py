"""Counts: what a node's workers did in a span of time; counts add up exactly."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pooltasks.metrics.histogram import Histogram
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pooltasks.errors import Category

FINISHED = (
    Outcome.SUCCESS,
    Outcome.FAILURE,
    Outcome.CLIENT_ERROR,
    Outcome.IGNORED,
    Outcome.REJECTED,
)
"""Outcomes after which an operation does not come back."""
OTHER = "other"
"""Stands for the operations that are not counted by name."""


@dataclass
class Counts:
    """Sums over workers and time; the zero of addition by default."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    categories: Counter[Category] = field(default_factory=Counter)
    """Errors, those that were retried too."""
    recoveries: int = 0
    """Workers that died unexpectedly and were replaced."""
    recovery: Histogram = field(default_factory=Histogram)
    """Durations from a worker's death until another took operations in its place."""
    busy: float = 0.0
    """Seconds in which slots of workers had an operation."""
    process: float = 0.0
    """Seconds in which they could have had one: since each worker became warm."""
    wait: Histogram = field(default_factory=Histogram)
    run: Histogram = field(default_factory=Histogram)
    latency: Histogram = field(default_factory=Histogram)
    """Latency of finished operations since they were first published, retries included."""
    limited: Histogram = field(default_factory=Histogram)
    """Waits of operations with limits, which may have held them back."""

    @classmethod
    def merged(cls, several: Iterable[Counts]) -> Counts:
        """Return the sum of ``several``."""
        whole = cls()
        for part in several:
            whole.add(part)
        return whole

    def since(self, earlier: Counts) -> Counts:
        """Return what was counted after ``earlier``, which was a part of this."""
        return Counts(
            outcomes=self.outcomes - earlier.outcomes,
            categories=self.categories - earlier.categories,
            recoveries=self.recoveries - earlier.recoveries,
            recovery=self.recovery.since(earlier.recovery),
            busy=self.busy - earlier.busy,
            process=self.process - earlier.process,
            wait=self.wait.since(earlier.wait),
            run=self.run.since(earlier.run),
            latency=self.latency.since(earlier.latency),
            limited=self.limited.since(earlier.limited),
        )

    def add(self, other: Counts, *, busy: bool = True) -> None:
        """Add ``other`` to these, its busy seconds too unless they are counted already."""
        for outcome, count in other.outcomes.items():  # Counter.update takes several times as long
            self.outcomes[outcome] += count
        for category, count in other.categories.items():
            self.categories[category] += count
        self.recoveries += other.recoveries
        self.recovery.merge(other.recovery)
        if busy:
            self.busy += other.busy
        self.process += other.process
        self.wait.merge(other.wait)
        self.run.merge(other.run)
        self.latency.merge(other.latency)
        self.limited.merge(other.limited)

    @property
    def finished(self) -> int:
        """Operations that will not be run again."""
        return sum(self.outcomes[outcome] for outcome in FINISHED)

    @property
    def error_rate(self) -> float | None:
        """Share (0–1) of the finished operations that failed; None if none finished.

        Errors for which the caller is to blame are no failures of the pool.
        """
        return self.outcomes[Outcome.FAILURE] / self.finished if self.finished else None

    @property
    def utilization(self) -> float | None:
        """Busy seconds ÷ process seconds (0–1); None without a warm worker."""
        return self.busy / self.process if self.process else None
