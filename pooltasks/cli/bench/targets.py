"""The scenarios ``targets`` and ``recovery``: the document's goals, and each death's recovery."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from pooltasks.cli.bench.latency import latencies_at
from pooltasks.cli.bench.loaded import put
from pooltasks.cli.bench.picture import of_the_load
from pooltasks.cli.bench.report import Report
from pooltasks.metrics.goals import Goal, goals, milliseconds
from pooltasks.optimizer.staffing import Goal as Staffing
from pooltasks.optimizer.utilization import band

if TYPE_CHECKING:
    from pooltasks.cli.bench.loaded import Loaded, Subject
    from pooltasks.metrics.view import PoolWork

_RECOVERY = 500.0
"""Milliseconds, of the requirements document."""


def targets(subject: Subject) -> Report:
    """Judge all eight goals of the requirements document at once, and then the throughput."""
    loaded = put(subject)
    metrics = subject.pool.metrics(subject.seconds)
    _, stored = subject.pool.samples(subject.seconds)
    samples = [one.sample for its in stored.values() for one in its]
    seen = loaded.load.seen()._replace(recovery=max(loaded.node_deaths, default=None))
    peak = _peak(subject, subject.peak) if subject.peak else None
    if peak is not None:
        seen = seen._replace(throughput=peak.throughput)
    judged = goals(metrics, samples, seen)
    slots = sum(its.counts.process for its in samples) / subject.seconds
    right, note = _right_utilization(subject, metrics.work, max(1, round(slots)))
    return Report(
        loaded,
        [*judged, right, *(peak.latencies if peak else ())],
        of_the_load(loaded),
        notes=[note] if note else [],
        figures={"recoveries": metrics.work.recoveries, "node_deaths": loaded.node_deaths},
    )


class _Peak(NamedTuple):
    """A higher rate, at which nobody was killed."""

    throughput: float
    """Results a second."""
    latencies: tuple[Goal, Goal]


def _peak(subject: Subject, rate: float) -> _Peak:
    subject.tell(f"then {rate:g} a second for {subject.settle} + {subject.seconds} s")
    seen = put(replace(subject, rate=rate, kills=0, node_kills=0)).load.seen()
    return _Peak(seen.throughput, latencies_at(rate, seen.latency))


def _right_utilization(subject: Subject, work: PoolWork, slots: int) -> tuple[Goal, str]:
    """Return the utilization beside the band that the pool's objective allows, and why.

    Args:
        subject: The pool.
        work: Its work under the load.
        slots: How many it had then, on average.
    """
    what = "utilization, in the objective's band"
    objective, run, utilization = subject.pool.settings.objective, work.run, work.utilization
    if run is None or not run.mean or utilization is None:
        return Goal(what, None, "%"), ""
    right = band(slots, run.mean, Staffing(objective.wait_ms / 1000, objective.quantile))
    low, high = 100 * right.low, 100 * right.high
    note = (
        f"{slots} slots, as there were on average, whose operations run {run.mean * 1e3:.3g} ms "
        f"keep {100 * objective.quantile:g}% < {objective.wait_ms:g} ms up to {high:.0f} % of "
        f"utilization; below {low:.0f} % they are too many."
    )
    return Goal(what, 100 * utilization, "%", high, low), note


def recovery(subject: Subject) -> Report:
    """Judge how soon others take the place of each worker and each node that is killed."""
    if not subject.kills and not subject.node_kills:
        subject = replace(subject, kills=5)
    loaded = put(subject)
    work = subject.pool.metrics(subject.seconds).work
    own = work.recovery
    return Report(
        loaded,
        [
            Goal("workers that died and were replaced", work.recoveries, ""),
            Goal(
                "death of a worker until replaced, p50", milliseconds(own, "p50"), "ms", _RECOVERY
            ),
            Goal(
                "death of a worker until replaced, longest",
                milliseconds(own, "p999"),
                "ms",
                _RECOVERY,
            ),
            *_answered("worker", loaded.worker_deaths),
            *_answered("node", loaded.node_deaths),
            _lost(loaded),
        ],
        of_the_load(loaded),
        notes=[
            "Answered: from the death until everything was answered that had been sent before it."
        ],
        figures={"node_deaths": loaded.node_deaths, "worker_deaths": loaded.worker_deaths},
    )


def _answered(what: str, deaths: tuple[float, ...]) -> list[Goal]:
    if not deaths:
        return []
    return [Goal(f"death of a {what} until answered, longest", max(deaths) * 1e3, "ms", _RECOVERY)]


def _lost(loaded: Loaded) -> Goal:
    whole = loaded.load.whole
    return Goal("operations without an answer", whole.sent - whole.answered, "", 0)
