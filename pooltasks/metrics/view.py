"""The view of a pool: the samples of all its nodes together.

An unknown number is None, never 0: a pool without a live node has no
utilization, and a second without a sample no throughput.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pooltasks.metrics.counts import Counts
    from pooltasks.metrics.health import Health
    from pooltasks.metrics.histogram import Histogram


_OUTCOMES = tuple(Outcome)  # Enum takes long to go through its members

NodeState = Literal["live", "draining", "stale", "lost", "stopped", "unreadable"]
"""``draining``: it finishes what it has and reserves nothing more. ``lost``: it fell silent
without saying that it stops. ``unreadable``: it writes
samples in the format of another version."""


@dataclass(frozen=True)
class Quantiles:
    """How long things took, in seconds, within 2 %."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float

    @classmethod
    def of(cls, histogram: Histogram) -> Quantiles | None:
        """Return the quantiles of a histogram, None of an empty one."""
        if histogram.is_empty:
            return None
        count = histogram.count
        return cls(count, histogram.total / count, *histogram.quantiles((0.5, 0.9, 0.99, 0.999)))


@dataclass(frozen=True)
class NodeMetrics:
    """One node as its last sample told it."""

    name: str
    state: Literal["live", "draining", "stale"]
    silent: float
    """Seconds since its last sample."""
    size: int
    warm: int
    warming: int
    spares: int
    overflow: int
    busy: int
    idle: int
    capacity: int
    """Slots of the warm workers."""
    running: int
    """Slots that have an operation."""
    reserved: int
    utilization: float | None
    cpu: float | None
    """CPU seconds a second, of the node and its workers."""
    memory: int | None
    """Bytes of the node and its workers; what they share is counted once."""
    version: str = ""
    """The version of the code that it runs; '' if it has none."""


@dataclass(frozen=True)
class Work:
    """The work of a span of time, all nodes together."""

    operations: dict[Outcome, int] | None
    """Operations by outcome. A retry and a lost operation are run again and counted again."""
    errors: dict[str, int] | None
    """Errors by category, those that were retried too."""
    throughput: float | None
    """Finished operations a second; retries and lost ones are not finished."""
    error_rate: float | None
    """Share (0–1) of the finished operations that failed, errors of their callers left out."""
    wait: Quantiles | None
    run: Quantiles | None
    latency: Quantiles | None
    """Latency of finished operations: from publication, before any retry, to the result."""
    busy: float | None
    """Seconds in which slots of workers had an operation."""

    @classmethod
    def of(cls, counts: Counts | None, seconds: float) -> Work:
        """Return the work of ``seconds``; nothing is known of it if ``counts`` is None."""
        if counts is None:
            return cls(None, None, None, None, None, None, None, None)
        return cls(
            operations={outcome: counts.outcomes[outcome] for outcome in _OUTCOMES},
            errors={category.value: count for category, count in counts.categories.items()},
            throughput=counts.finished / seconds,
            error_rate=counts.error_rate,
            wait=Quantiles.of(counts.wait),
            run=Quantiles.of(counts.run),
            latency=Quantiles.of(counts.latency),
            busy=counts.busy,
        )


@dataclass(frozen=True)
class PoolWork(Work):
    """The work of a pool's workers in a span of time, all nodes together."""

    utilization: float | None = None
    """Busy seconds of slots ÷ all of their seconds (0–1)."""
    recoveries: int | None = None
    """Workers that died and were replaced."""
    recovery: Quantiles | None = None
    """Durations from a worker's death until another took operations in its place."""

    @classmethod
    def of(cls, counts: Counts | None, seconds: float) -> PoolWork:
        """Return the work of ``seconds``; nothing is known of it if ``counts`` is None."""
        work = Work.of(counts, seconds)
        if counts is None:
            return cls(**vars(work))
        return cls(
            **vars(work),
            utilization=counts.utilization,
            recoveries=counts.recoveries,
            recovery=Quantiles.of(counts.recovery),
        )


@dataclass(frozen=True)
class Load:
    """How a pool stands at one moment; each value None where it is not known.

    The workers of a draining node are no capacity of the pool: they count in ``busy``,
    ``running``, ``reserved``, ``cpu`` and ``memory`` only, which are of all work under way.
    """

    size: int | None
    """Workers that there should be, without spares and overflow."""
    warm: int | None
    """Workers that are given operations."""
    warming: int | None
    """Workers that are not warm yet."""
    spares: int | None
    """Warm workers beyond the size that are given no operations."""
    overflow: int | None
    """Temporary workers beyond the size, among the warm."""
    busy: int | None
    """Workers that have an operation."""
    idle: int | None
    capacity: int | None
    """Slots of the warm workers: operations that can run at once."""
    running: int | None
    """Operations that workers have."""
    reserved: int | None
    """Operations that nodes took from the queue and no worker has started."""
    queue_depth: int | None
    """Operations in the queue."""
    backlog: int | None
    """Operations in the queue, and those that are reserved and not started."""
    oldest_age: float | None
    """Seconds for which the oldest of the backlog has waited; 0 without backlog."""
    cpu: float | None
    """CPU seconds a second, of all nodes and workers."""
    memory: int | None
    """Bytes of all nodes and workers; what those of a node share is counted once."""


@dataclass(frozen=True)
class PoolMetrics:
    """A pool now, and what it did in the last ``window`` seconds."""

    pool: str
    at: float
    """Server time, seconds since the epoch."""
    window: float
    load: Load
    work: PoolWork
    by_operation: Mapping[str, Work] | None
    """The work of each operation; None if it is not known: no node is live, or it was not asked
    for. A node counts 32 operations by name, those that it ran first, and all others as
    ``other``. Of a busy pool with many operations the newest seconds may still be missing."""
    nodes: tuple[NodeMetrics, ...]
    health: Health | None
    unreadable: tuple[str, ...] = ()
    """Nodes that write samples in the format of another version: all else is without them."""


@dataclass(frozen=True)
class HistoryPoint:
    """A pool in one step of its history."""

    at: float
    """Begin of the second: server time, seconds since the epoch."""
    complete: bool
    """False of the step that is still going on."""
    load: Load
    """The highest value of each in the step."""
    work: PoolWork
