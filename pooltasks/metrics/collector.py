"""Collector: the samples of all nodes, merged into one view of a pool.

What is not known is None, never 0: a pool without a live node has no
utilization, and a second without a sample no throughput.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pooltasks.metrics.counts import Counts
from pooltasks.metrics.health import Health, health
from pooltasks.metrics.samples import HISTORY
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pooltasks.metrics.histogram import Histogram
    from pooltasks.metrics.samples import QueueState, SampleStore, StoredSample
    from pooltasks.settings import Objective

STALE = 3.0
"""Seconds of silence, or three intervals if those are longer, after which a node is stale."""
LEASE = 15.0
"""Seconds of silence, or fifteen intervals, after which a node is no longer shown."""

NodeState = Literal["live", "stale", "lost", "stopped"]
"""``lost``: it fell silent without saying that it stops."""


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
        values = [histogram.quantile(q) for q in (0.5, 0.9, 0.99, 0.999)]
        p50, p90, p99, p999 = values
        if p50 is None or p90 is None or p99 is None or p999 is None:
            return None
        count = histogram.count
        return cls(count, histogram.total / count, p50, p90, p99, p999)


@dataclass(frozen=True)
class NodeMetrics:
    """One node as its last sample told it."""

    name: str
    state: Literal["live", "stale"]
    silent: float
    """Seconds since its last sample."""
    size: int
    warm: int
    warming: int
    busy: int
    idle: int
    reserved: int
    utilization: float | None


@dataclass(frozen=True)
class Work:
    """What a pool's workers did in a span of time, all nodes together."""

    operations: dict[Outcome, int] | None
    """By outcome. A retry and a lost operation are run again and counted again."""
    errors: dict[str, int] | None
    """By category, those that were retried too."""
    throughput: float | None
    """Finished operations a second; retries and lost ones are not finished."""
    error_rate: float | None
    """Share (0–1) of the finished operations that failed."""
    wait: Quantiles | None
    run: Quantiles | None
    utilization: float | None
    """Busy seconds ÷ process seconds (0–1)."""
    recoveries: int | None
    """Workers that died and were replaced."""

    @classmethod
    def of(cls, counts: Counts | None, seconds: float) -> Work:
        """Return the work of ``seconds``; nothing is known of it if ``counts`` is None."""
        if counts is None:
            return cls(None, None, None, None, None, None, None, None)
        return cls(
            operations={outcome: counts.outcomes[outcome] for outcome in Outcome},
            errors={category.value: count for category, count in counts.categories.items()},
            throughput=counts.finished / seconds,
            error_rate=counts.error_rate,
            wait=Quantiles.of(counts.wait),
            run=Quantiles.of(counts.run),
            utilization=counts.utilization,
            recoveries=counts.recoveries,
        )


@dataclass(frozen=True)
class Load:
    """How a pool stands at one moment; each value None where it is not known."""

    size: int | None
    warm: int | None
    warming: int | None
    busy: int | None
    idle: int | None
    queue_depth: int | None
    """Operations in the queue."""
    backlog: int | None
    """Those, and what nodes have reserved and no worker has started."""
    oldest_age: float | None
    """Seconds for which the oldest of the backlog has waited; 0 without backlog."""


@dataclass(frozen=True)
class PoolMetrics:
    """A pool now, and what it did in the last ``window`` seconds."""

    pool: str
    at: float
    """Server time, seconds since the epoch."""
    window: float
    load: Load
    work: Work
    nodes: tuple[NodeMetrics, ...]
    health: Health | None


@dataclass(frozen=True)
class HistoryPoint:
    """A pool in one step of its history."""

    at: float
    """Its beginning: server time, seconds since the epoch."""
    complete: bool
    """False of the step that is still going on."""
    load: Load
    """The highest value of each in the step."""
    work: Work


class Collector:
    """The merged view of one pool.

    Args:
        store: Its samples.
        objective: What the health score measures waits by.
        interval: Seconds between samples of a node.
    """

    def __init__(self, store: SampleStore, objective: Objective, interval: float = 1.0) -> None:
        self._store = store
        self._objective = objective
        self._interval = interval
        self._lease = LEASE * max(1.0, interval)

    def metrics(self, window: float = 60.0) -> PoolMetrics:
        """Return the pool now and its last ``window`` seconds (at most 3,600)."""
        queue, samples = self._store.read(max(min(window, HISTORY), self._lease))
        nodes = tuple(
            node for name, its in sorted(samples.items()) if (node := _node(name, its, queue.at))
        )
        last = [its[-1] for its in samples.values()]
        live = [one for one in last if state_of(one, queue.at) == "live"]
        load = load_of(queue, last)
        within = [one for its in samples.values() for one in its if one.at > queue.at - window]
        counts = Counts.merged(one.sample.counts for one in within) if live and within else None
        work = Work.of(counts, covered(within, window))
        return PoolMetrics(
            self._store.pool,
            queue.at,
            window,
            load,
            work,
            nodes,
            health_of(self._objective, counts, load, sum(node.size for node in nodes))
            if counts
            else None,
        )

    def history(self, seconds: float = HISTORY, step: int = 1) -> list[HistoryPoint]:
        """Return the last ``seconds`` (at most 3,600) in steps of ``step`` seconds, oldest first.

        A longer step merges what was counted and keeps the peaks of the rest. A
        step is never shorter than the interval between samples.
        """
        seconds = min(seconds, HISTORY)
        step = max(step, math.ceil(self._interval))
        queue, samples = self._store.read(seconds + step + self._lease)
        last = math.floor(queue.at / step)
        first = last - math.ceil(seconds / step) + 1
        counts: dict[int, list[Counts]] = {}
        for its in samples.values():
            for one in its:
                counts.setdefault(math.floor(one.at / step), []).append(one.sample.counts)
        loads = _loads(samples, first * step - math.ceil(self._lease), math.ceil(queue.at))
        points = []
        for number in range(first, last + 1):
            its_counts = counts.get(number)
            second = range(number * step, (number + 1) * step)
            points.append(
                HistoryPoint(
                    at=float(number * step),
                    complete=(number + 1) * step <= queue.at,
                    load=_peak([loads[at] for at in second if at in loads]),
                    work=Work.of(Counts.merged(its_counts) if its_counts else None, step),
                )
            )
        return points


