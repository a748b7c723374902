"""What a node knows of the warm-ups of its workers: the part alone, without processes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from pooltasks import telemetry
from pooltasks.node.worker.warmup import CommandReport, Plan, WorkerReport
from pooltasks.node.workforce.warm_ups import WarmUps
from pooltasks.pool_settings import PoolSettings, WarmUp, WarmUpCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ORDER = WarmUp(strategy="parallel", commands=(WarmUpCommand(operation="shop.open"),))


class Node:
    """An event loop, and processes of which some are alive."""

    def __init__(self, **settings: Any) -> None:
        self.plan = Plan.of("shop", PoolSettings(**settings), 2)
        self.warm_ups = WarmUps(self.plan)
        self.warm_ups.start(self, self)
        self.alive = {1, 2}
        self.killed: list[int] = []
        self.later: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def call_later(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        self.later.append((seconds, function, args))

    def is_alive(self, pid: int) -> bool:
        return pid in self.alive

    def kill(self, pid: int) -> None:
        self.killed.append(pid)

    def pass_time(self) -> None:
        """Let each limit pass that has begun."""
        for _, function, args in self.later:
            function(*args)


@pytest.fixture
def make() -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def make_node(**settings: Any) -> Node:
        nodes.append(Node(**settings))
        return nodes[-1]

    yield make_node
    for node in nodes:
        for file in (node.plan.permits._file, node.plan.orders._file):
            file.close()


@pytest.fixture
def told() -> Iterator[list[tuple[str, dict[str, Any], dict[str, Any]]]]:
    """The events of warm-ups."""
    events: list[Any] = []
    for event in ("pool.warmup", "worker.init", "warmup"):
        telemetry.attach(f"test {event}", event, lambda *its: events.append(its[:3]))
    yield events
    for event in ("pool.warmup", "worker.init", "warmup"):
        telemetry.detach(f"test {event}")


def report(pid: int, error: str | None = None) -> WorkerReport:
    return WorkerReport(pid, 10.0, 11.0, (CommandReport("shop.open", 1.0, error),))


def test_a_worker_that_is_not_warm_in_time_is_killed(make, caplog):
    node = make(init_timeout=7.0)
    for pid in (1, 2, 3):
        node.warm_ups.on_warming(pid)
    assert node.warm_ups.warming == {1, 2, 3}
    assert [seconds for seconds, *_ in node.later] == [7.0] * 3
    node.warm_ups.on_warmed(report(2))
    node.pass_time()
    assert node.killed == [1], "the second has reported, the third has ended"
    assert "worker 1 was not warm within init_timeout (7 s) and is killed" in caplog.text


def test_the_clock_counts_for_a_later_warm_up_too(make):
    node = make()
    node.warm_ups.on_warmed(report(1))
    node.warm_ups.on_warming(1)
    node.pass_time()
    assert node.killed == [1]


def test_the_last_failure_is_known_until_a_warm_up_succeeds(make, told):
    node = make()
    node.warm_ups.on_warmed(report(1, "Traceback\nNoShop: closed"))
    node.warm_ups.on_gone(1, shutdown=False)
    its = node.warm_ups.report()
    assert its["finished"]
    assert its["last_failure"].startswith("shop.open: ")
    node.warm_ups.on_warmed(report(2))
    assert node.warm_ups.report()["last_failure"] is None
    assert [event for event, *_ in told] == ["warmup", "warmup"]


def test_the_start_is_told_once_when_all_are_warm_with_those_that_failed(make, told):
    node = make()
    began = time.monotonic()
    node.warm_ups.on_failed(9)
    for warm, pid in ((1, 1), (2, 2), (1, 3), (2, 3)):
        node.warm_ups.on_warm(pid, began, warm=warm, wanted=2)
    starts = [its for event, *its in told if event == "pool.warmup"]
    ((measurements, metadata),) = starts
    assert (measurements["workers"], metadata["round"]) == (2, 0)
    assert measurements["success_rate"] == pytest.approx(2 / 3)
    inits = [its for event, *its in told if event == "worker.init"]
    assert [metadata["worker"] for _, metadata in inits] == [1, 2, 3, 3]
    assert all(measurements["duration"] >= 0 for measurements, _ in inits)


def test_of_the_start_of_a_lazy_pool_nothing_is_told(make, told):
    node = make(lazy=True)
    node.warm_ups.on_warm(1, time.monotonic(), warm=1, wanted=1)
    assert [event for event, *_ in told] == ["worker.init"]


def test_after_a_worker_that_failed_the_next_waits_and_after_one_that_is_warm_none(make, caplog):
    node = make()
    assert node.warm_ups.pause() <= 0
    node.warm_ups.on_failed(1)
    assert 0 < node.warm_ups.pause() <= 0.5
    assert "worker 1 ended before it was warm; the next starts in 0.5 s" in caplog.text
    node.warm_ups.on_warm(2, time.monotonic(), warm=1, wanted=2)
    assert node.warm_ups.pause() <= 0


def test_a_round_is_told_with_the_last_of_its_workers_also_if_that_dies(make, told):
    node = make()
    assert node.warm_ups.begin(ORDER, {1, 2}) == 1
    assert node.plan.orders.last() == ORDER
    node.warm_ups.on_warmed(report(1))
    assert not node.warm_ups.report(1)["finished"]
    node.warm_ups.on_gone(2, shutdown=False)
    assert node.warm_ups.report(1)["finished"]
    ((measurements, _),) = [its for event, *its in told if event == "pool.warmup"]
    assert (measurements["workers"], measurements["success_rate"]) == (2, 0.5)


def test_a_node_that_ends_tells_of_no_round(make, told):
    node = make()
    node.warm_ups.begin(ORDER, {1})
    node.warm_ups.on_gone(1, shutdown=True)
    assert told == []


def test_a_later_round_takes_the_place_of_one_before(make):
    node = make()
    first = node.warm_ups.begin(ORDER, {1})
    second = node.warm_ups.begin(ORDER, {1})
    assert second == first + 1
    assert node.warm_ups.report(first)["superseded"]
    assert "superseded" not in node.warm_ups.report(second)
