"""Collector: the samples of all nodes, merged into one view of a pool."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from pooltasks.metrics.counts import Counts
from pooltasks.metrics.health import Health, health, late_share
from pooltasks.metrics.sample import QUIET_SECONDS
from pooltasks.metrics.samples import HISTORY, nothing_to_collect
from pooltasks.metrics.view import (
    HistoryPoint,
    Load,
    NodeMetrics,
    NodeState,
    PoolMetrics,
    PoolWork,
    Work,
)
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pooltasks.metrics.sample import Sample
    from pooltasks.metrics.samples import QueueState, SampleStore, StoredSample
    from pooltasks.pool_settings import Objective

STALE = 3.0
"""Seconds of silence, or intervals if those are longer, after which a node is stale."""
LEASE = 15.0
"""Seconds of silence, or intervals, after which a node is no longer shown."""

PRESENT: tuple[NodeState, ...] = ("live", "draining")
"""States of nodes that write samples now."""

_Number = TypeVar("_Number", int, float)


class Collector:
    """The merged view of one pool.

    Args:
        store: Its samples.
        objective: The objective by which the health score measures waits.
        interval: Seconds between samples of a node.
    """

    def __init__(self, store: SampleStore, objective: Objective, interval: float = 1.0) -> None:
        self._store = store
        self._objective = objective
        self._interval = interval
        self._lease = LEASE * max(1.0, interval)

    def metrics(self, window: float = 60.0, *, by_operation: bool = True) -> PoolMetrics:
        """Return the pool now and its last ``window`` seconds (at most 3,600).

        Args:
            window: Seconds.
            by_operation: Whether to read what each operation did, too.
        """
        queue, samples, unreadable = self._store.read(
            max(min(window, HISTORY), self._lease + QUIET_SECONDS)
        )
        unreadable = {name: at for name, at in unreadable.items() if queue.at - at < self._lease}
        nodes = tuple(
            node for name, its in sorted(samples.items()) if (node := _node(name, its, queue.at))
        )
        last = [its[-1] for its in samples.values()]
        live = any(state_of(one, queue.at) in PRESENT for one in last)
        load = load_of(queue, last, unreadable=bool(unreadable))
        within = [one for its in samples.values() for one in its if one.at > queue.at - window]
        counts = Counts.merged(one.sample.counts for one in within) if live and within else None
        spans = [(one.at, one.sample.interval) for one in within]
        return PoolMetrics(
            pool=self._store.pool,
            at=queue.at,
            window=window,
            load=load,
            work=PoolWork.of(counts, covered(spans, window)),
            by_operation=self._by_operation(list(samples), queue.at, window)
            if counts and by_operation
            else None,
            nodes=nodes,
            health=health_of(self._objective, counts, load, wanted_of(nodes)) if counts else None,
            unreadable=tuple(sorted(unreadable)),
        )

    def _by_operation(self, nodes: Sequence[str], now: float, window: float) -> dict[str, Work]:
        records = self._store.read_operations(nodes, now - window)
        seconds = covered([(at, record.seconds) for at, record in records], window)
        merged: dict[str, Counts] = {}
        for _, record in records:
            for name, counts in record.counts.items():
                merged.setdefault(name, Counts()).add(counts)
        return {name: Work.of(counts, seconds) for name, counts in sorted(merged.items())}

    def history(self, seconds: float = HISTORY, step: int = 1) -> list[HistoryPoint]:
        """Return the last ``seconds`` (at most 3,600) in steps of ``step`` seconds, oldest first.

        A longer step merges what was counted and keeps the peaks of the rest. A
        step is never shorter than the interval between samples.
        """
        with nothing_to_collect():
            return self._points(min(seconds, HISTORY), max(step, math.ceil(self._interval)))

    def _points(self, seconds: float, step: int) -> list[HistoryPoint]:
        queue, samples, _ = self._store.read(seconds + step + self._lease)
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
                    work=PoolWork.of(Counts.merged(its_counts) if its_counts else None, step),
                )
            )
        return points


def wanted_of(nodes: Iterable[NodeMetrics]) -> int:
    """Return how many workers the nodes should have that are to serve, silent ones too."""
    return sum(node.size for node in nodes if node.state != "draining")


def health_of(objective: Objective, counts: Counts, load: Load, wanted: int) -> Health:
    """Return the health of a pool from what it did lately and how it stands.

    Args:
        objective: The objective by which waits are measured.
        counts: Of the time in question.
        load: Now.
        wanted: Workers that its nodes should have, the stale ones too, draining ones not.
    """
    allowed_wait = objective.wait_ms / 1000
    return health(
        wanted=wanted,
        warm=load.warm or 0,
        failed=counts.outcomes[Outcome.FAILURE],
        finished=counts.finished,
        late=late_share(counts.wait, allowed_wait),
        allowed_late=1 - objective.quantile,
        oldest_age=load.oldest_age,
        allowed_wait=allowed_wait,
        recoveries=counts.recoveries,
    )


def state_of(one: StoredSample, now: float) -> NodeState:
    """Return the state of the node whose last sample this is."""
    if one.sample.stopped:
        return "stopped"
    silent = now - one.at
    if silent < one.sample.patience(STALE):
        return "live" if one.sample.serves else "draining"
    return "stale" if silent < one.sample.patience(LEASE) else "lost"


def _node(name: str, samples: Sequence[StoredSample], now: float) -> NodeMetrics | None:
    """Return a node; None of one that has stopped or whose lease has ended."""
    last = samples[-1]
    sample = last.sample
    state = state_of(last, now)
    if state not in ("live", "draining", "stale"):
        return None
    return NodeMetrics(
        name=name,
        state=state,
        silent=max(0.0, now - last.at),
        size=sample.size,
        warm=sample.warm,
        warming=sample.warming,
        spares=sample.spares,
        overflow=sample.overflow,
        busy=sample.busy,
        idle=_idle(sample),
        capacity=sample.capacity,
        running=sample.running,
        reserved=sample.reserved,
        utilization=sample.counts.utilization,
        cpu=_cpu(sample),
        memory=_memory(sample),
        version=sample.version,
    )


def _cpu(sample: Sample) -> float | None:
    its = sample.resources
    return None if its is None else (its.node_cpu + its.workers_cpu) / sample.interval


def _memory(sample: Sample) -> int | None:
    return None if sample.resources is None else sample.resources.pss


def covered(spans: Sequence[tuple[float, float]], window: float) -> float:
    """Return the seconds of the window over which something is known.

    Args:
        spans: When each sample or record was written, and the seconds before that it tells of.
        window: Seconds.
    """
    if not spans:
        return window
    first = min(at - seconds for at, seconds in spans)
    return min(window, max(at for at, _ in spans) - first)


def load_of(queue: QueueState, last: Iterable[StoredSample], *, unreadable: bool) -> Load:
    """Return the load of a pool whose nodes have written these samples last.

    Args:
        queue: Now.
        last: Of each node.
        unreadable: Whether there are nodes beside these of which nothing is known.
    """
    states = [(state_of(one, queue.at), one) for one in last]
    live = [one for state, one in states if state in PRESENT]
    stale = unreadable or any(state == "stale" for state, _ in states)
    return _load(queue, live, stale=stale)


def _load(queue: QueueState, nodes: Sequence[StoredSample], *, stale: bool) -> Load:
    """Return the load of the nodes that are there, as their last samples told it."""
    age = queue.oldest_age
    if not nodes:
        # Without any node nothing can be reserved; a stale one may have something.
        known: dict[str, Any] = {**dict.fromkeys(_LOAD), "queue_depth": queue.depth}
        if not stale:
            known |= {"backlog": queue.depth, "oldest_age": age}
        return Load(**known)
    its = [one.sample for one in nodes]
    serving = [sample for sample in its if sample.serves]
    ages = [one.sample.reserved_age + queue.at - one.at for one in nodes if one.sample.reserved]
    reserved = sum(sample.reserved for sample in its)
    return Load(
        size=sum(sample.size for sample in serving),
        warm=sum(sample.warm for sample in serving),
        warming=sum(sample.warming for sample in serving),
        spares=sum(sample.spares for sample in serving),
        overflow=sum(sample.overflow for sample in serving),
        busy=sum(sample.busy for sample in its),
        idle=sum(map(_idle, serving)),
        capacity=sum(sample.capacity for sample in serving),
        running=sum(sample.running for sample in its),
        reserved=reserved,
        queue_depth=queue.depth,
        backlog=queue.depth + reserved,
        oldest_age=None if age is None else max([age, *ages]),
        cpu=_sum(map(_cpu, its)),
        memory=_sum(map(_memory, its)),
    )


def _idle(sample: Sample) -> int:
    return max(0, sample.warm - sample.busy)


def _sum(values: Iterable[_Number | None]) -> _Number | None:
    """Return the sum of all values; None if one is not known."""
    total = None
    for value in values:
        if value is None:
            return None
        total = value if total is None else total + value
    return total


def _loads(samples: Mapping[str, Sequence[StoredSample]], first: int, end: int) -> dict[int, Load]:
    """Return the load of each second from ``first`` to ``end`` of which it is known."""
    by_node = [{math.floor(one.at): one for one in its} for its in samples.values()]
    present: dict[int, StoredSample] = {}
    loads = {}
    for second in range(first, end + 1):
        for node, its in enumerate(by_node):
            if second in its:
                present[node] = its[second]
            elif node in present and state_of(present[node], second) not in PRESENT:
                del present[node]
        if present:
            # Each node read the queue; the last to do so knows best.
            latest = max(present.values(), key=lambda one: one.at)
            working = [one for one in present.values() if not one.sample.stopped]
            loads[second] = _load(latest.queue, working, stale=False)
    return loads


def _peak(loads: Sequence[Load]) -> Load:
    """Return the highest known value of each."""
    if len(loads) == 1:
        return loads[0]
    highest: dict[str, Any] = {}
    for name in _LOAD:
        known = [value for load in loads if (value := getattr(load, name)) is not None]
        highest[name] = max(known, default=None)
    return Load(**highest)


_LOAD = [field.name for field in fields(Load)]
