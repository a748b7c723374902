"""A node that drains or stops finishes what it has: it is no capacity of its pool."""

from __future__ import annotations

from collections import Counter
from typing import Any

import fakeredis
import pytest
from celery.worker import state

from pooltasks.metrics.collector import Collector
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.sample import Sample
from pooltasks.metrics.samples import QueueState, SampleStore, StoredSample
from pooltasks.node.scoreboard.sampler import Sampler, Workforce
from pooltasks.node.scoreboard.scoreboard import Scoreboard
from pooltasks.optimizer.controller import Memory, decide
from pooltasks.optimizer.observing import Watch
from pooltasks.pool_settings import Objective, PoolSettings
from pooltasks.telemetry import Outcome

START = 1_800_000_000.0
SETTINGS = PoolSettings(pool_size=4, min_pool_size=2, max_pool_size=16)


def histogram(*values: float) -> Histogram:
    its = Histogram()
    for value in values:
        its.add(value)
    return its


def sample(number: int = 0, operations: int = 5, wait: float = 0.001, **state: Any) -> Sample:
    counts = Counts(
        outcomes=Counter({Outcome.SUCCESS: operations}),
        busy=0.1 * operations,
        process=4.0,
        wait=histogram(*[wait] * operations),
        run=histogram(*[0.1] * operations),
    )
    its = {"size": 4, "warm": 4, "busy": 1, "running": 1, "reserved": 2, "reserved_age": 0.0}
    return Sample(number, 1.0, counts=counts, **{**its, **state})


def samples(**of: dict[str, Any]) -> dict[str, list[StoredSample]]:
    """Return two seconds of samples of each node."""
    return {
        f"{node}/0": [
            StoredSample(sample(second, **its), QueueState(START + second + 0.5, 0, None))
            for second in (1, 2)
        ]
        for node, its in of.items()
    }


NOW = QueueState(START + 2.52, 0, None)
GOING = [{"draining": True}, {"stopping": True}]


@pytest.mark.parametrize("going", GOING)
def test_it_is_observed_for_its_work_only(going: dict[str, Any]) -> None:
    both = samples(a={}, b={**going, "wait": 3.0})
    one, two = Watch().observe(NOW, both, wait=0.05, size=4, interval=1.0)[-2:]
    assert one.warm == two.warm == 4
    assert two.busy == pytest.approx(0.5)
    assert (two.started, two.late, two.waiting) == (5, 0, 2)
    assert (two.completed, two.arrivals) == (10, 10)


@pytest.mark.parametrize("going", GOING)
def test_it_is_given_no_share_and_told_nothing(going: dict[str, Any]) -> None:
    memory = Memory("objective", None, Watch())
    decision = decide(SETTINGS, memory, NOW, samples(a={}, b=going))
    assert decision is not None
    assert decision.before == 4
    assert decision.nodes.keys() == {"a"}


def test_a_pool_that_drains_as_a_whole_keeps_its_size_and_says_so() -> None:
    memory = Memory("objective", None, Watch())
    decision = decide(SETTINGS, memory, NOW, samples(a={"draining": True}))
    assert decision is not None
    assert decision.reason == "Hold the size: every live node is draining."
    assert decision.target is None
    assert not decision.told


@pytest.mark.parametrize("going", GOING)
def test_it_is_shown_and_counts_for_what_is_under_way_only(going: dict[str, Any]) -> None:
    client = fakeredis.FakeRedis()
    store = SampleStore(client, "code", ["pool.code"], Objective())
    store.write("a", sample())
    store.write("b", sample(**going, warm=2))
    metrics = Collector(store, Objective()).metrics(60)
    assert [node.state for node in metrics.nodes] == ["live", "draining"]
    load = metrics.load
    assert (load.size, load.warm, load.idle, load.capacity) == (4, 4, 3, 4)
    assert (load.busy, load.running, load.reserved) == (2, 2, 4)
    assert metrics.health is not None
    assert metrics.health.costs["workers"] == 0


def test_a_pool_without_a_node_that_takes_operations_is_not_healthy() -> None:
    client = fakeredis.FakeRedis()
    store = SampleStore(client, "code", ["pool.code"], Objective())
    store.write("a", sample(draining=True))
    health = Collector(store, Objective()).metrics(60).health
    assert health is not None
    assert health.costs["workers"] == 40


@pytest.mark.parametrize(("drain", "stop"), [(True, None), (False, 0), (False, None)])
def test_a_node_samples_what_it_was_told(
    make_app: Any, monkeypatch: pytest.MonkeyPatch, drain: bool, stop: int | None
) -> None:
    monkeypatch.setattr(state, "should_stop", stop)
    client = fakeredis.FakeRedis()
    monkeypatch.setattr("pooltasks.node.scoreboard.sampler.impatient_client", lambda _: client)
    app = make_app(pools={"code": {}})
    workforce = Workforce(4, 4, 0, 0, 0, (), draining=drain)
    sampler = Sampler(app, "code", "a", Scoreboard(), lambda: workforce, room=lambda _: None)
    sampler.sample()
    store = SampleStore(client, "code", ["pool.code"], Objective())
    ((stored,),) = store.read(60).samples.values()
    assert stored.sample.draining is drain
    assert stored.sample.stopping is (stop is not None)
    assert stored.sample.serves is (not drain and stop is None)
