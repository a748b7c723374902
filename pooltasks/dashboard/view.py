"""The pages' view of a pool, as JSON: None is what is not known, times are server time."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pooltasks.dashboard.watch import Answer
    from pooltasks.metrics.health import Health
    from pooltasks.metrics.view import HistoryPoint, NodeMetrics, PoolMetrics, Quantiles, Work
    from pooltasks.pools import Pool


def overview(
    pool: Pool, metrics: PoolMetrics, spark: Sequence[float | None], dead_letters: int
) -> dict[str, Any]:
    """Return a pool's line in the list of all pools."""
    work, load = metrics.work, metrics.load
    return {
        "at": metrics.at,
        "pool": pool.name,
        "verdict": verdict(pool, metrics),
        "health": _health(metrics.health),
        "nodes": _node_states(metrics),
        "utilization": work.utilization,
        "wait_p99": work.wait.p99 if work.wait else None,
        "late": is_late(pool, metrics),
        "objective": _objective(pool),
        "throughput": work.throughput,
        "error_rate": work.error_rate,
        "size": load.size,
        "warm": load.warm,
        "backlog": load.backlog,
        "oldest_age": load.oldest_age,
        "dead_letters": dead_letters,
        "spark": [_short(throughput) for throughput in spark],
    }


def metrics(pool: Pool, metrics: PoolMetrics) -> dict[str, Any]:
    """Return a pool now and over the window: ``Pool.metrics()`` as it is."""
    return {
        "pool": pool.name,
        "verdict": verdict(pool, metrics),
        "at": metrics.at,
        "window": metrics.window,
        "load": asdict(metrics.load),
        "work": asdict(metrics.work),
        "health": _health(metrics.health),
        "objective": _objective(pool),
        "late": is_late(pool, metrics),
    }


def operations(by_operation: Mapping[str, Work]) -> list[dict[str, Any]]:
    """Return what each operation did, as ``Pool.metrics().by_operation`` has it.

    ``share`` (0–1) is its part of the seconds in which workers were busy.
    """
    busy = sum(work.busy or 0.0 for work in by_operation.values())
    return [
        {
            "name": name,
            "operations": work.operations,
            "error_rate": work.error_rate,
            "wait": _typical(work.wait),
            "run": _typical(work.run),
            "share": (work.busy or 0.0) / busy if busy else None,
        }
        for name, work in by_operation.items()
    ]


def _typical(quantiles: Quantiles | None) -> dict[str, float] | None:
    return {"p50": quantiles.p50, "p99": quantiles.p99} if quantiles else None


def live_nodes(metrics: PoolMetrics) -> list[str]:
    """Return the nodes that live, as Celery names them."""
    return [_celery_name(node) for node in metrics.nodes if node.state == "live"]


