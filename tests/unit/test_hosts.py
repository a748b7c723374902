"""How many hosts a pool asks for: what an external scaler makes of it, by KEDA's own arithmetic."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field

import pytest

from chaos.autoscaler import Keda
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.sample import Sample
from pooltasks.metrics.samples import QueueState, StoredSample
from pooltasks.optimizer.controller import Memory, decide
from pooltasks.optimizer.hosts import Hosts, lasting_slots
from pooltasks.optimizer.observing import Watch
from pooltasks.optimizer.splitting import Capacity
from pooltasks.pool_settings import PoolSettings
from pooltasks.telemetry import Outcome

START = 1_800_000_000
STEP = 0.25
SETTINGS = PoolSettings(pool_size=4, min_pool_size=2, max_pool_size=16)


@dataclass
class Host:
    """A node: operations run side by side, at full speed while there are processors for them."""

    size: int
    cores: float
    ready: float = 0.0
    number: int = 0
    draining: bool = False
    stopping: bool = False
    running: list[list[float]] = field(default_factory=list)  # work left, started at
    counts: Counts = field(default_factory=Counts)

    def work(self, now: float, queue: deque[float], work: float) -> None:
        while queue and len(self.running) < self.size and not (self.draining or self.stopping):
            self.counts.wait.add(max(0.0, now - queue.popleft()))
            self.running.append([work, now])
        speed = min(1.0, self.cores / len(self.running)) if self.running else 1.0
        self.counts.busy += len(self.running) * STEP
        for one in self.running:
            one[0] -= speed * STEP
        for one in [one for one in self.running if one[0] <= 1e-9]:
            self.running.remove(one)
            self.counts.run.add(now + STEP - one[1])
            self.counts.outcomes[Outcome.SUCCESS] += 1

    def sample(self, slots_room: int | None) -> Sample:
        counts, self.counts = self.counts, Counts(outcomes=Counter())
        counts.process = float(self.size)
        self.number += 1
        return Sample(
            number=self.number,
            interval=1.0,
            size=self.size,
            warm=self.size,
            busy=len(self.running),
            running=len(self.running),
            reserved=0,
            reserved_age=0.0,
            room=slots_room,
            draining=self.draining,
            stopping=self.stopping,
            counts=counts,
        )


class Fleet:
    """A pool on hosts that KEDA starts and stops; a host takes 40 s to start."""

    def __init__(
        self, hosts: int, *, work: float, cores: float = 1e9, settings: PoolSettings = SETTINGS
    ) -> None:
        self.settings = settings
        self.cores = cores
        self.work = work
        self.nodes = {f"n{number}": Host(settings.pool_size, cores) for number in range(hosts)}
        self.series: dict[str, list[StoredSample]] = {}
        self.memory = Memory(settings.policy, None, Watch())
        self.queue: deque[float] = deque()
        self.keda = Keda(hosts)
        self.second = 0
        self.made = hosts
        self.lengths: list[int] = []

    def run(self, seconds: int, rate: float = 0.0, *, scaled: bool = True) -> list[int]:
        """Let time pass; return what each second asked for."""
        since = len(self.lengths)
        for _ in range(seconds):
            self.second += 1
            now = float(self.second)
            for step in range(round(1 / STEP)):
                at = now + step * STEP
                due = math.floor((at + STEP) * rate) - math.floor(at * rate)
                self.queue.extend([at] * due)
                for node in self.nodes.values():
                    if node.ready <= at:
                        node.work(at, self.queue, self.work)
            self._sample()
            self._decide()
            if scaled and self.second % 15 == 0:
                self._scale(now)
        return self.lengths[since:]

    def _sample(self) -> None:
        room = None if self.cores > 1e6 else max(1, math.floor(self.cores))
        for name, node in list(self.nodes.items()):
            if node.ready > self.second:
                continue
            at = START + self.second + 0.5
            queue = QueueState(at, len(self.queue), None)
            self.series.setdefault(f"{name}/0", []).append(StoredSample(node.sample(room), queue))
            if node.stopping and not node.running:
                del self.nodes[name], self.series[f"{name}/0"]

    def _decide(self) -> None:
        queue = QueueState(START + self.second + 0.52, len(self.queue), None)
        recent = {name: its[-65:] for name, its in self.series.items()}
        decision = decide(self.settings, self.memory, queue, recent)
        assert decision is not None
        for name in decision.told:
            self.nodes[name].size = decision.nodes[name]
        self.lengths.append(decision.hosts)

    def _scale(self, now: float) -> None:
        replicas = self.keda.look(now, self.lengths[-1])
        # What is about to end is no replica any more.
        there = [name for name, node in self.nodes.items() if not node.stopping]
        for _ in range(replicas - len(there)):
            self.nodes[f"n{self.made}"] = Host(self.settings.pool_size, self.cores, now + 40.0)
            self.made += 1
        for name in list(reversed(there))[: max(0, len(there) - replicas)]:
            self.nodes[name].stopping = True

    @property
    def serving(self) -> int:
        return sum(not node.stopping for node in self.nodes.values())


def test_hosts_that_idle_are_given_back() -> None:
    fleet = Fleet(4, work=0.1)
    fleet.run(20, rate=5)
    assert fleet.lengths[-1] == 4
    assert fleet.run(60, rate=5)[-1] == 1
    fleet.run(400, rate=5)
    assert fleet.serving == 1
    assert set(fleet.lengths[80:]) == {1}


def test_a_pool_that_has_never_run_anything_needs_one_host() -> None:
    assert Fleet(4, work=0.1).run(65)[-1] == 1


def test_a_backlog_wants_no_more_hosts_than_drain_it_by_the_time_they_are_up() -> None:
    fleet = Fleet(1, work=10.0)
    fleet.queue.extend([0.0] * 1000)
    lengths = fleet.run(700)
    # What arrived in a second looks like a rate of 17/s for a minute, which is 12 hosts of 16.
    assert 3 <= max(lengths) <= 12
    assert not fleet.queue
    assert lengths[-1] == 1
    fleet.run(400)
    assert fleet.serving == 1


def test_a_backlog_that_is_gone_before_a_host_is_up_wants_none() -> None:
    fleet = Fleet(1, work=0.1)
    for _ in range(5):
        fleet.queue.extend([float(fleet.second)] * 2000)  # 200 s of work for 16 slots
        assert set(fleet.run(60, rate=5)) == {1}


def test_an_overload_that_computes_wants_what_arrives_times_what_it_takes() -> None:
    settings = PoolSettings(pool_size=2, min_pool_size=2, max_pool_size=16)
    fleet = Fleet(1, work=0.25, cores=2.0, settings=settings)
    lengths = fleet.run(300, rate=40)
    # 10 processors are busy with what arrives; the objective needs 17 slots for it.
    assert 5 <= max(lengths) <= 9
    lengths = fleet.run(400, rate=5)
    assert lengths[-1] <= 3
    fleet.run(400, rate=5)
    assert fleet.serving <= 3


def test_there_is_a_limit() -> None:
    settings = SETTINGS.model_copy(update={"max_hosts": 3})
    fleet = Fleet(1, work=10.0, settings=settings)
    fleet.queue.extend([0.0] * 1000)
    assert max(fleet.run(300)) == 3


@pytest.mark.parametrize("policy", ["objective", "schedule", "rules"])
def test_every_policy_gives_hosts_back(policy: str) -> None:
    settings = SETTINGS.model_copy(update={"policy": policy})
    fleet = Fleet(4, work=0.1, settings=settings)
    assert fleet.run(500, rate=5)[-1] == 1


def test_a_fixed_pool_gives_no_host_back() -> None:
    fleet = Fleet(3, work=0.1, settings=SETTINGS.model_copy(update={"policy": "fixed"}))
    assert set(fleet.run(200, rate=5)) == {3}


def test_a_drained_host_is_none_of_those_that_are_needed() -> None:
    settings = PoolSettings(pool_size=4, min_pool_size=2, max_pool_size=4)
    fleet = Fleet(2, work=0.5, settings=settings)
    lengths = fleet.run(100, rate=10, scaled=False)
    needed = lengths[-1]
    assert needed >= 2
    fleet.nodes["n0"].draining = True
    # It runs, and whoever counts hosts counts it: one more of them has to be there.
    assert fleet.run(5, rate=10, scaled=False)[-1] == needed + 1
    fleet.nodes["n0"].draining = False
    fleet.nodes["n0"].stopping = True
    # One that ends is counted by nobody.
    assert fleet.run(5, rate=10, scaled=False)[-1] == needed


def test_a_lost_host_is_asked_for_again() -> None:
    settings = PoolSettings(pool_size=4, min_pool_size=2, max_pool_size=4)
    fleet = Fleet(3, work=0.5, settings=settings)
    needed = fleet.run(100, rate=12, scaled=False)[-1]
    assert needed >= 3
    del fleet.nodes["n2"]  # silent from now on
    assert set(fleet.run(20, rate=12, scaled=False)) <= {needed, needed + 1}


def test_operations_are_the_most_that_slots_can_be_used_for() -> None:
    assert lasting_slots(staffed=1, load=0.2, waiting=7, service=3600.0) == 8
    assert lasting_slots(staffed=5, load=2.0, waiting=0, service=0.1) == 5


def test_a_wish_has_to_last() -> None:
    hosts, node = Hosts(), Capacity(floor=1, ceiling=10, room=10, size=10)
    asked = [hosts.want(now, 100 if now < 25 else 5, 1, [node]) for now in range(40)]
    assert set(asked) == {1}
    asked = [hosts.want(now, 100, 1, [node]) for now in range(40, 75)]
    assert (asked[0], asked[-1]) == (1, 10)
    asked = [hosts.want(now, 5, 1, [node]) for now in range(75, 140)]
    assert (asked[55], asked[-1]) == (10, 1)


def test_an_optimizer_that_was_away_for_long_decides_again() -> None:
    hosts, node = Hosts(), Capacity(floor=1, ceiling=10, room=10, size=10)
    assert hosts.want(0.0, 5, 1, [node]) == 1
    hosts = Hosts(hosts.wanted, hosts.lately)  # as it was stored
    assert hosts.want(3600.0, 100, 1, [node]) == 1  # a wish has to last
    assert [hosts.want(now, 100, 1, [node]) for now in (3601.0, 3631.0)] == [1, 10]


def test_a_share_of_the_replicas_may_end_within_a_period() -> None:
    keda = Keda(8, window=30.0, share=0.5, period=60.0)
    assert [keda.look(now, 1) for now in range(0, 60, 15)] == [4, 4, 4, 4]
    assert [keda.look(now, 1) for now in range(60, 120, 15)] == [2, 2, 2, 2]
    assert keda.look(120.0, 1) == 1


def test_there_are_no_more_replicas_than_may_be() -> None:
    keda = Keda(1, most=7)
    assert [keda.look(now, 20) for now in (0, 15, 30)] == [5, 7, 7]
