"""A busy pool as its nodes would tell it: an hour of samples at once, then one a second."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from pooltasks import keys
from pooltasks.errors import Category
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.sample import FORMAT, OperationRecord, Resources, Sample
from pooltasks.metrics.samples import HISTORY, SampleStore
from pooltasks.pool_settings import Objective
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    import redis

NODES = 4
WORKERS = 4
OPERATIONS = [f"shop.orders.operation_{number}" for number in range(6)]
_DIFFERENT = 60
"""Samples that are made; the hour repeats them."""


class BusyPool:
    """A pool of four nodes, of which there is an hour of history and which goes on.

    Args:
        client: Of the server.
        pool: The pool's name.
    """

    def __init__(self, client: redis.Redis, pool: str) -> None:
        self._client = client
        self._pool = pool
        self._store = SampleStore(client, pool, [keys.queue(pool)], Objective())
        self._names = [f"busy{number}@host/0{number}" for number in range(NODES)]
        source = random.Random(1)
        self._made = [_second(source) for _ in range(_DIFFERENT)]
        self._number = int(HISTORY)
        self._goes_on = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._go_on)

    def __enter__(self) -> Self:
        now = float(self._client.time()[0])
        for name in self._names:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.zadd(keys.pool_nodes(self._pool), {name: now})
            for number in range(int(HISTORY)):
                sample, record = self._of(number)
                entry = f"{int((now - HISTORY + number) * 1000)}-0"
                text: dict[Any, Any] = {"sample": FORMAT + b"0  " + sample.encode()}
                pipeline.xadd(keys.node_samples(self._pool, name), text, id=entry)
                its: dict[Any, Any] = {"operations": FORMAT + record.encode()}
                pipeline.xadd(keys.node_operations(self._pool, name), its, id=entry)
            pipeline.execute()
        self._thread.start()
        assert self._goes_on.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def _of(self, number: int) -> tuple[Sample, OperationRecord]:
        sample, record = self._made[number % _DIFFERENT]
        return replace(sample, number=number), replace(record, number=number)

    def _go_on(self) -> None:
        while not self._closed.wait(1.5 - time.time() % 1):
            sample, record = self._of(self._number)
            for name in self._names:
                self._store.write(name, sample, record)
            self._number += 1
            self._goes_on.set()


def _second(source: random.Random) -> tuple[Sample, OperationRecord]:
    """Return what a node did in a second, in which its workers ran some 80 operations."""
    by_operation = {}
    for place, name in enumerate(OPERATIONS):
        wait, run, latency = Histogram(), Histogram(), Histogram()
        failed = source.random() < 0.2
        for _ in range(24 // (place + 1)):
            its_wait, its_run = source.expovariate(200), source.expovariate(30)
            wait.add(its_wait)
            run.add(its_run)
            latency.add(its_wait + its_run)
        by_operation[name] = Counts(
            outcomes=Counter({Outcome.SUCCESS: wait.count - failed, Outcome.FAILURE: failed}),
            categories=Counter({Category.PYTHON: 1} if failed else {}),
            busy=run.total,
            wait=wait,
            run=run,
            latency=latency,
        )
    counts = Counts.merged(by_operation.values())
    counts.process = float(WORKERS)
    sample = Sample(
        number=0,
        interval=1.0,
        size=WORKERS,
        warm=WORKERS,
        busy=source.randrange(WORKERS + 1),
        reserved=source.randrange(3),
        reserved_age=0.001,
        counts=counts,
        resources=Resources(0.05, counts.busy / 2, 80 << 20, 200 << 20, 180 << 20),
    )
    return sample, OperationRecord(0, 1.0, by_operation)