def nodes(
    metrics: PoolMetrics, answers: Mapping[str, Answer], restarts: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return each node, from its samples, with what it says of itself.

    ``restarts`` are the workers that died in the window and were replaced.

    ``state`` is ``live``, ``draining``, ``mute`` (it samples, or did a moment ago,
    and does not answer) or ``stale``; ``workers`` is None where it is not known.
    """
    rows = []
    for node in metrics.nodes:
        answer = answers.get(_celery_name(node)) if node.state == "live" else None
        state: str = node.state
        if answer and answer.missed:
            state = "mute"
        elif answer and answer.status["draining"]:
            state = "draining"
        known = answer is not None and not answer.missed
        rows.append(
            {
                **asdict(node),
                "state": state,
                "celery_name": _celery_name(node),
                "restarts": restarts.get(node.name, 0),
                "workers": answer.status["workers"] if answer and known else None,
            }
        )
    return rows


def _celery_name(node: NodeMetrics) -> str:
    return node.name.rpartition("/")[0] or node.name


def concern(line: Mapping[str, Any]) -> int:
    """Return how much a line of :func:`overview` wants attention, to sort by.

    0 is a pool that is well, -1 one that nobody uses. In steps of ten points of health,
    so that lines keep their places while scores waver.
    """
    if line["health"] is not None:
        score: float = line["health"]["score"]
        return round((100 - score) / 10)
    return -1 if line["verdict"]["level"] == "off" else _UNSERVED


_UNSERVED = 20
"""More than any pool with a node."""
GOOD, FAIR = 80, 60
"""Health scores from which on a pool is well, or wants attention soon."""


def verdict(pool: Pool, metrics: PoolMetrics) -> dict[str, str]:
    """Return how a pool is, as ``level`` (good, fair, bad, off) and in a sentence.

    A pool that misses its objective, or of which something is missing, is not
    ``good``, whatever its score.
    """
    load, work, health = metrics.load, metrics.work, metrics.health
    live = sum(node.state == "live" for node in metrics.nodes)
    silent = len(metrics.nodes) - live
    if not live:
        return _without_live_nodes(metrics)
    objective = pool.settings.objective
    problems, remarks = [], []
    if silent:
        problems.append(f"{_plural(silent, 'node')} silent")
    problems += _unreadable(metrics)
    if load.size and load.warm is not None and load.warm < load.size:
        problems.append(f"{load.warm} of {load.size} workers warm")
    level = score_level(health)
    age = load.oldest_age or 0.0
    if age * 1000 > objective.wait_ms and (age > _OLD or level != "good"):
        problems.append(f"the oldest operation has waited {_duration(age)}")
    if is_late(pool, metrics):
        problems.append(
            f"wait p{objective.quantile * 100:g} above its objective of {objective.wait_ms:g} ms"
        )
    if health and health.costs["errors"]:
        remarks.append(f"{100 * (work.error_rate or 0):.2g} % of the operations failed")
    if work.recoveries:
        remarks.append(f"{_plural(work.recoveries, 'worker')} died")
    if level == "good" and problems:
        level = "fair"
    text = "; ".join(problems + remarks)
    text = text or f"{_plural(live, 'node')}, {_plural(load.warm, 'warm worker')}"
    return {"level": level, "text": f"{text[0].upper()}{text[1:]}."}


def _without_live_nodes(metrics: PoolMetrics) -> dict[str, str]:
    silent, load = len(metrics.nodes), metrics.load
    if metrics.unreadable:  # it may be as well as can be
        return {"level": "fair", "text": f"{_unreadable(metrics)[0]}."}
    who = f"{_plural(silent, 'node')} fell silent" if silent else "no node serves this pool"
    idle = not silent and load.backlog == 0
    waiting = "" if idle else f"; {_plural(load.queue_depth, 'operation')} in the queue"
    return {"level": "off" if idle else "bad", "text": f"{who}{waiting}.".capitalize()}


def _unreadable(metrics: PoolMetrics) -> list[str]:
    nodes = len(metrics.unreadable)
    return [f"{_plural(nodes, 'node')} of another version cannot be read"] if nodes else []


def is_late(pool: Pool, metrics: PoolMetrics) -> bool:
    """Return whether more operations waited too long than the objective of the pool allows."""
    wait, health, objective = metrics.work.wait, metrics.health, pool.settings.objective
    if wait is None or health is None or not health.costs["waiting"]:
        return False
    if (metrics.load.oldest_age or 0.0) * 1000 <= objective.wait_ms:
        return True  # nothing else costs that
    below = max((q for q in _QUANTILES if q <= objective.quantile), default=None)
    return below is not None and getattr(wait, _QUANTILES[below]) * 1000 > objective.wait_ms


_QUANTILES = {0.5: "p50", 0.9: "p90", 0.99: "p99", 0.999: "p999"}
_OLD = 1.0
"""Seconds of waiting of a single operation that are a problem: every objective allows some."""


def score_level(health: Health | None) -> str:
    """Return the level of a score: good, fair or bad."""
    score = health.score if health else 0.0
    return "good" if score >= GOOD else "fair" if score >= FAIR else "bad"


def _plural(number: int | None, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


_COLUMNS: dict[str, Callable[[HistoryPoint], Any]] = {
    "at": lambda point: point.at,
    "utilization": lambda point: _short(point.work.utilization),
    "throughput": lambda point: _short(point.work.throughput),
    "wait_p50": lambda point: _quantile(point.work.wait, "p50"),
    "wait_p99": lambda point: _quantile(point.work.wait, "p99"),
    "run_p50": lambda point: _quantile(point.work.run, "p50"),
    "run_p99": lambda point: _quantile(point.work.run, "p99"),
    "error_rate": lambda point: _short(point.work.error_rate),
    "errors": lambda point: point.work.errors,
    "size": lambda point: point.load.size,
    "warm": lambda point: point.load.warm,
    "busy": lambda point: point.load.busy,
    "backlog": lambda point: point.load.backlog,
    "oldest_age": lambda point: _short(point.load.oldest_age),
}


def series(points: Iterable[HistoryPoint], step: int, *, whole: bool) -> dict[str, Any]:
    """Return what the charts show, a column for each number.

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


def _objective(pool: Pool) -> dict[str, float]:
    objective = pool.settings.objective
    return {"wait": objective.wait_ms / 1000, "quantile": objective.quantile}


def _health(health: Health | None) -> dict[str, Any] | None:
    return {**asdict(health), "level": score_level(health)} if health else None


def _node_states(metrics: PoolMetrics) -> dict[str, int]:
    states = [node.state for node in metrics.nodes]
    counts = {state: states.count(state) for state in ("live", "stale")}
    return {**counts, "unreadable": len(metrics.unreadable)}


def _quantile(quantiles: Quantiles | None, name: str) -> float | None:
    return _short(getattr(quantiles, name)) if quantiles else None


def _short(number: float | None) -> float | None:
    """Return a number for a chart: four digits are more than a pixel tells."""
    return None if number is None else float(f"{number:.4g}")
