"""The optimizer's turn: what it sees, what it decides, whom it tells, and what it remembers."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections import Counter
from dataclasses import replace

import fakeredis
import pytest

from pooltasks import Pool, keys, telemetry
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.sample import FORMAT, Sample
from pooltasks.metrics.samples import QueueState, StoredSample
from pooltasks.optimizer.controller import Controller, Memory, decide
from pooltasks.optimizer.observing import Watch
from pooltasks.pool_settings import PoolSettings
from pooltasks.telemetry import Outcome

START = 1_800_000_000.0
SETTINGS = PoolSettings(pool_size=4, min_pool_size=2, max_pool_size=16)


def counts(operations, run=0.1, wait=0.001, **outcomes):
    runs, waits = Histogram(), Histogram()
    for _ in range(operations):
        runs.add(run)
        waits.add(wait)
    return Counts(
        outcomes=Counter(
            {Outcome.SUCCESS: operations, **{Outcome(k): n for k, n in outcomes.items()}}
        ),
        busy=operations * run,
        process=4.0,
        wait=waits,
        run=runs,
    )


class Nodes:
    """Nodes that obey at once, a sample a second each."""

    def __init__(self, *names, size=4):
        self.series = {f"{name}/0": [] for name in names}
        self.sizes = dict.fromkeys(names, size)
        self.second = 0
        self.depth = 0

    @property
    def now(self):
        return START + self.second + 0.52

    def tick(self, operations=0, depth=0, silent=(), run=0.1, **changes):
        """A second passes in which each node did ``operations``."""
        self.second += 1
        self.depth = depth
        for series, its in self.series.items():
            name = series.partition("/")[0]
            if name in silent:
                continue
            size = self.sizes[name]
            done = counts(operations, run)
            values = {"warm": size, "busy": 0, "reserved": 0, "counts": done, **changes}
            values.setdefault("running", values["busy"])
            one = Sample(number=len(its), interval=1.0, size=size, reserved_age=0.0, **values)
            at = START + self.second + 0.5 + 0.001 * list(self.series).index(series)
            its.append(StoredSample(one, QueueState(at, depth, None)))

    def decide(self, memory, settings=SETTINGS, **options):
        queue = QueueState(self.now, self.depth, None)
        samples = {name: its[-70:] for name, its in self.series.items() if its}
        decision = decide(settings, memory, queue, samples, **options)
        if decision and decision.acting:
            for name in decision.told:
                self.sizes[name] = decision.nodes[name]
        # What is remembered is what JSON can hold.
        memory.__dict__.update(
            vars(Memory.restored(json.loads(json.dumps(memory.snapshot())), settings.policy))
        )
        return decision


@pytest.fixture
def memory():
    return Memory("objective", None, Watch())


def observed(nodes, watch=None):
    queue = QueueState(nodes.now, nodes.depth, None)
    watch = watch or Watch()
    return watch.observe(queue, nodes.series, wait=0.05, size=4, interval=1.0)


# What it sees.


def test_arrivals_are_what_left_and_what_is_inside_more_than_before():
    nodes, watch = Nodes("a", "b"), Watch()
    nodes.tick(operations=5)
    observed(nodes, watch)
    nodes.tick(operations=5, depth=7, busy=2, reserved=1)
    (one,) = observed(nodes, watch)
    assert one.arrivals == 10 + 7 + 4 + 2
    assert one.waiting == 7 + 2
    assert one.completed == 10
    assert one.service_sum == pytest.approx(1.0)
    assert one.service_squares == pytest.approx(0.1, rel=0.04)
    assert one.busy == pytest.approx(1.0)
    assert (one.size, one.warm, one.complete) == (4, 8, True)
    nodes.tick(operations=9, depth=0)
    (one,) = observed(nodes, watch)
    assert one.arrivals == 18 - 13


def test_temporary_workers_are_no_size_to_follow(memory):
    nodes = Nodes("a")
    for _ in range(5):
        nodes.tick(operations=5, warm=7, overflow=3)
        decision = nodes.decide(memory)
        assert decision.before == nodes.sizes["a"]
        assert decision.target <= 4
        assert decision.told == []


def test_an_operation_that_a_dead_worker_lost_has_not_arrived_again():
    nodes, watch = Nodes("a"), Watch()
    nodes.tick(busy=1)
    observed(nodes, watch)
    nodes.tick(busy=1, counts=counts(0, lost=1))
    assert observed(nodes, watch)[0].arrivals == 0


def test_a_purged_queue_is_no_arrival():
    nodes, watch = Nodes("a"), Watch()
    nodes.tick(operations=5, depth=10_000)
    observed(nodes, watch)
    nodes.tick(operations=5)
    assert observed(nodes, watch)[0].arrivals == 0
    nodes.tick(operations=5)
    assert observed(nodes, watch)[0].arrivals == 5


def test_looking_twice_shows_nothing_new():
    nodes, watch = Nodes("a"), Watch()
    nodes.tick(operations=5)
    assert len(observed(nodes, watch)) == 1
    assert observed(nodes, watch) == []


def test_what_was_missed_is_seen_in_order():
    nodes, late, prompt = Nodes("a", "b"), Watch(), Watch()
    nodes.tick(operations=1)
    observed(nodes, late)
    seen = observed(nodes, prompt)
    for operations in range(2, 30):
        nodes.tick(operations=operations)
        seen += observed(nodes, prompt)
    assert observed(nodes, late) == seen[1:]
    assert [one.arrivals for one in seen[1:]] == [2 * n for n in range(2, 30)]


def test_of_a_long_absence_the_last_minute_is_seen():
    nodes, watch = Nodes("a"), Watch()
    nodes.tick(operations=5)
    observed(nodes, watch)
    for _ in range(300):
        nodes.tick(operations=5)
    nodes.series["a/0"] = nodes.series["a/0"][-65:]
    seen = observed(nodes, watch)
    assert len(seen) == 60
    assert {one.arrivals for one in seen} == {5}


def test_a_sample_that_is_written_again_counts_what_is_new_in_it():
    nodes, watch = Nodes("a"), Watch()
    nodes.tick(operations=5)
    observed(nodes, watch)
    nodes.tick(operations=8)
    its = nodes.series["a/0"]
    again = replace(its.pop().sample, number=0)
    its[:] = [StoredSample(again, QueueState(nodes.now, 0, None))]
    (one,) = observed(nodes, watch)
    assert (one.completed, one.arrivals) == (3, 3)


def test_a_missing_node_makes_a_second_incomplete_and_is_made_up_for():
    nodes, watch = Nodes("a", "b"), Watch()
    nodes.tick(operations=5)
    observed(nodes, watch)
    nodes.tick(operations=5, silent=["b"])
    (one,) = observed(nodes, watch)
    assert (one.complete, one.completed) == (False, 5)
    nodes.tick(operations=5)
    (one,) = observed(nodes, watch)
    assert (one.complete, one.completed) == (True, 10)


@pytest.mark.parametrize("restarts", [True, False])
def test_what_a_dead_node_did_after_its_last_sample_is_lost_and_is_no_change(memory, restarts):
    nodes = Nodes("a", "b")
    for _ in range(60):
        nodes.tick(operations=40)
        before = nodes.decide(memory)
    lossy = []
    for second in range(8):
        if second == 2 and restarts:
            nodes.series["b/1"] = []
        if second < 2 or not restarts:
            nodes.tick(operations=40 if second < 2 else 80, silent=["b"])
        else:
            dead = nodes.series.pop("b/0")
            nodes.tick(operations=40)
            nodes.series = {"a/0": nodes.series["a/0"], "b/0": dead, "b/1": nodes.series["b/1"]}
        watch = Watch.restored(json.loads(json.dumps(memory.watch.snapshot())))
        lossy += [one.lossy for one in observed(nodes, watch)]
        decision = nodes.decide(memory)
        assert decision.target <= before.target + 1, decision.reason
    assert lossy.count(True) == 1
    assert lossy.index(True) <= 3
    assert decision.inputs["horizon"] > 50, "no change of the rate was seen"


def test_a_node_that_stopped_is_not_missed():
    nodes, watch = Nodes("a", "b"), Watch()
    nodes.tick()
    observed(nodes, watch)
    nodes.tick()
    last = nodes.series["b/0"][-1]
    nodes.series["b/0"][-1] = replace(last, sample=replace(last.sample, stopped=True))
    observed(nodes, watch)
    nodes.tick(silent=["b"])
    (one,) = observed(nodes, watch)
    assert (one.complete, one.warm) == (True, 4)


def test_short_operations_are_measured_with_celery_s_work_around_them():
    nodes = Nodes("a")
    nodes.tick(operations=100, run=0.001)
    its = nodes.series["a/0"]
    its[0].sample.counts.busy = 0.18
    (one,) = observed(nodes)
    assert one.service_sum == pytest.approx(0.18)


def test_a_long_operation_that_is_still_running_is_not_yet_measured():
    nodes = Nodes("a")
    nodes.tick(operations=1, run=0.1)
    nodes.series["a/0"][0].sample.counts.busy = 4.0  # three others go on
    (one,) = observed(nodes)
    assert one.service_sum == pytest.approx(0.102)


def test_a_clock_that_is_set_back_begins_anew():
    nodes, watch = Nodes("a"), Watch()
    nodes.second = 3600
    nodes.tick(operations=5)
    observed(nodes, watch)
    nodes.second = 0
    nodes.series["a/0"].clear()
    nodes.tick(operations=5)
    assert len(observed(nodes, watch)) == 1


# What it decides.


def test_a_step_is_answered_in_the_second_that_shows_it(memory):
    nodes = Nodes("a")
    for _ in range(70):
        nodes.tick(operations=5)
        nodes.decide(memory)
    assert sum(nodes.sizes.values()) <= 4
    nodes.tick(operations=12, depth=8, busy=3)
    decision = nodes.decide(memory)
    assert decision.target >= 8
    assert decision.nodes == {"a": decision.target}
    assert decision.told == ["a"]
    assert decision.reason.startswith(f"From {decision.before} to {decision.target} slots: ")
    assert decision.inputs["waiting"] == 8


def test_after_the_load_it_returns_to_the_floor(memory):
    nodes = Nodes("a", "b")
    for operations in [20] * 60 + [0] * 120:
        nodes.tick(operations=operations)
        decision = nodes.decide(memory)
    assert nodes.sizes == {"a": 2, "b": 2}
    assert decision.told == []
    assert "never fewer than 4" in decision.reason


def test_a_turn_without_a_new_sample_decides_nothing(memory):
    nodes = Nodes("a")
    nodes.tick(operations=5)
    assert nodes.decide(memory) is not None
    assert nodes.decide(memory) is None


def test_an_optimizer_that_was_away_decides_as_if_it_had_been_there():
    there, away = (Memory("objective", None, Watch()) for _ in range(2))
    nodes = Nodes("a", size=8)
    for second in range(100):
        nodes.tick(operations=20)
        present = nodes.decide(there, acting=False)
        if second < 60:
            nodes.decide(away, acting=False)
    back = nodes.decide(away, acting=False)
    assert back.inputs == pytest.approx(present.inputs)
    assert back.target == present.target


def test_samples_that_stop_are_a_decision_to_hold_once_a_second(memory):
    nodes = Nodes("a")
    nodes.tick(operations=5)
    before = nodes.decide(memory)
    nodes.second += 2
    assert nodes.decide(memory) is None  # the node may only be late
    nodes.second += 8
    decision = nodes.decide(memory)
    assert (decision.target, decision.nodes, decision.told) == (before.target, {}, [])
    assert decision.reason == (
        f"Hold {before.target} slots: no live node has written a sample for 10 s."
    )
    assert nodes.decide(memory) is None


def test_a_pool_without_samples_says_why():
    off = PoolSettings(enable_metrics=False)
    for settings, why in ((SETTINGS, "lately"), (off, "enable_metrics is false")):
        decision = decide(
            settings, Memory("objective", None, Watch()), QueueState(START, 0, None), {}
        )
        assert why in decision.reason


def test_more_than_the_nodes_hold_is_wanted_as_hosts(memory):
    nodes = Nodes("a", "b")
    for _ in range(40):
        nodes.tick(operations=200, depth=200)
        decision = nodes.decide(memory)
    assert nodes.sizes == {"a": 16, "b": 16}
    assert decision.target == 32 < decision.wanted
    assert 2 < decision.hosts <= -(-decision.wanted // 16)
    assert decision.reason.endswith(
        f" The 2 live nodes hold 32 at most. {decision.hosts} nodes are wanted."
    )


def test_a_leap_that_is_over_in_a_moment_wants_no_host(memory):
    nodes = Nodes("a")
    for second in range(60):
        nodes.tick(operations=20, depth=200 if second in {0, 30} else 0)
        decision = nodes.decide(memory)
        assert decision.hosts == 1
        assert second != 30 or decision.wanted > 16


def test_a_node_whose_host_has_no_room_is_given_no_more(memory):
    nodes = Nodes("a", "b")
    for _ in range(40):
        nodes.tick(operations=100, depth=200, room=5)
        decision = nodes.decide(memory)
    assert nodes.sizes == {"a": 5, "b": 5}
    assert decision.hosts > 2


def test_slots_are_turned_into_workers(memory):
    nodes = Nodes("a")
    for _ in range(90):
        nodes.tick(operations=100, slots=8)
        decision = nodes.decide(memory, SETTINGS.model_copy(update={"slots": 8}))
    assert decision.nodes == {"a": 2}
    assert 8 < decision.wanted <= decision.target == 16


def test_a_node_that_dies_has_its_share_given_to_the_others(memory):
    nodes = Nodes("a", "b")
    for _ in range(60):
        nodes.tick(operations=40)
        nodes.decide(memory)
    total = sum(nodes.sizes.values())
    for _ in range(4):
        nodes.tick(operations=40, silent=["b"])
        decision = nodes.decide(memory)
    assert decision.nodes.keys() == {"a"}
    assert decision.target >= total - 2


def test_a_node_that_starts_again_under_its_name_is_one_node(memory):
    nodes = Nodes("a")
    nodes.tick(operations=5)
    nodes.decide(memory)
    nodes.series["a/1"] = []
    nodes.tick(operations=0)
    nodes.series["a/0"].pop()
    assert nodes.decide(memory).nodes.keys() == {"a"}


@pytest.mark.parametrize("interval", [1.0, 5.0])
def test_it_decides_once_in_its_interval_and_sees_every_second(memory, interval):
    settings = PoolSettings(optimization_interval=interval)
    nodes = Nodes("a")
    decided = []
    for second in range(30):
        nodes.tick(operations=10)
        if nodes.decide(memory, settings):
            decided.append(second)
    assert {b - a for a, b in itertools.pairwise(decided)} == {int(interval)}
    assert len(memory.state["rate"]["counts"]) >= 20


def test_while_it_only_watches_it_takes_the_pool_as_it_finds_it(memory):
    nodes = Nodes("a", size=9)
    targets = set()
    for _ in range(60):
        nodes.tick(operations=2)
        decision = nodes.decide(memory, acting=False)
        targets.add(decision.target)
        assert not decision.acting
        assert (decision.before, memory.size) == (9, 9)
    assert nodes.sizes == {"a": 9}
    assert min(targets) < 9


def test_a_size_that_an_operator_set_with_a_pause_is_the_one_that_a_reason_begins_with(memory):
    nodes = Nodes("a")
    for _ in range(70):
        nodes.tick(operations=5)
        nodes.decide(memory)
    nodes.sizes["a"] += 4
    nodes.tick(operations=5)
    decision = nodes.decide(memory, acting=False)
    assert decision.before == nodes.sizes["a"]
    verb = f"From {decision.before} to" if decision.target != decision.before else "Keep"
    assert decision.reason.startswith(f"{verb} {decision.target} ")


def test_another_policy_starts_without_the_past_of_the_last(memory):
    nodes = Nodes("a")
    for _ in range(3):
        nodes.tick(operations=5)
        nodes.decide(memory)
    fixed = PoolSettings(policy="fixed", pool_size=7)
    nodes.tick(operations=5)
    memory = Memory.restored(memory.snapshot(), "fixed")
    assert memory.state is None
    assert nodes.decide(memory, fixed).target == 7


# Its turn.


@pytest.fixture
def clock(monkeypatch):
    """The time of server and host; it passes when somebody sleeps."""

    class Clock:
        now = START + 0.52

        def sleep(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(time, "time", lambda: clock.now)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    return clock


class Deployed:
    """A pool on a server that is not real, with one node and what it was told."""

    def __init__(self, app, clock, monkeypatch):
        self.app, self.clock = app, clock
        self.client = app.pooltasks.client = fakeredis.FakeRedis()
        self.told = []
        self.overflow = None
        self.number = 0
        monkeypatch.setattr(app.control, "broadcast", self.broadcast)

    def broadcast(self, command, arguments, destination):
        assert command == "pool_resize"
        self.overflow = arguments.get("overflow")
        self.told.append((tuple(destination), arguments["size"], arguments["token"]))

    def sample(self, operations=0, size=4, at=None, node="a", *, wait=0.001, reserved=0):
        at = self.clock.now - 0.02 if at is None else at
        one = Sample(
            number=self.number,
            interval=1.0,
            size=size,
            warm=size,
            busy=0,
            reserved=reserved,
            reserved_age=0.0,
            counts=counts(operations, wait=wait),
        )
        self.number += 1
        fields = {"sample": FORMAT + b"0  " + one.encode()}
        self.client.xadd(keys.node_samples("code", f"{node}/0"), fields, id=f"{int(at * 1000)}-0")
        self.client.zadd(keys.pool_nodes("code"), {f"{node}/0": at})

    def controller(self):
        return Controller(self.app, "code")


@pytest.fixture
def deployed(make_app, clock, monkeypatch):
    app = make_app(pools={"code": {"pool_size": 4, "min_pool_size": 2}})
    return Deployed(app, clock, monkeypatch)


def test_rules_tell_nodes_how_many_temporary_workers_they_may_have(make_app, clock, monkeypatch):
    settings = {"pool_size": 4, "policy": "rules", "max_overflow": 1, "min_pool_size": 4}
    deployed = Deployed(make_app(pools={"code": settings}), clock, monkeypatch)
    told = []
    for _ in range(130):
        clock.now += 1
        deployed.sample(operations=30, wait=0.3, reserved=2)
        decision = deployed.controller().tick()
        told.append((deployed.overflow, decision and decision.overflow))
    assert told[0] == (None, 1)  # what they have: nobody is told
    assert told[-1] == (3, 3)
    assert {size for _, size, _ in deployed.told} == {4}
    assert len(deployed.told) == 2
    config = Pool("code", deployed.app).optimized_config()
    assert (config.pool_size, config.max_overflow) == (4, 3)
    deployed.number = 0  # the node has started again, and forgotten it
    clock.now += 1
    deployed.sample(operations=30, wait=0.3, reserved=2)
    deployed.controller().tick()
    assert len(deployed.told) == 3


def test_a_turn_tells_nodes_and_everybody_why(deployed, clock, caplog):
    caplog.set_level(logging.INFO)
    events = []
    telemetry.attach("test", "optimizer.decision", lambda *event: events.append(event[1:3]))
    try:
        deployed.sample(size=1)
        decision = deployed.controller().tick()
    finally:
        telemetry.detach("test")
    assert decision.target == 2
    ((destination, size, token),) = deployed.told
    assert (destination, size) == (("a",), 2)
    ((measurements, metadata),) = events
    assert measurements == {"target": 2, "before": 1, "wanted": 2, "hosts": 1}
    assert metadata["reason"] == decision.reason
    assert f"pool code: {decision.reason}" in caplog.messages
    pool = Pool("code", app=deployed.app)
    assert pool.optimized_config().decision == decision
    assert pool.optimized_config().pool_size == 2
    assert pool.decisions().history() == [decision]
    assert deployed.client.llen(keys.hosts_wanted("code")) == 1

    clock.now += 1
    deployed.sample(size=1)
    deployed.controller().tick()
    assert deployed.told[1][2] > token
    clock.now += 1
    deployed.sample(size=2)
    deployed.controller().tick()
    assert len(deployed.told) == 2  # it has what it is to have


def test_every_key_of_the_optimizer_ends_some_day(deployed):
    deployed.sample()
    deployed.controller().tick()
    deployed.controller().decisions.pause(60)
    assert deployed.controller().decisions.begin() is not None
    for key in deployed.client.keys("pooltasks:{pool.code}:*"):
        assert deployed.client.ttl(key) > 0 or b":samples:" in key or key.endswith(b":nodes"), key


def test_only_one_optimizer_has_the_turn(deployed):
    deployed.sample(size=1)
    turn = deployed.controller().decisions.begin()
    assert deployed.controller().tick() is None
    assert deployed.told == []
    deployed.controller().decisions.release(turn)
    assert deployed.controller().tick() is not None


def test_a_turn_that_took_too_long_changes_nothing(deployed, monkeypatch, clock):
    deployed.sample(size=1)
    slow, quick = deployed.controller(), deployed.controller()
    read = slow._samples.read
    first = []

    def frozen_in_the_middle(seconds):
        samples = read(seconds)
        if not first:
            clock.now += 2  # its lock has run out
            deployed.client.delete(keys.optimizer_lock("code"))
            first.append(quick.tick())
        return samples

    monkeypatch.setattr(slow._samples, "read", frozen_in_the_middle)
    assert slow.tick() is None
    assert first[0].told == ["a"]
    assert len(deployed.told) == 1


def test_a_token_is_higher_than_all_before_even_when_the_server_forgot_them(deployed, clock):
    tokens = []
    for _ in range(3):
        turn = deployed.controller().decisions.begin()
        deployed.controller().decisions.release(turn)
        tokens.append(turn.token)
    clock.now += 0.01
    deployed.client.flushall()
    tokens.append(deployed.controller().decisions.begin().token)
    assert tokens == sorted(set(tokens))


def test_a_turn_waits_a_moment_for_a_sample_that_is_due(deployed, clock, monkeypatch):
    deployed.sample(operations=1, at=clock.now - 1)

    def sleep(seconds):
        clock.now += seconds
        deployed.sample(operations=1)

    monkeypatch.setattr(time, "sleep", sleep)
    began = clock.now
    assert deployed.controller().tick().at == pytest.approx(began + 0.02)
    assert deployed.number == 2


def test_a_turn_does_not_wait_for_a_node_that_is_gone(deployed, clock):
    deployed.sample(at=clock.now - 1)
    deployed.controller().tick()
    assert clock.now < START + 0.8


def test_a_dry_run_decides_and_changes_nothing(deployed):
    deployed.sample(size=1)
    before = {key: deployed.client.dump(key) for key in deployed.client.scan_iter()}
    decision = deployed.controller().dry_run()
    assert (decision.target, decision.told) == (2, ["a"])
    assert deployed.told == []
    assert {key: deployed.client.dump(key) for key in deployed.client.scan_iter()} == before
    assert Pool("code", app=deployed.app).optimized_config().decision is None


def test_a_paused_optimizer_watches_until_the_pause_ends(deployed, clock):
    store = Pool("code", app=deployed.app).decisions()
    store.pause(1.5)
    assert store.paused() == pytest.approx(1.5, abs=0.1)
    deployed.sample(size=1)
    decision = deployed.controller().tick()
    assert (decision.acting, decision.target, deployed.told) == (False, 2, [])
    assert store.resume()
    assert not store.resume()
    clock.now += 1
    deployed.sample(size=1)
    assert deployed.controller().tick().acting
    assert len(deployed.told) == 1


def test_what_an_earlier_version_remembered_is_forgotten(deployed):
    deployed.sample()
    deployed.controller().tick()
    state = json.loads(deployed.client.hget(keys.optimizer("code"), "state"))
    state["state"] = {"of": "another time"}
    deployed.client.hset(keys.optimizer("code"), "state", json.dumps(state))
    deployed.clock.now += 1
    deployed.sample()
    assert deployed.controller().tick() is not None


def test_both_moments_of_the_service_time_are_of_the_run_with_the_work_around_it():
    nodes, watch = Nodes("a"), Watch()
    nodes.tick()
    observed(nodes, watch)
    # Half run 1 ms and half 3 ms, each with 2 ms around: 3 and 5 ms have a variance of 1/16.
    its = counts(50, run=0.001)
    its.add(counts(50, run=0.003))
    its.busy = its.run.total + 100 * 0.002
    nodes.tick(counts=its)
    (one,) = observed(nodes, watch)
    mean = one.service_sum / one.completed
    assert mean == pytest.approx(0.004, rel=0.01)
    assert one.service_squares / one.completed / mean**2 - 1 == pytest.approx(1 / 16, abs=0.01)
