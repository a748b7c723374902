"""Who serves, rests and ends: the sizing alone, with workers that are no processes."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pooltasks.node.workforce.jobs import Lane
from pooltasks.node.workforce.sizing import Sizing
from pooltasks.optimizer.overflow import LOOK

if TYPE_CHECKING:
    from collections.abc import Callable


class Loop:
    """An event loop that the tests turn."""

    def __init__(self) -> None:
        self.soon: list[tuple[Any, ...]] = []
        self.later: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def call_soon(self, function: Callable[..., None], *args: Any) -> None:
        self.soon.append((function, *args))

    def call_later(self, seconds: float, function: Callable[..., None], *args: Any) -> object:
        self.later.append((seconds, function, args))
        return object()

    def turn(self) -> None:
        """Run what is due at once, and what that makes due."""
        while self.soon:
            function, *args = self.soon.pop(0)
            function(*args)

    def pass_time(self) -> None:
        """Run what is due later."""
        due, self.later = self.later, []
        for _, function, args in due:
            function(*args)
        self.turn()


class Node:
    """Workers that do at once what they are told, and note it."""

    def __init__(
        self, size: int, *, spares: int = 0, overflow: int = 0, slots: int = 1, queued: int = 0
    ) -> None:
        self.workers: list[Any] = []
        self.done: list[str] = []
        self.may_fork = True
        self._pids = count(1)
        self.loop = Loop()
        self.sizing = Sizing(
            self.workers,
            self,
            size=size,
            spares=spares,
            overflow=overflow,
            wait=0.05,
            slots=slots,
            queued=lambda: queued,
        )
        self.fork(size + spares)

    def attach(self) -> Node:
        """Let all workers be warm, and begin."""
        self.sizing.start(self.loop)
        self.warm()
        self.done.clear()
        return self

    def fork(self, number: int) -> None:
        for _ in range(number if self.may_fork else 0):
            pid = next(self._pids)
            self.workers.append(SimpleNamespace(pid=pid, lane=Lane()))
            self.done.append(f"fork {pid}")

    def serve(self, pid: int) -> None:
        self.done.append(f"serve {pid}")

    def rest(self, pid: int) -> None:
        self.done.append(f"rest {pid}")

    def end(self, pid: int, *, at_once: bool) -> None:
        self.done.append(f"kill {pid}" if at_once else f"end {pid}")

    def recall(self) -> None:
        pass

    def kill(self, pid: int) -> None:
        self.done.append(f"kill {pid}")

    def warm(self) -> None:
        """Have every cold worker become warm."""
        for pid in self.sizing.staff().cold:
            self.sizing.on_warm(pid)
            self.sizing.settle()

    def die(self, pid: int) -> None:
        """Have a worker be reaped."""
        self.workers.remove(self.worker(pid))
        self.sizing.on_gone(pid)
        self.sizing.settle()

    def worker(self, pid: int) -> Any:
        return next(worker for worker in self.workers if worker.pid == pid)

    def work(self, *pids: int) -> None:
        """Give each of these workers an operation."""
        for pid in pids:
            jobs = self.worker(pid).lane.jobs
            jobs[len(jobs)] = "operation"

    def finish(self, pid: int) -> None:
        """Have a worker be done with what it has."""
        self.worker(pid).lane.jobs.clear()
        self.sizing.on_done(self.worker(pid))
        self.loop.turn()

    def take(self) -> list[str]:
        """Return what was done since this was asked last."""
        done, self.done[:] = list(self.done), []
        return done


def test_a_worker_serves_when_it_is_warm_and_a_spare_rests() -> None:
    node = Node(1, spares=1)
    node.sizing.start(node.loop)
    node.take()
    node.warm()
    assert node.take() == ["rest 1", "serve 1", "rest 2"]
    assert node.sizing.staff().resting == [2]
    assert node.sizing.lacking() == 0


def test_before_there_is_a_loop_all_that_is_missing_is_forked_at_once() -> None:
    node = Node(3)
    node.workers.clear()
    node.take()
    node.sizing.settle()
    assert node.take() == ["fork 4", "fork 5", "fork 6"]


def test_a_spare_takes_over_at_once_and_is_replaced_a_moment_later() -> None:
    node = Node(1, spares=1).attach()
    node.die(1)
    assert node.take() == ["serve 2"]
    node.loop.pass_time()
    assert node.take() == ["fork 3"]


def test_where_there_is_no_spare_another_is_forked_at_once() -> None:
    node = Node(2).attach()
    node.die(1)
    assert node.take() == ["fork 3"]
    assert node.sizing.lacking() == 1


def test_many_are_forked_one_in_each_turn_of_the_loop() -> None:
    node = Node(1).attach()
    node.sizing.resize(4)
    assert node.take() == ["fork 2"]
    assert node.sizing.coming == 2
    node.loop.turn()
    assert node.take() == ["fork 3", "fork 4"]
    assert node.sizing.coming == 0


def test_a_size_that_changes_meanwhile_is_obeyed() -> None:
    node = Node(1).attach()
    node.sizing.resize(4)
    node.sizing.resize(2)
    node.loop.turn()
    assert len(node.workers) == 2


def test_nothing_comes_where_no_worker_may_be_forked_now() -> None:
    node = Node(1).attach()
    node.may_fork = False
    node.sizing.resize(3)
    assert node.sizing.coming == 0
    assert not node.loop.soon


def test_an_idle_worker_rests_before_it_ends() -> None:
    node = Node(2).attach()
    node.work(2)
    node.sizing.resize(1)
    assert node.take() == ["rest 1", "end 1"]
    assert node.sizing.staff().serving == [2]


def test_a_pool_that_is_all_busy_lets_the_first_that_finishes_rest() -> None:
    node = Node(2).attach()
    node.work(1, 2)
    node.sizing.resize(1)
    assert node.take() == []
    node.finish(1)
    assert node.take() == ["rest 1", "end 1"]
    node.finish(2)
    assert node.take() == []


def test_an_operation_that_was_taken_back_leaves_its_worker_to_be_ended() -> None:
    """Of it nobody hears: the sizing looks again by itself."""
    node = Node(2).attach()
    node.work(1, 2)
    node.sizing.resize(1)
    node.worker(2).lane.jobs.clear()
    node.loop.pass_time()
    assert node.take() == ["rest 2", "end 2"]


def test_a_cold_worker_is_killed_as_it_ignores_to_be_asked() -> None:
    node = Node(1).attach()
    node.sizing.resize(2)
    node.take()
    node.sizing.resize(1)
    assert node.take() == ["kill 2"]


def test_a_worker_that_does_not_end_is_killed_and_one_that_has_ended_is_not() -> None:
    node = Node(3).attach()
    node.sizing.resize(1)
    assert node.take() == ["rest 3", "rest 2", "end 3", "end 2"]
    assert node.sizing.is_ending(3)
    node.die(3)
    assert not node.sizing.is_ending(3)
    node.loop.pass_time()
    assert node.take() == ["kill 2"]


def test_a_worker_is_replaced_once_another_is_warm_and_it_is_done() -> None:
    node = Node(1).attach()
    node.work(1)
    node.sizing.replace(1)
    assert node.take() == ["fork 2"]
    node.warm()
    assert node.take() == ["rest 2"]
    node.finish(1)
    assert node.take() == ["rest 1", "serve 2", "end 1"]


def test_a_pool_that_has_stopped_is_left_as_it_is() -> None:
    node = Node(2).attach()
    node.sizing.stop()
    node.die(1)
    node.sizing.resize(5)
    assert node.take() == []


def test_an_operation_that_waits_at_two_looks_gets_a_temporary_worker_which_ends_again() -> None:
    node = Node(1, overflow=1).attach()
    node.work(1)
    assert not node.sizing.is_watched()
    node.sizing.look(0.0, waiting=1, run=1.0)
    assert node.take() == []
    node.sizing.look(LOOK, waiting=1, run=1.0)
    assert node.take() == ["fork 2"]
    assert node.sizing.is_watched()
    assert node.sizing.temporary() == 0, "it is not warm"
    node.warm()
    assert node.sizing.temporary() == 1
    node.worker(1).lane.jobs.clear()
    node.take()
    node.sizing.look(60.0, waiting=0, run=1.0)
    assert node.take() == ["rest 2", "end 2"]
    assert not node.sizing.is_watched()


def test_a_spare_that_serves_for_a_while_is_not_replaced_and_rests_again() -> None:
    """Each burst forked a worker, and a fork keeps its node from dispatching."""
    node = Node(1, spares=1, overflow=2).attach()
    node.work(1)
    node.sizing.look(0.0, waiting=1, run=1.0)
    node.loop.pass_time()
    assert node.take() == ["serve 2"]
    node.work(2)
    for look in range(2, 4):
        node.sizing.look(look * LOOK, waiting=1, run=1.0)
    assert node.take() == ["fork 3"], "there is no other spare"
    node.warm()
    for pid in (1, 2):
        node.worker(pid).lane.jobs.clear()
    node.take()
    node.sizing.look(60.0, waiting=0, run=1.0)
    assert sorted(node.take()) == ["end 3", "rest 2", "rest 3"]


def test_a_size_that_grows_takes_temporary_workers_over() -> None:
    node = Node(1, overflow=1).attach()
    node.work(1)
    for look in range(2):
        node.sizing.look(look * LOOK, waiting=1, run=1.0)
    node.warm()
    node.take()
    node.sizing.resize(2)
    assert node.take() == []
    assert node.sizing.temporary() == 0


def test_a_worker_with_a_free_slot_needs_no_help_and_what_waits_counts_in_workers() -> None:
    node = Node(1, overflow=3, slots=2).attach()
    node.work(1)
    for look in range(4):
        node.sizing.look(look * LOOK, waiting=1, run=1.0)
    assert node.take() == []
    node.work(1)
    for look in range(4, 9):
        node.sizing.look(look * LOOK, waiting=2, run=1.0)
    assert node.take() == ["fork 2"], "two operations need one worker"


def test_the_queue_is_asked_where_nothing_waits_in_the_node() -> None:
    node = Node(1, overflow=1, queued=1).attach()
    node.work(1)
    for look in range(2):
        node.sizing.look(look * LOOK, waiting=0, run=1.0)
    assert node.take() == ["fork 2"]


def test_a_worker_that_runs_what_it_has_reserved_itself_is_busy() -> None:
    node = Node(1, overflow=1, queued=1).attach()
    lane = node.workers[0].lane
    lane.lent = object()
    node.sizing.look(0.0, waiting=0, run=1.0)
    node.sizing.look(LOOK, waiting=0, run=1.0)
    assert node.take() == []
    lane.turn.begin(1)
    node.sizing.look(2 * LOOK, waiting=0, run=1.0)
    node.sizing.look(3 * LOOK, waiting=0, run=1.0)
    assert node.take() == ["fork 2"]


def test_no_temporary_worker_is_forked_where_the_host_has_no_room() -> None:
    node = Node(1, overflow=1).attach()
    node.work(1)
    node.sizing.room = 1
    for look in range(4):
        node.sizing.look(look * LOOK, waiting=1, run=1.0)
    assert node.take() == []
