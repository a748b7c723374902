"""What the pages say of each operation: what ``Pool.metrics()`` says of it."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pooltasks import keys
from pooltasks.dashboard.by_operation import RecentOperations
from pooltasks.metrics.collector import Collector
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.sample import FORMAT, OperationRecord, Sample
from pooltasks.metrics.samples import SampleStore
from pooltasks.pool_settings import Objective
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import redis

NODES = ["code@a/1", "code@b/2"]


@pytest.fixture
def client() -> redis.Redis:
    return pytest.importorskip("fakeredis").FakeRedis()


@pytest.fixture
def store(client: redis.Redis) -> SampleStore:
    return SampleStore(client, "code", ["pool.code"], Objective())


@pytest.fixture
def beside() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def did(*runs: float, failures: int = 0) -> Counts:
    run = Histogram()
    for seconds in runs:
        run.add(seconds)
    outcomes = {Outcome.SUCCESS: len(runs) - failures, Outcome.FAILURE: failures}
    return Counts(outcomes=Counter(outcomes), busy=sum(runs), wait=run, run=run)


class Pool:
    """Two nodes, at a time that the test sets: fakeredis takes the times of its entries from us."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.begin = float(client.time()[0]) - 1000
        self.now = 0.0

    def write(self, node: str, number: int, at: float, counts: Mapping[str, Counts]) -> None:
        entry = f"{int((self.begin + at) * 1000)}-0"
        record = FORMAT + OperationRecord(number, 1.0, counts).encode()
        self.client.xadd(keys.node_operations("code", node), {"operations": record}, id=entry)


def expected(store: SampleStore, begin: float, now: float, window: float) -> dict[str, Counts]:
    """Return what the records of the window add up to, all read anew."""
    merged: dict[str, Counts] = {}
    for at, record in store.read_operations(NODES, begin + now - window):
        if at <= begin + now:
            for name, counts in record.counts.items():
                merged.setdefault(name, Counts()).add(counts)
    return merged


def test_records_enter_and_leave_the_window(
    client: redis.Redis, store: SampleStore, beside: Executor
) -> None:
    pool = Pool(client)
    recent = RecentOperations(store, 20, beside)
    number = 0
    for now in range(60):
        if now < 30:
            pool.write(NODES[0], number, now, {"shop.price": did(0.01 * (now + 1), 1.0)})
            number += 1
        if now % 4 == 0:
            pool.write(NODES[1], now, now, {"shop.charge": did(0.2, failures=1)})
        found = recent.update(NODES, pool.begin + now)
        assert found is not None
        its = expected(store, pool.begin, now, 20)
        assert sorted(found) == sorted(its)
        for name, work in found.items():
            assert work.operations is not None
            assert work.operations[Outcome.SUCCESS] == its[name].outcomes[Outcome.SUCCESS]
            assert work.error_rate == its[name].error_rate
            assert work.run is not None
            assert work.run.p99 == its[name].run.quantile(0.99)
            assert work.busy == pytest.approx(its[name].busy)
    assert sorted(found) == ["shop.charge"]  # the other left with its last record


def test_a_record_that_came_again_counts_once(
    client: redis.Redis, store: SampleStore, beside: Executor
) -> None:
    pool = Pool(client)
    recent = RecentOperations(store, 60, beside)
    pool.write(NODES[0], 7, 1, {"shop.price": did(0.1)})
    recent.update(NODES, pool.begin + 1)
    pool.write(NODES[0], 7, 3, {"shop.price": did(0.1, 0.2), "shop.charge": did(0.3)})
    found = recent.update(NODES, pool.begin + 3)
    assert found is not None
    counted = {name: (work.operations or {})[Outcome.SUCCESS] for name, work in found.items()}
    assert counted == {"shop.price": 2, "shop.charge": 1}


def test_numbers_are_those_of_the_collector(store: SampleStore, beside: Executor) -> None:
    sample = Sample(0, 1.0, size=1, warm=1, busy=0, reserved=0, reserved_age=0.0)
    record = OperationRecord(0, 1.0, {"shop.price": did(0.1, 0.2, 0.9, failures=1)})
    store.write(NODES[0], sample, record)
    metrics = Collector(store, Objective()).metrics(60)
    found = RecentOperations(store, 60, beside).update(NODES[:1], metrics.at)
    assert found == metrics.by_operation


def test_what_takes_long_is_read_beside_and_what_came_meanwhile_is_added(
    client: redis.Redis, store: SampleStore, beside: Executor
) -> None:
    pool = Pool(client)
    recent = RecentOperations(store, 60, beside)
    pool.write(NODES[0], 0, 1, {"shop.price": did(0.1)})
    busy = threading.Event()
    blocking = beside.submit(busy.wait)
    assert recent.update(NODES, pool.begin + 1) is None
    pool.write(NODES[0], 1, 5, {"shop.price": did(0.1)})
    assert recent.update(NODES, pool.begin + 5) is None
    busy.set()
    blocking.result()
    found = recent.update(NODES, pool.begin + 6)
    assert found is not None
    assert (found["shop.price"].operations or {})[Outcome.SUCCESS] == 2


def test_a_server_that_is_away_is_said_and_then_asked_again(
    client: redis.Redis, beside: Executor
) -> None:
    pool = Pool(client)
    pool.write(NODES[0], 0, 1, {"shop.price": did(0.1)})

    class Away(SampleStore):
        away = True

        def operation_entries(self, nodes, since):  # type: ignore[no-untyped-def]
            if self.away:
                raise ConnectionError
            return super().operation_entries(nodes, since)

    away = Away(client, "code", ["pool.code"], Objective())
    recent = RecentOperations(away, 60, beside)
    with pytest.raises(ConnectionError):
        recent.update(NODES, pool.begin + 1)
    away.away = False
    assert recent.update(NODES, pool.begin + 2) is not None
