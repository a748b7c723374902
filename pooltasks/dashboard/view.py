"""The pages' view of a pool, as JSON: an unknown value is None, times are server time."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from pooltasks.dashboard.circumstances import unseen
from pooltasks.dashboard.verdict import (
    LEVELS,
    UNFINISHED,
    celery_name,
    finished_of,
    verdict,
)
from pooltasks.keys import CONTROL_POOL
from pooltasks.metrics.collector import PRESENT
from pooltasks.metrics.view import NodeMetrics, Work
from pooltasks.optimizer.utilization import band_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pooltasks.broker.dead_letters import DeadLetter
    from pooltasks.dashboard.verdict import Evidence, Verdict
    from pooltasks.dashboard.watch import Answer
    from pooltasks.metrics.health import Health
    from pooltasks.metrics.view import HistoryPoint, PoolMetrics, Quantiles


def overview(its: Evidence, spark: Sequence[float | None], dead_letters: int) -> dict[str, Any]:
    """Return a pool's line in the list of all pools."""
    work, load = its.metrics.work, its.metrics.load
    return {
        "at": its.metrics.at,
        **_judged(its),
        "own": its.pool == CONTROL_POOL,
        "nodes": _node_states(its),
        "utilization": work.utilization,
        "throughput": work.throughput,
        "size": load.size,
        "warm": load.warm,
        "backlog": load.backlog,
        "oldest_age": load.oldest_age,
        "dead_letters": dead_letters,
        "spark": [_short(throughput) for throughput in spark],
    }


def metrics(its: Evidence) -> dict[str, Any]:
    """Return a pool now and over the window: ``Pool.metrics()`` as it is, and the verdict."""
    return {
        **_judged(its),
        "at": its.metrics.at,
        "window": its.metrics.window,
        "load": asdict(its.metrics.load),
        "work": asdict(its.metrics.work),
        "failed": its.failed,
        "finished": None if its.failed is None else finished_of(its.metrics) + its.unseen_failures,
        "set_aside": its.set_aside,
        "band": _band(its),
    }


def _band(its: Evidence) -> dict[str, float] | None:
    """Return the utilization that is right; None where the slots or the runs are not known."""
    found = band_of(its.metrics, its.settings.objective)
    return asdict(found) if found else None


def _judged(its: Evidence) -> dict[str, Any]:
    """Return the part that the list of pools and a pool's page have in common."""
    found = verdict(its)
    objective = its.settings.objective
    return {
        "pool": its.pool,
        "verdict": found.as_json(),
        "health": _health(its.metrics.health, found),
        "wait": its.wait,
        "error_rate": its.error_rate,
        "objective": {"wait": objective.wait_ms / 1000, "quantile": objective.quantile},
    }


def operations(
    by_operation: Mapping[str, Work], letters: Iterable[DeadLetter]
) -> list[dict[str, Any]]:
    """Return the work of each operation, as ``Pool.metrics().by_operation`` has it.

    ``share`` (0–1) is its part of the seconds in which workers were busy. ``failed``
    counts dead letters too, whether or not a worker counted them.

    Args:
        by_operation: The work of each operation.
        letters: The dead letters of the same time.
    """
    busy = sum(work.busy or 0.0 for work in by_operation.values())
    dead: dict[str, list[DeadLetter]] = {}
    for letter in letters:
        dead.setdefault(letter.operation or UNREADABLE, []).append(letter)
    return [
        _operation(name, by_operation.get(name, _NO_WORK), dead.get(name, ()), busy)
        for name in dict.fromkeys([*by_operation, *sorted(dead)])
    ]


def _operation(name: str, work: Work, letters: Sequence[DeadLetter], busy: float) -> dict[str, Any]:
    counted = {str(outcome): number for outcome, number in (work.operations or {}).items()}
    uncounted = unseen(letters)
    finished = sum(counted.get(outcome, 0) for outcome in counted if outcome not in UNFINISHED)
    failed = counted.get("failure", 0) + uncounted
    rate = work.error_rate
    if uncounted:
        rate = ((rate or 0.0) * finished + uncounted) / (finished + uncounted)
    return {
        "name": name,
        "count": finished + uncounted,
        "failed": failed,
        "error_rate": rate,
        "dead": len(letters),
        "wait": _typical(work.wait),
        "run": _typical(work.run),
        "share": (work.busy or 0.0) / busy if busy else None,
    }


_NO_WORK = Work(None, None, None, None, None, None, None, None)
UNREADABLE = "(unreadable)"
"""The name of an operation whose message could not be read."""


def _typical(quantiles: Quantiles | None) -> dict[str, float] | None:
    return {"p50": quantiles.p50, "p99": quantiles.p99} if quantiles else None


