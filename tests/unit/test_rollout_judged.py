"""A rollout is judged by what both versions do, and goes a step on, back, or waits."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest

from pooltasks.metrics.counts import Counts
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.rollout import STEPS, Rollout
from pooltasks.metrics.rollout_store import RolloutStore, with_rollouts
from pooltasks.metrics.sample import Resources, Sample
from pooltasks.metrics.samples import QueueState, StoredSample
from pooltasks.optimizer.judge import Side, judge
from pooltasks.optimizer.rollouts import ABSENT, Tally, end, forward, move_of
from pooltasks.optimizer.splitting import Capacity, split_by_share
from pooltasks.pool_settings import RolloutSettings
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from pooltasks.optimizer.rollouts import Move

NOW = 1_800_000_000.0
SETTINGS = RolloutSettings(step_seconds=60, operations=200)
MIB = 2**20


def did(finished: int, failed: int = 0, *, slow: int = 0, lost: int = 0, deaths: int = 0) -> Counts:
    """Return what a version did: so many operations of 10 ms, some of which took 100 ms."""
    run = Histogram()
    for number in range(finished):
        run.add(0.1 if number < slow else 0.01)
    outcomes = {
        Outcome.SUCCESS: finished - failed,
        Outcome.FAILURE: failed,
        Outcome.LOST: lost,
    }
    return Counts(outcomes=Counter(outcomes), run=run, recoveries=deaths)


BEFORE = did(4000)


@pytest.mark.parametrize(
    ("before", "canary", "answer", "word"),
    [
        (BEFORE, did(200), "well", "200"),
        (BEFORE, did(199), "unknown", "199 of 200"),
        (did(100), did(400), "unknown", "the version before has finished 100"),
        (Counts(), did(400), "unknown", "no operation"),
        # Errors: 3 times as many as before, or 0.3 %; a single one says nothing.
        (BEFORE, did(200, 1), "well", "200"),
        (BEFORE, did(300, 3), "unknown", "3 of 300"),
        (BEFORE, did(300, 6), "worse", "6 of 300"),
        (BEFORE, did(60, 10), "worse", "10 of 60"),
        (did(4000, 40), did(1000, 30), "well", "1,000"),
        (did(4000, 40), did(1000, 35), "unknown", "35 of 1,000"),
        (did(4000, 40), did(1000, 60), "worse", "60 of 1,000"),
        # p99: of an operation in a hundred it may be twice as long.
        (BEFORE, did(1000, slow=10), "well", "1,000"),
        (BEFORE, did(1000, slow=15), "unknown", "15 of 1,000"),
        (BEFORE, did(1000, slow=30), "worse", "30 of 1,000"),
        (did(4000, slow=200), did(1000, slow=60), "well", "1,000"),
        # Deaths of workers.
        (BEFORE, did(400, lost=1, deaths=1), "well", "400"),
        (BEFORE, did(100, lost=3, deaths=3), "worse", "3 workers died"),
        (did(4000, lost=40, deaths=40), did(400, lost=10, deaths=10), "well", "400"),
        # Something worse counts, however few operations there were.
        (BEFORE, did(0, lost=2, deaths=2), "worse", "2 workers died"),
    ],
)
def test_a_version_is_judged_beside_the_one_before(before, canary, answer, word):
    found = judge(Side(before), Side(canary), 200)
    assert found.answer == answer, found
    assert word in found.reason


@pytest.mark.parametrize(
    ("before", "canary", "answer"),
    [
        (200 * MIB, 390 * MIB, "well"),
        (200 * MIB, 410 * MIB, "worse"),
        (20 * MIB, 80 * MIB, "well"),  # 64 MiB more are always allowed
        (20 * MIB, 90 * MIB, "worse"),
        (None, 900 * MIB, "well"),
    ],
)
def test_a_worker_may_take_twice_the_memory(before, canary, answer):
    assert judge(Side(BEFORE, before), Side(did(200), canary), 200).answer == answer


def stored(version: str, *, at: float = NOW, number: int = 1, **changes: Any) -> StoredSample:
    sample = Sample(number, 1.0, 2, 2, 0, 0, 0.0, version=version)
    return StoredSample(replace(sample, **changes), QueueState(at, 0, None))


NODES = {"a@host/1": [stored("1")], "b@host/2": [stored("2")]}
LIVE = Rollout(
    state="live",
    before="1",
    version="2",
    share=5,
    started=NOW - 600,
    since=NOW - 90,
    ended=None,
    paused=False,
    reason="",
    revision=7,
    looked=NOW - 1,
    at=NOW,
    waiting=0,
    is_gathered=True,
)


def moved(rollout: Rollout, canary: Counts, before: Counts = BEFORE, nodes: Any = NODES) -> Move:
    return move_of(rollout, Tally(rollout.since, before, canary), nodes, SETTINGS)


def test_a_step_is_taken_when_it_is_time_and_all_is_well():
    assert moved(LIVE, did(300)).what == "step"


@pytest.mark.parametrize(
    ("rollout", "canary", "word"),
    [
        (replace(LIVE, since=NOW - 50), did(300), "a step takes 60 s"),
        (LIVE, did(30), "30 of 200"),
        (replace(LIVE, paused=True), did(300), "300 operations"),
        (replace(LIVE, waiting=90), did(300), "start more nodes"),
    ],
)
def test_a_step_waits_and_says_for_what(rollout, canary, word):
    move = moved(rollout, canary)
    assert move.what == "wait"
    assert word in move.reason


@pytest.mark.parametrize("rollout", [LIVE, replace(LIVE, paused=True), replace(LIVE, share=100)])
def test_what_is_worse_is_rolled_back_at_any_time(rollout):
    assert moved(replace(rollout, since=NOW - 5), did(300, 9)).what == "abort"


def test_the_first_step_waits_for_a_warm_worker():
    begun = replace(LIVE, share=0)
    cold = {**NODES, "b@host/2": [stored("2", warm=0, warming=2)]}
    assert moved(begun, Counts(), nodes=cold) == ("wait", "it has no warm worker yet")
    assert moved(begun, Counts()).what == "step"
    assert moved(replace(begun, paused=True), Counts()).what == "wait"


def test_a_version_whose_nodes_are_gone_is_rolled_back():
    gone = {"a@host/1": [stored("1")], "b@host/2": [stored("2", at=NOW - ABSENT + 1)]}
    assert moved(LIVE, did(300), nodes=gone).what == "wait"
    gone = {"a@host/1": [stored("1")], "b@host/2": [stored("2", at=NOW - ABSENT - 1)]}
    assert moved(LIVE, did(300), nodes=gone).what == "abort"
    assert moved(LIVE, did(300), nodes={"a@host/1": NODES["a@host/1"]}).what == "abort"


def test_at_a_hundred_percent_the_version_before_is_known_from_the_step_before():
    whole = replace(LIVE, share=100, baseline=did(900))
    assert moved(whole, did(300), before=Counts()).what == "step"
    assert moved(whole, did(300, 9), before=did(3)).what == "abort"


def test_a_sample_counts_once_and_when_nothing_comes_on_top_of_it():
    one, two = (stored("2", at=NOW - 2 + n, number=n, counts=did(10)) for n in (0, 1))
    tally = Tally(NOW - 90)
    tally.add(LIVE, {"b@host/2": [one]})
    assert tally.canary.finished == 0  # it may be written again, with more
    tally.add(LIVE, {"b@host/2": [one, two]})
    tally.add(LIVE, {"b@host/2": [one, two]})
    assert tally.canary.finished == 10
    tally.add(replace(LIVE, at=NOW + 3), {"b@host/2": [one, two]})
    assert tally.canary.finished == 20
    assert tally.before.finished == 0


def test_what_was_before_the_step_does_not_count():
    old = stored("2", at=NOW - 91, number=0, counts=did(10))
    tally = Tally(NOW - 90)
    tally.add(LIVE, {"b@host/2": [old], "c@host/3": [stored("3", at=NOW - 9, counts=did(9))]})
    assert (tally.canary.finished, tally.before.finished) == (0, 0)


@pytest.fixture
def store() -> RolloutStore:
    return RolloutStore(fakeredis.FakeRedis(), "code")


def read(store: RolloutStore) -> Rollout:
    rollout = store.read()
    assert rollout is not None
    return rollout


def test_the_steps_come_in_their_order_and_then_it_is_done(store):
    assert store.read() is None
    assert store.start("1", "2")
    shares = []
    for _ in STEPS:
        assert forward(store, read(store), "well", {"before": did(300), "canary": did(9)})
        shares.append(read(store).share)
    assert tuple(shares) == STEPS
    assert read(store).is_live
    baseline = read(store).baseline
    assert baseline is not None
    assert baseline.finished == 300
    assert forward(store, read(store), "well")
    done = read(store)
    assert (done.state, done.retired, done.is_gathered) == ("done", ("1",), True)
    assert [step.share for step in done.steps] == [*STEPS]
    assert not forward(store, done, "again")


def test_the_version_before_is_known_from_the_step_with_the_most_of_its_operations(store):
    assert store.start("1", "2")
    for before in (did(300), did(250), did(80), Counts()):
        assert forward(store, read(store), "well", {"before": before, "canary": did(400)})
        baseline = read(store).baseline
        assert baseline is not None
        # With 80 of 200 operations to compare with, the last step would wait for ever.
        assert baseline.finished == 300
    whole = replace(read(store), share=100)
    assert whole.sentence().startswith("version 2 has 100 % for")
    assert "1 nothing: just begun" in whole.sentence()


def test_a_control_node_goes_on_from_what_another_has_counted(store):
    assert store.start("1", "2")
    forward(store, read(store), "its nodes are there")
    assert store.note(
        read(store), {"before": did(50), "canary": did(7, 2)}, {"b@host/2": 4}, "so far so good"
    )
    found = read(store)
    assert found.counted["canary"].outcomes[Outcome.FAILURE] == 2
    assert found.counted["before"].run.count == 50
    assert (found.seen, found.reason) == ({"b@host/2": 4}, "so far so good")
    assert found.looked > 0
    # What it decided on an older state changes nothing.
    assert end(store, found, "aborted", "one")
    assert not end(store, found, "done", "other")
    assert read(store).reason == "one"


def test_only_pools_with_a_rollout_are_looked_after():
    client = fakeredis.FakeRedis()
    assert RolloutStore(client, "code").start("1", "2")
    assert with_rollouts(client, ["code", "other"]) == ["code"]


def test_each_version_has_workers_for_its_share_and_some_more():
    nodes = {name: Capacity(1, 32, 32, 4) for name in ("a", "b", "new")}
    its = split_by_share(20, 1, nodes, ["new"], 0.25)
    assert its["new"] == 5 + 3
    assert its["a"] + its["b"] == 15 + 4
    # Before its first step and at the end one of them has everything.
    assert split_by_share(20, 1, nodes, ["new"], 0.0)["new"] == 1
    assert split_by_share(20, 1, nodes, ["new"], 1.0)["new"] == 20
    assert sum(split_by_share(20, 1, nodes, [], None).values()) == 20


def test_memory_is_that_of_a_worker_however_many_its_node_has():
    def used(workers: int, each: int) -> dict[str, Any]:
        # The node's own process, and what workers share, weigh more on one than on four.
        rss = workers * each * MIB
        resources = Resources(0.0, 0.0, 900 * MIB, rss, 1000 * MIB + rss // 10)
        return {"size": workers, "warm": workers, "resources": resources}

    nodes = {"a@host/1": [stored("1", **used(4, 400))], "b@host/2": [stored("2", **used(1, 400))]}
    assert moved(LIVE, did(300), nodes=nodes).what != "abort"
    nodes["b@host/2"] = [stored("2", **used(1, 810))]
    move = moved(LIVE, did(300), nodes=nodes)
    assert move.what == "abort"
    assert "takes 810 MiB of memory; 800 MiB are allowed" in move.reason
