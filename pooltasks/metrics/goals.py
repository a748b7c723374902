"""Goals: the eight performance goals of the requirements document, and whether they hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pooltasks.metrics.sample import Sample
    from pooltasks.metrics.view import PoolMetrics, Quantiles

_MB = 1e6


class Goal(NamedTuple):
    """One goal, and the measured number."""

    what: str
    measured: float | None
    """None if it is not known."""
    unit: str
    at_most: float = math.inf
    at_least: float = -math.inf

    @property
    def is_bounded(self) -> bool:
        """Whether it has a bound; else the number is only shown."""
        return self.at_most != math.inf or self.at_least != -math.inf

    @property
    def holds(self) -> bool:
        """Whether the number is known and within its bounds."""
        return self.measured is not None and self.at_least <= self.measured <= self.at_most

    @property
    def verdict(self) -> str:
        """``holds``, ``MISSED``, ``unknown``: it was not measured, or ``shown``: without bound."""
        if self.measured is None:
            return "unknown"
        if not self.is_bounded:
            return "shown"
        return "holds" if self.holds else "MISSED"

    @property
    def number(self) -> str:
        """The measured number, with its unit."""
        return "not known" if self.measured is None else f"{self.measured:,.2f} {self.unit}"

    @property
    def bounds(self) -> str:
        """The bounds in words, "" without."""
        if not self.is_bounded:
            return ""
        if self.at_most == math.inf:
            return f"≥ {self.at_least:g}"
        if self.at_least != -math.inf:
            return f"{self.at_least:.3g}–{self.at_most:.3g}"
        return f"≤ {self.at_most:g}"

    def __str__(self) -> str:
        bounds = f"  ({self.bounds})" if self.is_bounded else ""
        return f"{self.verdict:<7}  {self.what:<44} {self.number:>18}{bounds}"

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "what": self.what,
            "measured": self.measured,
            "unit": self.unit,
            "bounds": self.bounds,
            "verdict": self.verdict,
            "holds": self.holds,
        }


class Seen(NamedTuple):
    """The callers' measurements of a load that was sent to the pool."""

    latency: Quantiles | None
    """Latency from when an operation was due until its result was read."""
    throughput: float
    """Results a second."""
    unanswered: float
    """Share (0–1) of the operations that could not be sent, or had no result in time."""
    recovery: float | None = None
    """Seconds: the longest time from a node's death until all that was on its way was answered."""


def goals(metrics: PoolMetrics, samples: Iterable[Sample], seen: Seen | None = None) -> list[Goal]:
    """Return the eight goals with the measured numbers.

    Args:
        metrics: Of the time under load.
        samples: Of the pool's nodes in the same time.
        seen: The callers' measurements; by default the pool's own.
    """
    work = metrics.work
    latency = seen.latency if seen else work.latency
    nodes = seen.recovery if seen else None
    recoveries = (milliseconds(work.recovery, "p999"), _scaled(nodes, 1e3))
    errors = work.error_rate
    if seen and errors is not None:
        errors = max(errors, seen.unanswered)
    memory, cpu = _of_a_worker(list(samples))
    return [
        Goal("latency, p50", milliseconds(latency, "p50"), "ms", 50),
        Goal("latency, p99, with retries", milliseconds(latency, "p99"), "ms", 100),
        Goal("throughput", seen.throughput if seen else work.throughput, "/s", at_least=1000),
        Goal("utilization", _scaled(work.utilization, 100), "%", 80, 60),
        Goal("error rate, callers' left out", _scaled(errors, 100), "%", 0.1),
        Goal(
            "recovery, longest",
            max((one for one in recoveries if one is not None), default=None),
            "ms",
            500,
        ),
        Goal("memory of a worker, resident", _scaled(memory, 1 / _MB), "MB", 50),
        Goal("processor of a worker, average", _scaled(cpu, 100), "%", 10),
    ]


def milliseconds(durations: Quantiles | None, which: str) -> float | None:
    """Return one of the quantiles (``"p99"``) in milliseconds, None if nothing is known."""
    value: float | None = getattr(durations, which, None)
    return _scaled(value, 1e3)


def _of_a_worker(samples: list[Sample]) -> tuple[float | None, float | None]:
    """Return the resident bytes of a worker and the cores that it uses, on average."""
    seen = [(its, _workers(its), its.resources) for its in samples]
    known = [(its, count, used) for its, count, used in seen if count and used is not None]
    if not known:
        return None, None
    memory = sum(used.workers_rss / count for _, count, used in known) / len(known)
    seconds = sum(its.interval * count for its, count, _ in known)
    return memory, sum(used.workers_cpu for _, _, used in known) / seconds


def _workers(sample: Sample) -> int:
    return sample.warm + sample.spares + sample.warming


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
