"""A node on which nothing goes on writes every other sample; nobody misses the ones between."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import fakeredis
import pytest

from pooltasks.metrics.counts import Counts
from pooltasks.metrics.sample import Sample
from pooltasks.metrics.samples import QueueState, SampleStore, StoredSample
from pooltasks.node.scoreboard.sampler import Sampler, Workforce
from pooltasks.node.scoreboard.scoreboard import Scoreboard
from pooltasks.optimizer import observing
from pooltasks.pool_settings import Objective
from pooltasks.telemetry import Outcome

WORKFORCE = Workforce(2, 2, 0, 0, 0, ())


def sampled(
    make_app: Any, monkeypatch: pytest.MonkeyPatch, forces: list[Workforce]
) -> list[Sample]:
    """Return the samples that are stored when a node samples once for each of ``forces``."""
    client = fakeredis.FakeRedis()
    monkeypatch.setattr("pooltasks.node.scoreboard.sampler.impatient_client", lambda _: client)
    remaining = iter(forces)
    app = make_app(pools={"code": {}})
    sampler = Sampler(app, "code", "a", Scoreboard(), lambda: next(remaining), room=lambda _: None)
    for _ in forces:
        sampler.sample()
    (stored,) = SampleStore(client, "code", ["pool.code"], Objective()).read(60).samples.values()
    return [one.sample for one in stored]


def test_while_nothing_goes_on_ever_more_samples_are_left_out(
    make_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = sampled(make_app, monkeypatch, [WORKFORCE] * 19)
    assert [one.interval for one in found] == [1.0, 2.0, 4.0, 6.0, 6.0]


def test_a_sample_that_is_left_out_reads_nothing_of_the_host(
    make_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fakeredis.FakeRedis()
    monkeypatch.setattr("pooltasks.node.scoreboard.sampler.impatient_client", lambda _: client)
    looks: list[float] = []
    app = make_app(pools={"code": {}})
    sampler = Sampler(app, "code", "a", Scoreboard(), lambda: WORKFORCE, room=looks.append)
    for _ in range(19):
        sampler.sample()
    assert len(looks) == 5


@pytest.mark.parametrize(
    ("interval", "is_quiet", "stale", "lost"),
    [
        (1.0, False, 3.0, 15.0),
        (1.0, True, 3.0, 15.0),
        (2.0, True, 6.0, 19.0),
        (4.0, True, 9.0, 21.0),
        (6.0, True, 9.0, 21.0),
        (10.0, False, 30.0, 150.0),
        (10.0, True, 13.0, 25.0),
    ],
)
def test_a_node_that_is_well_never_seems_silent(
    interval: float, is_quiet: bool, stale: float, lost: float
) -> None:
    sample = Sample(0, interval, 2, 2, 0 if is_quiet else 1, 0, 0.0)
    assert (sample.patience(3.0), sample.patience(15.0)) == (stale, lost)
    assert sample.next_within < stale


def test_what_changes_is_told_at_once(make_app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    larger = WORKFORCE._replace(size=3)
    found = sampled(make_app, monkeypatch, [WORKFORCE, larger, WORKFORCE._replace(size=3, warm=3)])
    assert [(one.size, one.warm) for one in found] == [(2, 2), (3, 2), (3, 3)]


@pytest.mark.parametrize(
    "change",
    [
        {"busy": 1},
        {"running": 1},
        {"reserved": 1},
        {"warming": 1},
        {"warm": 1},
        {"stopped": True},
        {"counts": Counts(outcomes=Counter({Outcome.SUCCESS: 1}))},
    ],
)
def test_only_a_node_that_rests_is_quiet(change: dict[str, Any]) -> None:
    quiet = Sample(0, 1.0, 2, 2, 0, 0, 0.0)
    assert quiet.is_quiet
    assert not replace(quiet, **change).is_quiet


def test_the_optimizer_waits_for_no_sample_of_a_quiet_node() -> None:
    quiet = Sample(0, 1.0, 2, 2, 0, 0, 0.0)
    stored = [
        StoredSample(each, QueueState(9.5, 0, None)) for each in (quiet, replace(quiet, busy=1))
    ]
    assert not observing.is_due(stored[:1], 10.55, 1.0, 0.25)
    assert observing.is_due(stored[1:], 10.55, 1.0, 0.25)


def test_a_period_is_complete_although_a_quiet_node_wrote_nothing_in_it() -> None:
    quiet = Sample(0, 1.0, 2, 2, 0, 0, 0.0)
    going = replace(quiet, busy=1)

    def complete(of_the_other: Sample) -> bool:
        samples = {
            "a": [StoredSample(going, QueueState(at, 0, None)) for at in (9.5, 10.5)],
            "b": [StoredSample(of_the_other, QueueState(9.5, 0, None))],
        }
        watch = observing.Watch.restored({"period": 9, "at": 9.5, "inside": 0, "seen": {}})
        seen = watch.observe(QueueState(10.6, 0, None), samples, wait=0.05, size=4, interval=1.0)
        return seen[-1].complete

    assert complete(quiet)
    assert not complete(going)
