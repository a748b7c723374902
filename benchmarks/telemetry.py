"""The cost of telemetry and metrics: in a worker, in a node, in Redis and in a scrape."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector as MetricCollector

from benchmarks.measure import Candidate, Round, Size, measure
from pooltasks import keys
from pooltasks.app import PoolApp
from pooltasks.errors import Category
from pooltasks.extension import Extension
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.families import families
from pooltasks.metrics.sample import Resources, Sample
from pooltasks.metrics.samples import HISTORY, SampleStore
from pooltasks.metrics.standings import Standings
from pooltasks.node.scoreboard.notes import ended
from pooltasks.node.scoreboard.row import Row
from pooltasks.node.scoreboard.sampler import Sampler, Workforce
from pooltasks.node.scoreboard.scoreboard import Scoreboard
from pooltasks.node.worker.events import OperationEvents
from pooltasks.pool_settings import Objective
from pooltasks.pools import Pool
from pooltasks.settings import Settings
from pooltasks.task import clocked
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import redis
    from prometheus_client import Metric

ON = Candidate("on", "ours", "library")
OFF = Candidate("off", "ours_unobserved", "library")

_EVENTS = 4
"""Events of an operation in a worker: checkout, start, stop, checkin."""
_REPEATED = 20
_MANY = 2000
_NODES = 4
_WORKERS = 4
_RATE = 300
"""Operations that a node runs a second."""
_OPERATIONS, _FEW = 40, 5
"""Different operations of a node: more than are counted by name, and a usual number."""
_STORED_SECONDS = 300
"""Seconds of samples of a busy node whose size is measured."""
_POOLS, _BY_POOL = 50, 200
_POOL = "benchmark"
_LOOKS = 5


class Figure(NamedTuple):
    """One measured number and its bound."""

    what: str
    value: float
    unit: str
    at_most: float
    """The bound; of a ratio of throughputs the least that is allowed."""
    is_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the number is within its bound."""
        return self.value >= self.at_most if self.is_least else self.value <= self.at_most

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "MISSED"
        sign = "≥" if self.is_least else "≤"
        number = f"{self.value:10.3f} {self.unit}"
        return f"{verdict:<6}  {self.what:<52} {number:<18} ({sign} {self.at_most:g})"


@dataclass(frozen=True)
class Throughput:
    """Rounds with telemetry and metrics, and without."""

    on: list[Round]
    off: list[Round]

    def figures(self) -> list[Figure]:
        """Return the medians of the quotients of each round."""
        pairs = list(zip(self.on, self.off, strict=True))
        return [
            Figure(
                "throughput, on ÷ off",
                median(on.drain / off.drain for on, off in pairs),
                "",
                0.97,
                is_least=True,
            ),
            Figure(
                "CPU of an operation, on ÷ off",
                median(on.cpu / off.cpu for on, off in pairs),
                "",
                1.03,
            ),
        ]


def throughput(rounds: int, size: Size, client: redis.Redis, url: str, folder: Path) -> Throughput:
    """Drain the same backlog with telemetry and without, in turn; the first of them alternates.

    Raises:
        BrokenRoundError: A node did not do its task.
    """
    measured: dict[str, list[Round]] = {ON.name: [], OFF.name: []}
    for number in range(rounds):
        for candidate in (ON, OFF) if number % 2 else (OFF, ON):
            click.echo(f"round {number + 1} of {rounds}: telemetry {candidate.name}", err=True)
            result, _ = measure(candidate, size, client, url, folder)
            measured[candidate.name].append(result)
    return Throughput(measured[ON.name], measured[OFF.name])


def event() -> Figure:
    """Measure the events of an operation in a worker, down to the stores in the worker's row."""
    app = _application("redis://127.0.0.1:1", [_POOL], _POOL)
    events = OperationEvents(app, _POOL, Row())
    request = {"id": "one", "published_at": time.time(), "delivery_info": {}}

    def operation() -> None:
        events.start("benchmarks.noop", request)
        clocked.run = 0.001
        events.finish(None)

    return Figure("an event in a worker", 1e6 * _least(operation) / _EVENTS, "µs", 2.0)


def _least(function: Callable[[], None]) -> float:
    """Return the seconds of a call, the least of several series."""

    def series() -> float:
        started = time.perf_counter()
        for _ in range(_MANY):
            function()
        return time.perf_counter() - started

    return min(series() for _ in range(_REPEATED)) / _MANY


def stored(client: redis.Redis, url: str) -> list[Figure]:
    """Measure the samples of a busy node: their cost for the node, for Redis and for a reader."""
    client.flushall()
    app = _application(url, [_POOL], _POOL)
    pool = Pool(_POOL, app)
    with _idle_processes() as pids:
        few = _Node(app, pids, _FEW)
        lightly = [few.second() for _ in range(_STORED_SECONDS)]
        client.flushall()
        node = _Node(app, pids, _OPERATIONS)
        heavily = [node.second() for _ in range(_STORED_SECONDS)]
    streams = [
        keys.node_samples(_POOL, node.sampler.node),
        keys.node_operations(_POOL, node.sampler.node),
    ]
    sizes: list[Any] = [client.memory_usage(stream, samples=0) for stream in streams]
    _spread(client, streams)
    known = sum(point.work.operations is not None for point in pool.history(HISTORY))
    if known < HISTORY - 5:
        raise RuntimeError(f"of an hour only {known} seconds are known")
    return [
        Figure(f"CPU of a node's sample, {_FEW} operations", 1000 * mean(lightly), "ms", 2.0),
        Figure(
            f"CPU of a node's sample, {_OPERATIONS} operations", 1000 * mean(heavily), "ms", 2.0
        ),
        Figure(
            f"an hour of a pool with {_NODES} nodes in Redis",
            _NODES * sum(sizes) * HISTORY / _STORED_SECONDS / 1e6,
            "MB",
            20.0,
        ),
        Figure(
            f"an hour of {_NODES} nodes read and merged",
            1000 * _median(lambda: pool.history(HISTORY)),
            "ms",
            150.0,
        ),
        Figure("its last minute, by operation too", 1000 * _median(pool.metrics), "ms", 50.0),
    ]