def health_of(objective: Objective, counts: Counts, load: Load, wanted: int) -> Health:
    """Return the health of a pool from what it did lately and how it stands.

    Args:
        objective: What waits are measured by.
        counts: Of the time in question.
        load: Now.
        wanted: Workers that its nodes should have, the stale ones too.
    """
    allowed_wait = objective.wait_ms / 1000
    return health(
        wanted=wanted,
        warm=load.warm or 0,
        failed=counts.outcomes[Outcome.FAILURE],
        finished=counts.finished,
        late=counts.wait.share_above(allowed_wait),
        allowed_late=1 - objective.quantile,
        oldest_age=load.oldest_age,
        allowed_wait=allowed_wait,
        recoveries=counts.recoveries,
    )


def _patience(one: StoredSample, seconds: float) -> float:
    return max(seconds, seconds * one.sample.interval)


def state_of(one: StoredSample, now: float) -> NodeState:
    """Return the state of the node whose last sample this is."""
    if one.sample.stopped:
        return "stopped"
    silent = now - one.at
    if silent < _patience(one, STALE):
        return "live"
    return "stale" if silent < _patience(one, LEASE) else "lost"


def _node(name: str, samples: Sequence[StoredSample], now: float) -> NodeMetrics | None:
    """Return a node; None of one that has stopped or whose lease has ended."""
    last = samples[-1]
    sample = last.sample
    match state_of(last, now):
        case "live" | "stale" as state:
            return NodeMetrics(
                name=name,
                state=state,
                silent=max(0.0, now - last.at),
                size=sample.size,
                warm=sample.warm,
                warming=max(0, sample.size - sample.warm),
                busy=sample.busy,
                idle=max(0, sample.warm - sample.busy),
                reserved=sample.reserved,
                utilization=sample.counts.utilization,
            )
    return None


def covered(samples: Iterable[StoredSample], window: float) -> float:
    """Return the seconds of the window over which the pool has samples.

    The first and the last of each node are enough.
    """
    ends = [one.at for one in samples]
    starts = [one.at - one.sample.interval for one in samples]
    return min(window, max(ends) - min(starts)) if ends else window


def load_of(queue: QueueState, last: Iterable[StoredSample]) -> Load:
    """Return the load of a pool whose nodes have written these samples last."""
    states = [(state_of(one, queue.at), one) for one in last]
    live = [one for state, one in states if state == "live"]
    return _load(queue, live, stale=any(state == "stale" for state, _ in states))


def _load(queue: QueueState, nodes: Sequence[StoredSample], *, stale: bool) -> Load:
    """Return the load of the nodes that are live, as their last samples told it."""
    if not nodes:
        # Without any node nothing can be reserved; a stale one may have something.
        age = queue.oldest_age
        backlog, age = (None, None) if stale else (queue.depth, age)
        return Load(None, None, None, None, None, queue.depth, backlog, age)
    its = [one.sample for one in nodes]
    ages = [
        sample.reserved_age + queue.at - one.at for one in nodes if (sample := one.sample).reserved
    ]
    in_queue = queue.oldest_age
    return Load(
        size=sum(sample.size for sample in its),
        warm=sum(sample.warm for sample in its),
        warming=sum(max(0, sample.size - sample.warm) for sample in its),
        busy=sum(sample.busy for sample in its),
        idle=sum(max(0, sample.warm - sample.busy) for sample in its),
        queue_depth=queue.depth,
        backlog=queue.depth + sum(sample.reserved for sample in its),
        oldest_age=None if in_queue is None else max([in_queue, *ages]),
    )


def _loads(samples: Mapping[str, Sequence[StoredSample]], first: int, end: int) -> dict[int, Load]:
    """Return the load of each second from ``first`` to ``end`` of which it is known."""
    by_node = [{math.floor(one.at): one for one in its} for its in samples.values()]
    present: dict[int, StoredSample] = {}
    loads = {}
    for second in range(first, end + 1):
        for node, its in enumerate(by_node):
            if second in its:
                present[node] = its[second]
            elif node in present and state_of(present[node], second) != "live":
                del present[node]
        if present:
            # Each node read the queue; the last to do so knows best.
            latest = max(present.values(), key=lambda one: one.at)
            working = [one for one in present.values() if not one.sample.stopped]
            loads[second] = _load(latest.queue, working, stale=False)
    return loads


def _peak(loads: Sequence[Load]) -> Load:
    """Return the highest known value of each."""

    def highest(name: str) -> int | None:
        return max((v for load in loads if (v := getattr(load, name)) is not None), default=None)

    ages = [load.oldest_age for load in loads if load.oldest_age is not None]
    return Load(
        size=highest("size"),
        warm=highest("warm"),
        warming=highest("warming"),
        busy=highest("busy"),
        idle=highest("idle"),
        queue_depth=highest("queue_depth"),
        backlog=highest("backlog"),
        oldest_age=max(ages, default=None),
    )
