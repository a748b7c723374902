"""The optimizer sees no wait of an operation that its limits may have held back."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import fakeredis

from pooltasks.broker.limiting import Limits
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.sample import Sample
from pooltasks.metrics.samples import QueueState, SampleStore, StoredSample
from pooltasks.node.scoreboard.sampler import Sampler, Workforce
from pooltasks.node.scoreboard.scoreboard import Activity
from pooltasks.optimizer.observing import Watch
from pooltasks.pool_settings import Objective
from pooltasks.task import Operation
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    import pytest


def waits(*seconds: float) -> Histogram:
    its = Histogram()
    for each in seconds:
        its.add(each)
    return its


def run() -> None:
    """Do nothing."""


def test_what_a_limit_holds_back_is_not_late() -> None:
    counts = Counts(
        outcomes=Counter({Outcome.SUCCESS: 5}),
        wait=waits(0.001, 0.2, 30.0, 40.0, 50.0),
        limited=waits(30.0, 40.0, 50.0),
        run=waits(*[0.1] * 5),
    )
    sample = Sample(0, 1.0, 2, 2, 0, 0, 0.0, counts=counts)
    samples = {"a": [StoredSample(sample, QueueState(10.5, 0, None))]}
    watch = Watch.restored({"period": 9, "at": 9.5, "inside": 0, "seen": {}})
    (seen,) = watch.observe(QueueState(10.6, 0, None), samples, wait=0.05, size=2, interval=1.0)
    assert (seen.started, seen.late, round(seen.wait_sum, 6)) == (2, 1, 0.201)
    assert (seen.completed, seen.arrivals) == (5, 5)


def test_a_node_tells_which_waits_are_of_operations_with_limits(
    make_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fakeredis.FakeRedis()
    monkeypatch.setattr("pooltasks.node.scoreboard.sampler.impatient_client", lambda _: client)
    app = make_app(pools={"code": {}})
    call, ping = (
        app.task(base=Operation, shared=False, name=f"shop.{name}", limits=limits)(run).name
        for name, limits in (("call", Limits(concurrency=1)), ("ping", None))
    )
    operations = {call: Counts(wait=waits(9.0)), ping: Counts(wait=waits(0.1))}
    activity = Activity(Counts(wait=waits(0.1, 9.0)), operations)
    board = SimpleNamespace(collect=lambda: (activity, 0, 0))
    force = Workforce(2, 2, 0, 0, 0, ())
    sampler = Sampler(app, "code", "a", board, lambda: force, room=lambda _: None)
    sampler.sample()
    (its,) = SampleStore(client, "code", ["pool.code"], Objective()).read(60).samples.values()
    counts = its[0].sample.counts
    assert (counts.wait, counts.limited) == (waits(0.1, 9.0), waits(9.0))
