"""The scenario ``soak``: whether anything grows in a long time of the same load."""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from pooltasks.cli.bench.loaded import put
from pooltasks.cli.bench.picture import Chart, of_the_load
from pooltasks.cli.bench.report import Report
from pooltasks.metrics.goals import Goal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pooltasks.cli.bench.loaded import Loaded, Subject
    from pooltasks.cli.bench.watch import Look

_TENTHS = 10
_LOW, _HIGH = 0.75, 1.25
"""Shares of the rate, in turn: the pool is resized all the while."""
_TURN = 10.0
"""Seconds of each."""
_LOOKS = 120
_MB = 1e6
_GROWTH = 5.0
"""Percent of its memory by which a process may have grown."""
_HISTORY = 10.0
"""Megabytes of the server for a node: its samples of an hour, and what the load has in flight."""
_KEYS = 250
"""Keys: the results that this command drops, 200 with one command, and those in flight."""
_OF_A_WORKER = 6
"""Descriptors that a node has for each worker: pipes, and a pidfd that tells of its death."""
_FILES = 2.0
"""Descriptors: a connection that is just being renewed."""
_SLOWER = 1.5
"""Times the latency (p99) of the first tenth, or 5 ms more: quantiles of a tenth differ."""
_SLOWER_MS = 5.0


def soak(subject: Subject) -> Report:
    """Keep up a load that goes up and down; compare its last tenth with its first."""
    every = max(1.0, subject.seconds / _LOOKS)
    turns = max(1, round(subject.seconds / (2 * _TURN)))
    loaded = put(subject, factors=(_LOW, _HIGH) * turns, every=every, processes=True)
    length = subject.seconds / _TENTHS
    first = loaded.within(0, length)
    last = loaded.within(subject.seconds - length, subject.seconds + every)
    whole = loaded.load.whole
    return Report(
        loaded,
        [
            *_grown(first, last, len(subject.nodes)),
            *_slower(loaded),
            Goal("operations without an answer", whole.sent - whole.answered, "", 0),
            Goal("times that the size was seen to change", _resizes(loaded), ""),
        ],
        [*_charts(loaded), *of_the_load(loaded)],
        notes=[f"Growth: the median of the last tenth less that of the first, {length:g} s each."],
    )


def _resizes(loaded: Loaded) -> int:
    """Return how often a look saw another size than the one before."""
    sizes = [look.size for look in loaded.looks]
    return sum(one != other for one, other in pairwise(sizes))


def _grown(first: Sequence[Look], last: Sequence[Look], nodes: int) -> Iterator[Goal]:
    """Yield what is judged of processes and of the server."""

    def both(value: Callable[[Look], float | None]) -> tuple[float, float] | None:
        before = [its for look in first if (its := value(look)) is not None]
        after = [its for look in last if (its := value(look)) is not None]
        return (median(before), median(after)) if before and after else None

    def growth(value: Callable[[Look], float | None]) -> float | None:
        found = both(value)
        return found and found[1] - found[0]

    def percent(value: Callable[[Look], float | None]) -> float | None:
        found = both(value)
        return 100 * (found[1] / found[0] - 1) if found else None

    yield Goal("growth of a node, resident", percent(_node), "%", _GROWTH)
    yield Goal("growth of a worker, resident", percent(_worker), "%", _GROWTH)
    for name in sorted({name for look in first for name in look.beside}):
        yield Goal(f"growth of {name}, resident", percent(_beside(name)), "%", _GROWTH)
    memory = growth(lambda look: look.server.memory / _MB if look.server else None)
    yield Goal("growth of the server", memory, "MB", _HISTORY * nodes)
    keys = growth(lambda look: look.server.keys if look.server else None)
    yield Goal("more keys at the server", keys, "", _KEYS)
    yield Goal("more descriptors of a node, beside workers'", growth(_node_files), "", _FILES)
    yield Goal("more descriptors of a worker", growth(_worker_files), "", _FILES)
    strays = both(lambda look: look.strays)
    yield Goal("processes of a node that are no workers", strays and strays[1], "", 1)


def _node(look: Look) -> float | None:
    return _mean([its.rss for its in look.nodes])


def _worker(look: Look) -> float | None:
    return _mean([its.rss for its in look.workers])


def _worker_files(look: Look) -> float | None:
    return _mean([its.files for its in look.workers])


def _node_files(look: Look) -> float | None:
    """Return the descriptors of a node, less those that it has for each worker."""
    its = _mean([node.files for node in look.nodes])
    return its and its - _OF_A_WORKER * len(look.workers) / len(look.nodes)


def _beside(name: str) -> Callable[[Look], float | None]:
    return lambda look: look.beside[name].rss if name in look.beside else None


def _mean(values: Sequence[int]) -> float | None:
    return sum(values) / len(values) if values else None


def _slower(loaded: Loaded) -> list[Goal]:
    """Return what is judged of the latencies of the last tenth."""
    first, last = (
        loaded.load.part(number, _TENTHS).latency.quantile(0.99) for number in (0, _TENTHS - 1)
    )
    limit = max(_SLOWER * first * 1e3, first * 1e3 + _SLOWER_MS) if first else _SLOWER_MS
    return [
        Goal("latency of the first tenth, p99", first and first * 1e3, "ms"),
        Goal("latency of the last tenth, p99", last and last * 1e3, "ms", round(limit, 1)),
    ]


def _charts(loaded: Loaded) -> list[Chart]:
    load = loaded.load
    looks = [(load.passed(look.at), look) for look in loaded.within(0, load.seconds)]
    names = sorted({name for _, look in looks for name in look.beside})
    resident = {"a node": _node, "a worker": _worker, **{name: _beside(name) for name in names}}

    def line(value: Callable[[Look], float | None], by: float = 1.0) -> list[tuple[float, float]]:
        return [(at, its / by) for at, look in looks if (its := value(look)) is not None]

    return [
        Chart(
            "Resident memory", "MB", {name: line(value, _MB) for name, value in resident.items()}
        ),
        Chart(
            "The server's memory",
            "MB",
            {"used": line(lambda look: look.server.memory if look.server else None, _MB)},
        ),
        Chart(
            "Keys at the server",
            "number",
            {"keys": line(lambda look: look.server.keys if look.server else None)},
        ),
    ]
