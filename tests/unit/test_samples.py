"""Samples of several nodes become one view of a pool; what is missing stays missing."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest

from pooltasks import keys
from pooltasks.errors import Category
from pooltasks.metrics.collector import Collector
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.health import health
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.sample import FORMAT, OperationRecord, Resources, Sample
from pooltasks.metrics.samples import HISTORY, SampleStore
from pooltasks.metrics.view import Quantiles
from pooltasks.pool_settings import Objective
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    import redis

LISTS = ["pool.code", "pool.code\x06\x163"]


@pytest.fixture(autouse=True)
def frozen_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's clock stands still, a quarter into a second."""
    monkeypatch.setattr(time, "time", lambda: 1_800_000_003.25)


@pytest.fixture
def client() -> redis.Redis:
    return fakeredis.FakeRedis()


@pytest.fixture
def store(client: redis.Redis) -> SampleStore:
    return SampleStore(client, "code", LISTS, Objective())


@pytest.fixture
def collector(store: SampleStore) -> Collector:
    return Collector(store, Objective())


def histogram(*values: float) -> Histogram:
    its = Histogram()
    for value in values:
        its.add(value)
    return its


def sample(number: int = 0, **changes: Any) -> Sample:
    values = {
        "interval": 1.0,
        "size": 2,
        "warm": 2,
        "busy": 0,
        "reserved": 0,
        "reserved_age": 0.0,
        "counts": Counts(process=2.0),
    }
    return Sample(number, **{**values, **changes})


def worked(successes: int, failures: int = 0) -> Counts:
    return Counts(
        outcomes=Counter({Outcome.SUCCESS: successes, Outcome.FAILURE: failures}),
        categories=Counter({Category.PYTHON: failures}),
        busy=1.0,
        process=2.0,
        wait=histogram(*[0.001] * (successes + failures)),
        run=histogram(*[0.1] * (successes + failures)),
        latency=histogram(*[0.101] * (successes + failures)),
    )