def live_nodes(metrics: PoolMetrics) -> list[str]:
    """Return the nodes that live, draining ones too, as Celery names them."""
    return [celery_name(node) for node in metrics.nodes if node.state in PRESENT]


def nodes(
    its: Evidence, answers: Mapping[str, Answer], restarts: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return each node, from its samples, with its own status.

    ``restarts`` are the workers that died in the window and were replaced.

    ``state`` is ``live``, ``draining``, ``drained``, ``mute`` (it samples, or did a
    moment ago, and does not answer), ``stale`` or ``lost``; ``workers`` is None where it
    is not known.
    """
    rows = []
    for node in its.metrics.nodes:
        name = celery_name(node)
        answer = answers.get(name) if node.state in PRESENT else None
        state: str = node.state
        if answer and answer.missed:
            state = "mute"
        elif name in its.draining:
            state = "drained" if its.draining[name] else "draining"
        known = answer is not None and not answer.missed
        rows.append(
            {
                **asdict(node),
                "state": state,
                "celery_name": name,
                "restarts": restarts.get(node.name, 0),
                "workers": answer.status["workers"] if answer and known else None,
            }
        )
    shown = {row["celery_name"] for row in rows}
    return rows + [_lost(name, silent) for name, silent in its.lost.items() if name not in shown]


def _lost(name: str, silent: float) -> dict[str, Any]:
    unknown = dict.fromkeys(field.name for field in fields(NodeMetrics))
    return {
        **unknown,
        "name": name,
        "celery_name": name,
        "state": "lost",
        "silent": silent,
        "restarts": 0,
        "workers": None,
    }


def concern(line: Mapping[str, Any]) -> int:
    """Return how much attention a line of :func:`overview` needs, to sort by.

    First comes the level of its verdict, then its health in steps of ten points, so
    that lines keep their places while scores waver. The control pool is shown apart.
    """
    score: float = line["health"]["score"] if line["health"] else 0.0
    return 20 * (len(LEVELS) - LEVELS.index(line["verdict"]["level"])) + round((100 - score) / 10)


_COLUMNS: dict[str, Callable[[HistoryPoint], Any]] = {
    "at": lambda point: point.at,
    "utilization": lambda point: _short(point.work.utilization),
    "throughput": lambda point: _short(point.work.throughput),
    "wait_p50": lambda point: _quantile(point.work.wait, "p50"),
    "wait_p99": lambda point: _quantile(point.work.wait, "p99"),
    "run_p50": lambda point: _quantile(point.work.run, "p50"),
    "run_p99": lambda point: _quantile(point.work.run, "p99"),
    "latency_mean": lambda point: _quantile(point.work.latency, "mean"),
    "latency_p50": lambda point: _quantile(point.work.latency, "p50"),
    "latency_p99": lambda point: _quantile(point.work.latency, "p99"),
    "error_rate": lambda point: _short(point.work.error_rate),
    "errors": lambda point: point.work.errors,
    "size": lambda point: point.load.size,
    "warm": lambda point: point.load.warm,
    "busy": lambda point: point.load.busy,
    "backlog": lambda point: point.load.backlog,
    "oldest_age": lambda point: _short(point.load.oldest_age),
}


def series(points: Iterable[HistoryPoint], step: int, *, whole: bool) -> dict[str, Any]:
    """Return the data of the charts, a column for each number.

    Args:
        points: Oldest first; the last one may be incomplete.
        step: Seconds of a point.
        whole: Whether these are all points of the window.
    """
    rows = list(points)
    return {
        "step": step,
        "whole": whole,
        "complete": sum(point.complete for point in rows),
        "columns": {name: [value(point) for point in rows] for name, value in _COLUMNS.items()},
    }


def _health(health: Health | None, found: Verdict) -> dict[str, Any] | None:
    """Return the score; its color is that of the sentence beside it."""
    return None if health is None else {**asdict(health), "level": found.level}


def _node_states(its: Evidence) -> dict[str, int]:
    states = [node.state for node in its.metrics.nodes]
    draining = len(its.draining)
    return {
        "live": len(states) - states.count("stale") - draining,
        "drained": sum(its.draining.values()),
        "draining": draining - sum(its.draining.values()),
        "lost": len(its.lost),
        "unreadable": len(its.metrics.unreadable),
    }


def _quantile(quantiles: Quantiles | None, name: str) -> float | None:
    return _short(getattr(quantiles, name)) if quantiles else None


def _short(number: float | None) -> float | None:
    """Return a number for a chart, in four digits: a pixel shows no more."""
    return None if number is None else float(f"{number:.4g}")
