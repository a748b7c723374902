"""What applications record for the optimizer: it is added to what nodes measure, for a while."""

from __future__ import annotations

import time
from dataclasses import replace

import fakeredis
import pytest

from pooltasks import Pool, keys
from pooltasks.metrics import announced as announcing
from pooltasks.metrics.announced import Announced, standing
from pooltasks.metrics.decisions import DecisionStore
from pooltasks.optimizer.observing import with_announced
from pooltasks.optimizer.policies import Limits, Objective, Observation, Rules
from pooltasks.optimizer.staffing import Goal

SEEN = Observation(
    now=100.0,
    seconds=1.0,
    arrivals=40,
    waiting=2,
    started=40,
    late=0,
    wait_sum=0.4,
    completed=40,
    service_sum=4.0,
    service_squares=0.8,
    busy=4.0,
    size=8,
    warm=8,
    failed=1,
)


@pytest.fixture
def client():
    return fakeredis.FakeRedis(server_type="valkey")


@pytest.fixture
def pool(make_app, client, monkeypatch):
    monkeypatch.setattr("pooltasks.pools.redis_client", lambda _: client)
    return Pool("code", make_app(pools={"code": {}}))


def announced(client):
    return DecisionStore(client, "code").begin().announced


def test_a_turn_finds_what_was_recorded(pool, client):
    pool.record_metrics(queue_depth=40, throughput=120.5)
    assert announced(client) == Announced(queue_depth=40, throughput=120.5)
    assert DecisionStore(client, "code").memory().announced == Announced(40, 120.5)


def test_a_source_replaces_what_it_said_and_counts_of_several_add_up(pool, client):
    pool.record_metrics(queue_depth=40, utilization=0.2)
    pool.record_metrics(queue_depth=10, utilization=0.5, source="web-1")
    pool.record_metrics(queue_depth=5, avg_wait_time=0.3)
    assert announced(client) == Announced(queue_depth=15, utilization=0.5, avg_wait_time=0.3)


def test_what_is_over_is_forgotten_and_nothing_is_kept_for_ever(pool, client):
    pool.record_metrics(queue_depth=1, source="short", seconds=0.001)
    pool.record_metrics(queue_depth=2, source="long", seconds=30)
    deadline = time.monotonic() + 5
    while client.hlen(keys.announced("code")) > 1 and time.monotonic() < deadline:
        pool.record_metrics(queue_depth=2, source="long", seconds=30)
    assert announced(client) == Announced(queue_depth=2)
    assert 0 < client.pttl(keys.announced("code")) <= 30_000
    fields = client.hgetall(keys.announced("code"))
    assert standing(fields, time.time() + 31) is None


def test_figures_of_another_version_are_left_out():
    fields = {b"a": b'9 {"queue_depth": 3, "news": 1}', b"b": b'9 {"news": 1}'}
    assert standing(fields, 8.0) == Announced(queue_depth=3)


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({}, "no figure"),
        ({"queue_depth": -1}, "queue_depth"),
        ({"throughput": float("inf")}, "throughput"),
        ({"utilization": 1.1}, "allowed: 0 to 1"),
        ({"error_rate": float("nan")}, "error_rate"),
        ({"queue_depth": 1, "seconds": 0}, "seconds is 0"),
        ({"queue_depth": 1, "seconds": announcing.LONGEST + 1}, "seconds"),
    ],
)
def test_what_is_no_figure_is_refused_and_nothing_is_stored(pool, client, figures, said):
    with pytest.raises(ValueError, match=said):
        pool.record_metrics(**figures)
    assert not client.exists(keys.announced("code"))


def test_it_adds_to_what_was_measured_and_never_hides_it():
    more = with_announced(
        SEEN,
        Announced(
            queue_depth=10,
            throughput=100,
            active_checkouts=6,
            avg_wait_time=0.2,
            error_rate=0.5,
        ),
    )
    assert more == replace(SEEN, waiting=12, announced=60, busy=6.0, wait_sum=8.0, failed=20)
    assert with_announced(SEEN, Announced(0, 1, 0, 0.0, 0.0, 0.0)) == SEEN


def test_the_objective_staffs_for_an_announced_rate_and_learns_nothing_of_it():
    def after(seconds, throughput):
        policy = Objective(Limits(1, 500), Goal(0.05, 0.99))
        size = 8
        for second in range(seconds):
            seen = replace(SEEN, now=100.0 + second, size=size, warm=size, waiting=0)
            if throughput:
                seen = with_announced(seen, Announced(throughput=throughput))
            size = policy.observe(seen).target
        return size, policy.snapshot()

    plain, _ = after(30, 0)
    expecting, memory = after(30, 200)
    assert plain < 14
    assert expecting >= 20  # 200/s × 0.1 s are 20 busy slots
    learned = Objective(Limits(1, 500), Goal(0.05, 0.99))
    learned.restore(memory)
    assert learned._correction == 0.0


def test_the_rules_follow_the_documents_figures():
    policy = Rules(Limits(1, 50))
    seen = replace(SEEN, size=4, warm=4, busy=1.4, waiting=0)
    told = Announced(queue_depth=10, utilization=0.95)
    targets = {
        policy.observe(with_announced(replace(seen, now=100.0 + second), told)).target
        for second in range(61)
    }
    assert targets == {4, 7}
