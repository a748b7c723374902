"""What a pool ever did is counted once, whatever becomes of its nodes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import fakeredis
import pytest

from pooltasks import keys
from pooltasks.errors import Category
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.histogram import BUCKETS, Histogram, bucket_of, lower_bound
from pooltasks.metrics.sample import Resources, Sample
from pooltasks.metrics.samples import SampleStore
from pooltasks.metrics.totals import MOST_NAMED, Totals, bounds, by_name
from pooltasks.pool_settings import Objective
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    import redis

OBJECTIVE = Objective(wait_ms=40, quantile=0.99)


@pytest.fixture
def client() -> redis.Redis:
    return fakeredis.FakeRedis()


@pytest.fixture
def store(client: redis.Redis) -> SampleStore:
    return SampleStore(client, "code", ["pool.code"], OBJECTIVE)


def sample(number: int, counts: Counts) -> Sample:
    return Sample(
        number, interval=1.0, size=1, warm=1, busy=0, reserved=0, reserved_age=0.0, counts=counts
    )


def counted(*waits: float, failures: int = 0) -> Counts:
    histogram = Histogram()
    for wait in waits:
        histogram.add(wait)
    return Counts(
        outcomes=Counter({Outcome.SUCCESS: len(waits) - failures, Outcome.FAILURE: failures}),
        categories=Counter({Category.PYTHON: failures}),
        recoveries=failures,
        busy=0.25,
        process=1.0,
        wait=histogram,
        run=histogram,
    )


def totals(client: redis.Redis) -> Totals:
    its = Totals.of(client.hgetall(keys.pool_totals("code")))
    assert its is not None
    return its


def test_the_samples_of_all_nodes_add_up_to_one_total(
    client: redis.Redis, store: SampleStore
) -> None:
    for number in range(5):
        store.write("a", sample(number, counted(0.001, 0.039, 0.5)))
        store.write("b", sample(number, counted(0.042, failures=1)))
    its = totals(client)
    assert its.counts.outcomes == {Outcome.SUCCESS: 15, Outcome.FAILURE: 5}
    assert its.counts.categories == {Category.PYTHON: 5}
    assert its.counts.recoveries == 5
    assert its.counts.busy == pytest.approx(2.5)
    assert its.counts.process == pytest.approx(10)
    assert its.late == 10
    assert its.counts.wait.count == its.counts.run.count == 20
    assert its.counts.wait.total == pytest.approx(5 * 0.582)


def test_a_sample_that_is_written_again_adds_what_is_new(
    client: redis.Redis, store: SampleStore
) -> None:
    store.write("a", sample(0, counted(0.01)))
    store.write("a", sample(1, counted(0.01)))
    # The reply to that was lost: what came after it is written with it, more than once.
    store.write("a", sample(1, counted(0.01, 0.3, 0.3)))
    store.write("a", sample(1, counted(0.01, 0.3, 0.3, failures=2)))
    store.write("a", sample(2, counted(0.01)))
    its = totals(client)
    assert its.counts.wait.count == 5
    assert its.late == 2
    assert its.counts.process == pytest.approx(3)
    assert its.counts.categories == {Category.PYTHON: 2}


def test_a_node_that_starts_again_goes_on_from_there(
    client: redis.Redis, store: SampleStore
) -> None:
    store.write("a/1", sample(0, counted(0.01)))
    before = totals(client).counts
    store.write("a/2", sample(0, counted(0.01)))
    assert totals(client).counts.wait.count == before.wait.count + 1


def test_an_idle_pool_has_totals_of_zero_and_one_without_samples_none(
    client: redis.Redis, store: SampleStore
) -> None:
    assert Totals.of(client.hgetall(keys.pool_totals("code"))) is None
    store.write("a", sample(0, Counts()))
    assert totals(client) == Totals(Counts(), late=0, cpu=0.0)


def test_processor_time_adds_up(client: redis.Redis, store: SampleStore) -> None:
    for node, used in (("a", 0.25), ("b", 0.5)):
        its = Resources(node_cpu=used, workers_cpu=1.0, node_rss=1, workers_rss=1, pss=None)
        store.write(node, replace(sample(0, Counts()), resources=its))
    assert totals(client).cpu == pytest.approx(2.75)


def test_each_operation_has_totals_by_outcome_that_outlive_nodes(
    client: redis.Redis, store: SampleStore
) -> None:
    def named() -> dict[str, Counter[Outcome]]:
        return by_name(client.hgetall(keys.pool_totals_by_name("code")))

    assert named() == {}
    success, retry = Outcome.SUCCESS, Outcome.RETRY
    store.write("a/1", sample(0, Counts()), outcomes={"shop.buy": {success: 2}})
    store.write("a/1", sample(1, Counts()), outcomes={"shop.buy": {success: 1}})
    # The reply to that was lost: it is written again, with what came after it.
    store.write(
        "a/1", sample(1, Counts()), outcomes={"shop.buy": {success: 4, retry: 1}, "b:c": {retry: 1}}
    )
    store.write("a/2", sample(0, Counts()), outcomes={"shop.buy": {success: 1}})
    assert named() == {"shop.buy": {success: 7, retry: 1}, "b:c": {retry: 1}}


def test_operations_beyond_the_first_ones_are_counted_together(
    client: redis.Redis, store: SampleStore
) -> None:
    for number in range(2):
        for operation in range(MOST_NAMED + 10):
            one = sample(number * 100 + operation, Counts())
            store.write("a", one, outcomes={f"shop.{operation}": {Outcome.SUCCESS: 1}})
    # A node has a rest of its own.
    store.write("b", sample(0, Counts()), outcomes={"other": {Outcome.SUCCESS: 5}})
    named = by_name(client.hgetall(keys.pool_totals_by_name("code")))
    assert list(named) == [*(f"shop.{number}" for number in range(MOST_NAMED)), "other"]
    assert named["shop.0"] == {Outcome.SUCCESS: 2}
    assert named["other"] == {Outcome.SUCCESS: 25}


def test_few_buckets_say_exactly_what_the_fine_ones_say(
    client: redis.Redis, store: SampleStore
) -> None:
    source = random.Random(5)
    waits = [source.lognormvariate(-3, 2.5) for _ in range(3000)]
    for number in range(30):
        store.write("a", sample(number, counted(*waits[number * 100 : number * 100 + 100])))
    its = totals(client)
    for bound in bounds(OBJECTIVE):
        within = sum(n for bucket, n in its.counts.wait.counts.items() if bucket <= bound)
        assert within == sum(wait < lower_bound(bound + 1) for wait in waits)
    assert its.counts.wait.count == 3000
    assert its.late == sum(bucket_of(wait) > bucket_of(0.04) for wait in waits)
    assert set(its.counts.wait.counts) <= {*bounds(OBJECTIVE), BUCKETS - 1}


def test_another_objective_changes_nothing_that_was_counted(
    client: redis.Redis, store: SampleStore
) -> None:
    store.write("a", sample(0, counted(0.03, 0.03, 0.05)))
    strict = SampleStore(client, "code", ["pool.code"], Objective(wait_ms=20))
    strict.write("b", sample(0, counted(0.03)))
    assert totals(client).late == 2


def test_amounts_of_a_long_outage_are_exact(client: redis.Redis, store: SampleStore) -> None:
    store.write("a", sample(0, Counts(process=1e9, busy=123_456_789.123456)))
    its = totals(client).counts
    assert its.process == 1e9
    assert its.busy == 123_456_789.123456