def now_of(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return float(seconds) + microseconds / 1e6


def put(client: redis.Redis, node: str, its: Sample, age: float, depth: int = 0) -> None:
    """Store a sample as it would have been written ``age`` seconds ago."""
    at = now_of(client) - age
    client.xadd(
        keys.node_samples("code", node),
        {"sample": FORMAT + f"{depth}  ".encode() + its.encode()},
        id=f"{int(at * 1000)}-{its.number}",
    )
    client.zadd(keys.pool_nodes("code"), {node: at})


def message(published_at: Any = None, body: str = "x") -> str:
    headers = {"argsrepr": '("published_at": 5)', "published_at": published_at}
    if published_at is None:
        del headers["published_at"]
    return json.dumps({"body": body, "headers": headers, "properties": {}})


def test_a_sample_is_read_as_it_was_written(store: SampleStore) -> None:
    written = sample(
        7,
        busy=1,
        reserved=3,
        reserved_age=0.5,
        counts=Counts(
            outcomes=Counter({Outcome.SUCCESS: 5, Outcome.LOST: 1}),
            categories=Counter({Category.COMMUNICATION: 1}),
            recoveries=1,
            busy=1.25,
            process=4.0,
            wait=histogram(0.01, 0.2),
            run=histogram(0.1, 3.0),
            latency=histogram(0.11, 3.2),
        ),
        warming=1,
        spares=2,
        overflow=3,
        resources=Resources(0.25, 1.5, 60 << 20, 200 << 20, 110 << 20),
    )
    store.write("a", written)
    samples = store.read(10).samples
    (read,) = samples["a"]
    assert read.sample == written


def test_every_key_has_a_time_to_live(store: SampleStore, client: redis.Redis) -> None:
    store.write("a", sample(), OperationRecord(0, 1.0, {"echo": worked(1)}))
    found = {key.decode() for key in client.keys("*")}
    assert len(found) == 5
    totals = keys.pool_totals("code")
    assert 86_000 < client.ttl(totals) <= 86_400
    assert all(HISTORY < client.ttl(key) <= HISTORY + 60 for key in found - {totals})


def test_the_queue_is_read_with_all_its_lists_and_the_oldest_message(
    store: SampleStore, client: redis.Redis
) -> None:
    assert store.write("a", sample()).oldest_age == 0.0
    now = now_of(client)
    client.lpush(LISTS[0], message(now - 30), message(now - 20))
    client.lpush(LISTS[1], message(now - 50))
    queue = store.write("a", sample(1))
    assert queue.depth == 3
    assert queue.oldest_age == pytest.approx(50, abs=0.5)


@pytest.mark.parametrize(
    "unknown", [message(None), message("soon"), message(-1e300), message(1e99), "no JSON"]
)
def test_an_age_that_no_message_tells_is_missing(
    store: SampleStore, client: redis.Redis, unknown: str
) -> None:
    client.lpush(LISTS[0], unknown)
    queue = store.write("a", sample())
    assert (queue.depth, queue.oldest_age) == (1, None)


def test_a_sample_written_twice_counts_once(store: SampleStore, collector: Collector) -> None:
    store.write("a", sample(0, counts=worked(10)))
    store.write("a", sample(1, counts=worked(5)))
    # The reply to that was lost: what came after it is written with it.
    store.write("a", sample(1, counts=worked(8)))
    assert collector.metrics().work.operations[Outcome.SUCCESS] == 18


def test_nodes_and_seconds_add_up(client: redis.Redis, collector: Collector) -> None:
    for number in range(10):
        put(client, "a", sample(number, busy=1, counts=worked(10, 2)), age=9.5 - number)
        put(client, "b", sample(number, reserved=2, counts=worked(20)), age=9.4 - number)
    client.lpush(LISTS[0], *[message(now_of(client) - 4)] * 5)

    its = collector.metrics()

    assert its.work.operations[Outcome.SUCCESS] == 300
    assert its.work.operations[Outcome.FAILURE] == 20
    assert its.work.errors == {"python": 20}
    assert its.work.error_rate == pytest.approx(20 / 320)
    assert its.work.throughput == pytest.approx(320 / 10.1, rel=0.01)
    assert its.work.utilization == pytest.approx(0.5)
    assert its.work.run.count == 320
    assert its.work.run.p99 == pytest.approx(0.1, rel=0.02)
    load = its.load
    assert (load.size, load.warm, load.busy, load.idle, load.warming) == (4, 4, 1, 3, 0)
    assert (load.queue_depth, load.reserved, load.backlog) == (5, 2, 7)
    assert load.cpu is load.memory is None  # no node has said
    assert load.oldest_age == pytest.approx(4, abs=0.5)
    assert [node.state for node in its.nodes] == ["live", "live"]


def test_a_silent_node_is_stale_then_dropped_and_what_it_did_is_kept(
    client: redis.Redis, collector: Collector
) -> None:
    put(client, "live", sample(counts=worked(1)), age=0.5)
    put(client, "stale", sample(busy=2, counts=worked(2)), age=3.2)
    put(client, "gone", sample(busy=2, counts=worked(4)), age=16)
    its = collector.metrics()
    assert {node.name: node.state for node in its.nodes} == {"live": "live", "stale": "stale"}
    assert (its.load.size, its.load.busy) == (2, 0)
    assert its.work.operations[Outcome.SUCCESS] == 7
    assert its.health.costs["workers"] == 20


def test_a_node_that_stopped_is_gone_at_once(client: redis.Redis, collector: Collector) -> None:
    put(client, "a", sample(counts=worked(3)), age=1)
    put(client, "b", sample(0, counts=worked(3)), age=2)
    put(client, "b", sample(1, size=0, warm=0, stopped=True, counts=worked(4)), age=1)
    its = collector.metrics()
    assert [node.name for node in its.nodes] == ["a"]
    assert its.load.size == 2
    assert its.work.operations[Outcome.SUCCESS] == 10


@pytest.mark.parametrize("age", [None, 5, 20])
def test_without_a_live_node_nothing_is_known_but_the_queue(
    client: redis.Redis, collector: Collector, age: float | None
) -> None:
    if age is not None:
        put(client, "a", sample(busy=1, counts=worked(3)), age=age)
    client.lpush(LISTS[0], message(now_of(client) - 9))
    its = collector.metrics()
    assert its.load.size is its.load.busy is its.load.idle is None
    assert its.load.queue_depth == 1
    assert its.load.backlog == (None if age == 5 else 1)
    assert its.work.throughput is its.work.utilization is its.work.operations is None
    assert its.health is None


def test_an_idle_pool_has_no_quantiles_and_full_health(
    client: redis.Redis, collector: Collector
) -> None:
    put(client, "a", sample(), age=0.3)
    its = collector.metrics()
    assert its.work.throughput == 0
    assert its.work.utilization == 0
    assert its.work.wait is its.work.run is its.work.error_rate is None
    assert its.load.oldest_age == 0
    assert its.health.score == 100


def test_quantiles_are_those_of_all_values() -> None:
    histogram = Histogram()
    for milliseconds in [*range(1, 9_981), *[60_000] * 20]:
        histogram.add(milliseconds / 1000)
    its = Quantiles.of(histogram)
    assert its is not None
    assert (its.p50, its.p90, its.p99, its.p999) == pytest.approx((5.0, 9.0, 9.9, 60.0), rel=0.02)
    assert its.mean == pytest.approx(5.1005, rel=1e-3)


def test_history_has_a_point_a_second_and_says_what_is_missing(
    client: redis.Redis, collector: Collector
) -> None:
    now = now_of(client)
    middle = now % 1 + 0.5  # ago: the middle of a second
    put(client, "a", sample(0, busy=1, counts=worked(4)), age=middle + 8, depth=7)
    put(client, "b", sample(0, busy=2, counts=worked(6)), age=middle + 8 - 0.1, depth=5)
    put(client, "a", sample(1, counts=worked(1)), age=middle)
    points = collector.history(12)
    assert len(points) == 12
    assert [point.complete for point in points] == [True] * 11 + [False]
    by_age = {int(points[-1].at - point.at): point for point in points}
    both = by_age[9]
    assert both.work.operations[Outcome.SUCCESS] == 10
    assert (both.load.busy, both.load.size, both.load.queue_depth) == (3, 4, 5)
    # A second without a sample: what was counted is unknown, the rest lasts while not stale.
    assert by_age[8].work.throughput is None
    assert by_age[8].load.busy == 3
    assert by_age[4].load.busy is None
    assert by_age[11].load.size is None
    assert by_age[1].work.throughput == 1


def test_a_node_that_samples_every_ten_seconds_is_live_in_between(
    client: redis.Redis, store: SampleStore
) -> None:
    slow = Collector(store, Objective(), interval=10.0)
    middle = now_of(client) % 10
    for number in range(3):
        its = sample(number, interval=10.0, busy=1, counts=worked(50))
        put(client, "a", its, age=middle + 5 + 10 * (2 - number))
    assert [node.state for node in slow.metrics().nodes] == ["live"]
    points = slow.history(40)
    assert [point.at - points[0].at for point in points] == [0, 10, 20, 30]
    assert [point.work.throughput for point in points][-2] == 5.0
    assert points[-1].load.busy == 1


def test_longer_steps_merge_counts_and_keep_peaks(
    client: redis.Redis, collector: Collector
) -> None:
    now = now_of(client)
    middle = now % 1 + 0.5
    for number in range(300):
        spike = number == 137
        its = sample(number, busy=2 if spike else 0, counts=worked(1))
        put(client, "a", its, age=middle + 299 - number, depth=99 if spike else 1)
    fine, coarse = collector.history(300), collector.history(320, step=20)
    assert len(coarse) == 16
    assert max(point.load.busy or 0 for point in coarse) == 2
    assert max(point.load.queue_depth or 0 for point in coarse) == 99

    def total(points: list) -> int:
        return sum(p.work.operations[Outcome.SUCCESS] for p in points if p.work.operations)

    assert total(coarse) == 300
    assert total(fine) == 299  # the second that goes on is one of them
    assert coarse[5].work.throughput == 1


def test_what_was_done_by_operation_adds_up_too(store: SampleStore, collector: Collector) -> None:
    store.write("a", sample(0), OperationRecord(0, 1.0, {"echo": worked(3), "work": worked(2, 1)}))
    store.write("a", sample(1))
    # Its reply was lost: it is written again with what came after it.
    store.write("a", sample(2), OperationRecord(2, 2.0, {"echo": worked(4)}))
    store.write("a", sample(2), OperationRecord(2, 2.0, {"echo": worked(6)}))
    store.write("b", sample(0), OperationRecord(0, 1.0, {"work": worked(5)}))
    its = collector.metrics().by_operation
    assert its is not None
    assert list(its) == ["echo", "work"]
    assert its["echo"].operations[Outcome.SUCCESS] == 9
    assert its["work"].operations[Outcome.SUCCESS] == 7
    assert its["work"].errors == {"python": 1}
    assert its["work"].run.count == 8
    assert its["work"].latency.p99 == pytest.approx(0.101, rel=0.02)
    assert its["work"].busy == 2.0


@pytest.mark.parametrize(
    ("changes", "costs"),
    [
        ({}, {}),
        ({"warm": 3}, {"workers": 10}),
        ({"warm": 0}, {"workers": 40}),
        ({"failed": 1, "finished": 1}, {"errors": 25}),
        ({"failed": 10, "finished": 1000}, {"errors": 5}),
        ({"late": 0.01}, {}),
        ({"late": 0.055}, {"waiting": 12.5}),
        ({"late": None, "oldest_age": 60.0}, {"waiting": 25}),
        ({"oldest_age": None}, {}),
        ({"recoveries": 2}, {"recoveries": 5}),
    ],
)
def test_health_says_what_costs_how_much(changes: dict[str, Any], costs: dict[str, float]) -> None:
    values = {
        "wanted": 4,
        "warm": 4,
        "failed": 0,
        "finished": 100,
        "late": 0.0,
        "allowed_late": 0.01,
        "oldest_age": 0.0,
        "allowed_wait": 0.05,
        "recoveries": 0,
    }
    its = health(**{**values, **changes})
    assert {name: cost for name, cost in its.costs.items() if cost} == pytest.approx(costs)
    assert its.score == pytest.approx(100 - sum(costs.values()))
