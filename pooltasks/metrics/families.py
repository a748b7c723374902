"""Families: standings as metrics, with the names that Prometheus sees.

An unknown number has no series. Counters and histograms are totals over all
nodes and outlive them. A histogram's bounds end where fine buckets end, so each
is exact; because a rule cannot name them, operations that waited longer than
the objective allows have a counter of their own, ``…_late_total``.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from itertools import accumulate, islice
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)

from pooltasks import keys
from pooltasks.errors import Category
from pooltasks.keys import CONTROL_POOL
from pooltasks.metrics.counts import OTHER
from pooltasks.metrics.histogram import lower_bound
from pooltasks.metrics.totals import bounds, latency_bounds
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prometheus_client import Metric

    from pooltasks.metrics.histogram import Histogram
    from pooltasks.metrics.standings import Standing
    from pooltasks.metrics.totals import Totals
    from pooltasks.metrics.view import NodeState
    from pooltasks.pool_settings import PoolSettings

_MOST_BY_NAME = 1430
"""Series of operations by name, shared evenly by the pools, so that a scrape stays small."""
_MOST_FAILURES = 150
"""Series of failures, in the same way."""
_MOST_LIMITED = 120
"""Series of operations with limits, in the same way."""
_OTHERS = (OTHER, OTHER)
_ALWAYS = (Outcome.SUCCESS, Outcome.FAILURE)
"""Outcomes that an operation shows before it has had them; rates need a zero to start from."""

_SHOWN: tuple[NodeState, ...] = ("live", "stale", "lost")
_SELDOM: tuple[NodeState, ...] = ("draining", "unreadable")


def families(
    pools: Mapping[str, PoolSettings],
    standings: Mapping[str, Standing],
    *,
    up: bool | None,
    memory: float | None = None,
) -> list[Metric]:
    """Return every family, without series where nothing is known.

    Args:
        pools: The settings of each pool.
        standings: How each stands; empty if that is not known.
        up: Whether the server could be read; None if that was not tried yet.
        memory: Share of its memory that the server uses; None if that is not known.
    """
    server = _Gauge("pooltasks_up", "1 if the Redis server could be read, 0 if not.")
    server.show([], up)
    full = _Gauge(
        "pooltasks_server_memory_ratio", "Used memory of the Redis server, of its maxmemory."
    )
    full.show([], memory)
    return [
        server,
        full,
        *_of_settings(pools),
        *_of_load(standings),
        *_of_nodes(standings),
        *_of_versions(standings),
        *_of_decisions(pools, standings),
        *_of_totals(
            {pool: its.totals for pool, its in standings.items() if its.totals is not None}
        ),
        _of_operations(standings),
        _of_failures(standings),
        _of_limits(standings),
        *_of_durations(pools, standings),
    ]


_MOST_VERSIONS = 5


class _Gauge(GaugeMetricFamily):
    """A gauge; what is None has no series."""

    def __init__(self, name: str, documentation: str, *labels: str) -> None:
        super().__init__(name, documentation, labels=labels)

    def show(self, labels: Sequence[str], value: float | None) -> None:
        if value is not None:
            self.add_metric(labels, value)


def _of_settings(pools: Mapping[str, PoolSettings]) -> list[Metric]:
    info = _Gauge(
        "pooltasks_pool_info",
        "1 for each configured pool, with its queue and whether it has an optimizer.",
        "pool",
        "queue_name",
        "optimizer",
    )
    wait = _Gauge("pooltasks_objective_wait_seconds", "The wait that the objective allows.", "pool")
    ratio = _Gauge(
        "pooltasks_objective_ratio", "The share of operations that are to wait less.", "pool"
    )
    for pool, settings in pools.items():
        is_optimized = settings.enable_optimizer and pool != CONTROL_POOL
        info.show([pool, keys.queue(pool), "on" if is_optimized else "off"], 1)
        wait.show([pool], settings.objective.wait_ms / 1000)
        ratio.show([pool], settings.objective.quantile)
    return [info, wait, ratio]


def _of_load(standings: Mapping[str, Standing]) -> list[Metric]:
    size = _Gauge("pooltasks_size", "Workers that the live nodes should have.", "pool")
    workers = _Gauge("pooltasks_workers", "Workers of the live nodes.", "pool", "state")
    spares = _Gauge("pooltasks_spares", "Warm workers beyond the size.", "pool")
    overflow = _Gauge("pooltasks_overflow", "Temporary workers beyond the size.", "pool")
    capacity = _Gauge(
        "pooltasks_capacity_slots", "Operations that the warm workers can run at once.", "pool"
    )
    memory = _Gauge(
        "pooltasks_memory_bytes",
        "Memory of the live nodes and their workers, what those of a node share counted once.",
        "pool",
    )
    length = _Gauge("pooltasks_queue_length", "Operations in the queue.", "pool")
    backlog = _Gauge(
        "pooltasks_backlog", "Operations that no worker has started, reserved ones too.", "pool"
    )
    age = _Gauge(
        "pooltasks_oldest_age_seconds", "For how long the oldest of the backlog has waited.", "pool"
    )
    dead = _Gauge("pooltasks_dead_letters", "Operations that were set aside.", "pool")
    for pool, standing in standings.items():
        load = standing.load
        size.show([pool], load.size)
        for state in ("busy", "idle", "warming"):
            workers.show([pool, state], getattr(load, state))
        spares.show([pool], load.spares)
        overflow.show([pool], load.overflow)
        capacity.show([pool], load.capacity)
        memory.show([pool], load.memory)
        length.show([pool], load.queue_depth)
        backlog.show([pool], load.backlog)
        age.show([pool], load.oldest_age)
        dead.show([pool], standing.dead_letters)
    return [size, workers, spares, overflow, capacity, memory, length, backlog, age, dead]


def _of_nodes(standings: Mapping[str, Standing]) -> list[Metric]:
    nodes = _Gauge(
        "pooltasks_nodes",
        "Nodes; draining: no capacity, they finish what they have; stale: silent for seconds, "
        "lost: silent for longer, shown for an hour; "
        "unreadable: of another version, all else is without them.",
        "pool",
        "state",
    )
    utilization = _Gauge(
        "pooltasks_utilization_ratio", "Busy seconds of slots / all of their seconds, now.", "pool"
    )
    health = _Gauge("pooltasks_health_score", "0 to 100, of the last minute.", "pool")
    for pool, standing in standings.items():
        for state in _SHOWN:
            nodes.show([pool, state], standing.nodes[state])
        for state in _SELDOM:  # a series more of each pool
            nodes.show([pool, state], standing.nodes[state] or None)
        utilization.show([pool], standing.utilization)
        health.show([pool], standing.health.score if standing.health else None)
    return [nodes, utilization, health]


def _of_versions(standings: Mapping[str, Standing]) -> list[Metric]:
    nodes = _Gauge(
        "pooltasks_version_nodes",
        "Live nodes by the version of their code, the five that most have.",
        "pool",
        "version",
    )
    rollout = _Gauge(
        "pooltasks_rollout_ratio",
        "Share of the operations that the new version of the last rollout has. "
        "Its state is live, done or aborted.",
        "pool",
        "version",
        "state",
    )
    for pool, standing in standings.items():
        for version, count in standing.versions.most_common(_MOST_VERSIONS):
            nodes.show([pool, version], count)
        if standing.rollout is not None:
            version, state, share = standing.rollout
            rollout.show([pool, version, state], share)
    return [nodes, rollout]


def _of_decisions(
    pools: Mapping[str, PoolSettings], standings: Mapping[str, Standing]
) -> list[Metric]:
    target = _Gauge(
        "pooltasks_target_slots", "What the optimizer wants of all live nodes together.", "pool"
    )
    size = _Gauge("pooltasks_target_size", "The same in workers.", "pool")
    policy = _Gauge(
        "pooltasks_wanted_slots", "What it would have if the hosts had room for it.", "pool"
    )
    nodes = _Gauge(
        "pooltasks_nodes_wanted", "Nodes that the pool needs, for whoever starts hosts.", "pool"
    )
    for pool, standing in standings.items():
        if standing.decision is not None:
            wanted = standing.decision.target
            target.show([pool], wanted)
            size.show([pool], None if wanted is None else math.ceil(wanted / pools[pool].slots))
            policy.show([pool], standing.decision.wanted)
            nodes.show([pool], standing.decision.hosts)
    return [target, size, policy, nodes]


def _of_totals(totals: Mapping[str, Totals]) -> list[Metric]:
    operations = CounterMetricFamily(
        "pooltasks_operations", "Operations that left a worker.", labels=["pool", "outcome"]
    )
    errors = CounterMetricFamily(
        "pooltasks_errors", "Errors, those that were retried too.", labels=["pool", "category"]
    )
    late = CounterMetricFamily(
        "pooltasks_late_operations",
        "Operations that waited longer than the objective.",
        labels=["pool"],
    )
    recoveries = CounterMetricFamily(
        "pooltasks_recoveries", "Workers that died and were replaced.", labels=["pool"]
    )
    busy = CounterMetricFamily(
        "pooltasks_busy_seconds", "Time in which workers had an operation.", labels=["pool"]
    )
    process = CounterMetricFamily(
        "pooltasks_process_seconds", "Time in which workers could have one.", labels=["pool"]
    )
    cpu = CounterMetricFamily(
        "pooltasks_cpu_seconds", "CPU time of nodes and workers.", labels=["pool"]
    )
    for pool, its in totals.items():
        counts = its.counts
        for outcome in Outcome:
            operations.add_metric([pool, outcome], counts.outcomes[outcome])
        for category in Category:
            errors.add_metric([pool, category], counts.categories[category])
        late.add_metric([pool], its.late)
        recoveries.add_metric([pool], counts.recoveries)
        busy.add_metric([pool], counts.busy)
        process.add_metric([pool], counts.process)
        cpu.add_metric([pool], its.cpu)
    return [operations, errors, late, recoveries, busy, process, cpu]


def _of_operations(standings: Mapping[str, Standing]) -> Metric:
    """Return the operations by name: where that is too many, the first ones and the rest."""
    family = CounterMetricFamily(
        "pooltasks_operations_by_name",
        "Operations that left a worker; those that have no name of their own as 'other'.",
        labels=["pool", "name", "outcome"],
    )
    most = max(1, _MOST_BY_NAME // (len(Outcome) * max(1, len(standings))))
    for pool, standing in standings.items():
        shown = standing.by_name
        if len(shown) > most:
            first = dict(islice(shown.items(), most - 1))
            rest = (counts for name, counts in shown.items() if name not in first)
            shown = {**first, OTHER: sum(rest, Counter())}
        for name, counts in shown.items():
            for outcome in Outcome:
                if outcome in _ALWAYS or counts[outcome]:
                    family.add_metric([pool, name, outcome], counts[outcome])
    return family


def _of_failures(standings: Mapping[str, Standing]) -> Metric:
    """Return the failures by operation and error; where those are too many, the first ones."""
    family = CounterMetricFamily(
        "pooltasks_failures",
        "Operations that failed, by the class of their error.",
        labels=["pool", "name", "error"],
    )
    most = max(1, _MOST_FAILURES // max(1, len(standings)))
    for pool, standing in standings.items():
        named = {its: count for its, count in standing.failures.items() if its != _OTHERS}
        first = dict(islice(named.items(), most - 1 if len(named) > most else most))
        rest = sum(standing.failures.values()) - sum(first.values())
        for (name, error), count in first.items():
            family.add_metric([pool, name, error], count)
        if rest:
            family.add_metric([pool, *_OTHERS], rest)
    return family


def _of_limits(standings: Mapping[str, Standing]) -> Metric:
    """Return the operations with limits, those of which most is held first; keys are no labels."""
    family = _Gauge(
        "pooltasks_limited_operations",
        "Operations with limits; running: they count for a limit; held: limits hold them back.",
        "pool",
        "name",
        "state",
    )
    most = max(1, _MOST_LIMITED // (2 * max(1, len(standings))))
    for pool, standing in standings.items():
        shown = sorted(standing.limited, key=lambda its: its.held, reverse=True)
        lines = [(its.operation, its.running, its.held) for its in shown]
        if len(lines) > most:
            rest = lines[most - 1 :]
            sums = sum(its[1] for its in rest), sum(its[2] for its in rest)
            lines = [*lines[: most - 1], (OTHER, *sums)]
        for name, running, held in lines:
            family.show([pool, name, "running"], running)
            family.show([pool, name, "held"], held)
    return family


def _of_durations(
    pools: Mapping[str, PoolSettings], standings: Mapping[str, Standing]
) -> list[Metric]:
    wait = HistogramMetricFamily(
        "pooltasks_wait_seconds", "From published or due until started.", labels=["pool"]
    )
    run = HistogramMetricFamily(
        "pooltasks_run_seconds", "From started until finished.", labels=["pool"]
    )
    latency = HistogramMetricFamily(
        "pooltasks_latency_seconds",
        "From published, before any retry, until the caller had the result.",
        labels=["pool"],
    )
    recovery = SummaryMetricFamily(
        "pooltasks_recovery_seconds",
        "From a worker's death until another took operations in its place.",
        labels=["pool"],
    )
    for pool, standing in standings.items():
        if standing.totals is None:
            continue
        limits = bounds(pools[pool].objective)
        counts = standing.totals.counts
        for family, histogram in ((wait, counts.wait), (run, counts.run)):
            family.add_metric([pool], _buckets(histogram, limits), histogram.total)
        buckets = _buckets(counts.latency, latency_bounds())
        latency.add_metric([pool], buckets, counts.latency.total)
        recovery.add_metric([pool], counts.recovery.count, counts.recovery.total)
    return [wait, run, latency, recovery]


def _buckets(histogram: Histogram, limits: Sequence[int]) -> list[tuple[str, float]]:
    """Return the cumulative counts; a bound that was another objective's joins the next one."""
    within = [0] * (len(limits) + 1)
    for bucket, count in histogram.counts.items():
        within[bisect_left(limits, bucket)] += count
    bound = [f"{lower_bound(limit + 1):.4g}" for limit in limits]
    return list(zip([*bound, "+Inf"], accumulate(within), strict=True))