def _spread(client: redis.Redis, streams: Sequence[str]) -> None:
    """Write the samples and records of a node again, as an hour of several up to now."""
    now = float(client.time()[0])
    entries: list[Any] = [client.xrange(stream) for stream in streams]
    samples, records = entries
    client.delete(keys.pool_nodes(_POOL), *streams)
    for node in (f"node-{number}" for number in range(_NODES)):
        pipeline = client.pipeline(transaction=False)
        pipeline.zadd(keys.pool_nodes(_POOL), {node: now})
        for number in range(int(HISTORY)):
            _, fields = samples[number % len(samples)]
            *before, encoded = fields[b"sample"].split(b" ", 3)
            sample = replace(Sample.decode(encoded), number=number)
            entry = int((now - HISTORY + number) * 1000)
            whole: dict[Any, Any] = {"sample": b" ".join((*before, sample.encode()))}
            pipeline.xadd(keys.node_samples(_POOL, node), whole, id=entry)
        span = HISTORY / _STORED_SECONDS * len(records)
        for number in range(int(span)):
            entry = int((now - HISTORY * (1 - number / span)) * 1000)
            pipeline.xadd(
                keys.node_operations(_POOL, node), records[number % len(records)][1], id=entry
            )
        pipeline.execute()


@contextmanager
def _idle_processes() -> Iterator[tuple[int, ...]]:
    """Fork the workers whose memory and processor time are read."""
    pids = []
    for _ in range(_WORKERS):
        pid = os.fork()
        if not pid:
            signal.pause()
        pids.append(pid)
    try:
        yield tuple(pids)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


class _Node:
    """A node whose workers run operations of many kinds, each a little different."""

    def __init__(self, app: PoolApp, pids: tuple[int, ...], operations: int) -> None:
        board = Scoreboard()
        self._rows = [board.row(index) for index in range(_WORKERS)]
        self._operations = operations
        self._source = random.Random(1)  # noqa: S311  no secret
        workforce = Workforce(_WORKERS, _WORKERS, 0, 0, 0, pids)
        self.sampler = Sampler(app, _POOL, "node", board, lambda: workforce, room=lambda _: None)

    def second(self) -> float:
        """Run the operations of a second; return the CPU seconds of the sample."""
        source = self._source
        for number in range(_RATE):
            row = self._rows[number % _WORKERS]
            name = f"workers.code.operation_{source.randrange(self._operations)}"
            wait, run = source.expovariate(50), source.expovariate(10)
            row.start(name, wait, time.monotonic())
            row.finish(name, ended(Outcome.SUCCESS), run, wait + run, time.monotonic())
        began = time.thread_time()
        self.sampler.sample()
        return time.thread_time() - began


def scrape(client: redis.Redis, url: str) -> list[Figure]:
    """Measure ``/metrics`` of 50 pools with 200 operations each, which end in every way."""
    client.flushall()
    pools = [f"pool-{number}" for number in range(_POOLS)]
    app = _application(url, pools, None)
    for pool in pools:
        store = SampleStore(client, pool, [keys.queue(pool)], Objective())
        for number in range(2):
            store.write("node", _sample(number), outcomes=_OUTCOMES)
    standings = Standings(app, client)
    standings.read()  # health is known from the second time on

    def read() -> list[Metric]:
        return families(standings.pools, standings.read(), up=True)

    registry = CollectorRegistry()
    registry.register(_Fixed(read()))
    text = generate_latest(registry).decode()
    series = sum(not line.startswith("#") for line in text.splitlines())
    return [
        Figure("/metrics written", 1000 * _median(lambda: generate_latest(registry)), "ms", 50.0),
        Figure("/metrics read from Redis, once a second", 1000 * _median(read), "ms", 100.0),
        Figure("series of /metrics", series, "", 5000),
    ]


_OUTCOMES = {
    f"workers.code.operation_{number}": dict.fromkeys(Outcome, 1) for number in range(_BY_POOL)
}


def _sample(number: int) -> Sample:
    counts = Counts(
        outcomes=Counter(dict.fromkeys(Outcome, 1)),
        categories=Counter(dict.fromkeys(Category, 1)),
        busy=0.5,
        process=1.0,
    )
    for seconds in (0.001, 0.01, 0.1, 1.0, 10.0):
        counts.wait.add(seconds)
        counts.run.add(seconds)
    used = Resources(node_cpu=0.1, workers_cpu=0.5, node_rss=1, workers_rss=1, pss=1)
    return Sample(
        number,
        1.0,
        size=4,
        warm=4,
        busy=2,
        reserved=0,
        reserved_age=0.0,
        counts=counts,
        resources=used,
    )


class _Fixed(MetricCollector):
    """Metric families that were made before."""

    def __init__(self, made: list[Metric]) -> None:
        self._made = made

    def collect(self) -> list[Metric]:
        return self._made


def _median(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    seconds = []
    for _ in range(_LOOKS):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def _application(url: str, pools: Sequence[str], serves: str | None) -> PoolApp:
    """Return an application with some pools, in the process of a node of one of them."""
    app = PoolApp("benchmark", set_as_current=False)
    settings = Settings.load(redis_url=url, pools={pool: {} for pool in pools})
    app._extension = Extension(settings, pool=serves)  # noqa: SLF001  as a node is given its pool
    return app
