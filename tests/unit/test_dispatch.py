from __future__ import annotations

import time
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.pool import RUN

from pooltasks.node.dispatch import DispatchPool
from pooltasks.node.jobs import Lane


class Pool(DispatchPool):
    """The dispatch alone: its workers are lanes, and what is written stays here."""

    def __init__(self, workers: int, strategy: str = "lifo") -> None:  # super() would fork
        self._state = RUN
        self._cache: dict[int, Any] = {}
        self.outbound_buffer: deque[Any] = deque()
        self.written: list[tuple[int, list[int]]] = []
        self.results: list[Any] = []
        self.restart_state = SimpleNamespace(R=0)
        self.write_stats = dict.fromkeys(range(workers), 0)
        self.soft_timeout = self.timeout = None
        self._busy_workers: set[int] = set()
        self._mark_worker_as_available = self._busy_workers.discard
        self._strategy = strategy
        self._accepts_first = lambda name: name == "at_most_once"
        self._on_result = self.results.append
        self._uses = 0
        self._looks = True  # no loop: the tests look themselves
        self._durations: dict[str, float] = {}
        self._recent = float("inf")
        self.on_timeout_set = self.on_timeout_cancel = lambda *_: None
        self._pool = [
            SimpleNamespace(pid=100 + index, index=index, inqW_fd=index, lane=Lane())
            for index in range(workers)
        ]
        self._fileno_to_inq = {process.inqW_fd: process for process in self._pool}

    def _write(self, process: Any) -> None:
        process.lane.unsent = None

    def submit(self, name: str = "op", **options: Any) -> Any:
        return self.apply_async(None, [name, "id"], **options)

    def finish(self, process: Any, seconds: float = 0.0001) -> None:
        number = next(iter(process.lane.jobs))
        process.lane.turn.begin(number)
        process.lane.turn.end()
        self.on_done(process, number, (True, "value"), None, seconds)

    def loads(self) -> list[int]:
        return [len(process.lane.jobs) for process in self._pool]

    def knows(self, name: str, seconds: float) -> None:
        self._durations[name] = seconds


def test_an_operation_that_nobody_knows_goes_alone_to_an_idle_worker() -> None:
    pool = Pool(2)
    for _ in range(3):
        pool.submit()
    pool.on_poll_start()
    assert pool.loads() == [1, 1]
    assert len(pool.outbound_buffer) == 1


def test_short_operations_go_several_at_a_time_and_evenly() -> None:
    pool = Pool(4)
    pool.knows("op", 0.0005)
    for _ in range(22):
        pool.submit()
    pool.on_poll_start()
    assert sorted(pool.loads()) == [5, 5, 6, 6]


def test_a_worker_is_written_no_more_than_some_milliseconds_of_work() -> None:
    pool = Pool(1)
    pool.knows("op", 0.002)
    for _ in range(10):
        pool.submit()
    pool.on_poll_start()
    assert pool.loads() == [2]


def test_idle_workers_come_before_a_second_operation_anywhere() -> None:
    pool = Pool(3)
    pool.knows("op", 0.0001)
    for _ in range(3):
        pool.submit()
    pool.on_poll_start()
    assert pool.loads() == [1, 1, 1]


@pytest.mark.parametrize(("strategy", "expected"), [("lifo", 1), ("fifo", 0)])
def test_the_strategy_says_which_idle_worker_is_next(strategy: str, expected: int) -> None:
    pool = Pool(2, strategy)
    for index in (0, 1):  # the second worker is the one used last
        pool._fileno_to_inq = {index: pool._pool[index]}
        pool.submit()
        pool.on_poll_start()
        pool.finish(pool._pool[index])
    pool._fileno_to_inq = {process.inqW_fd: process for process in pool._pool}
    pool.submit("new")
    pool.on_poll_start()
    assert pool.loads().index(1) == expected


def test_one_long_run_makes_its_kind_go_alone_again() -> None:
    pool = Pool(1)
    pool.knows("op", 0.0001)
    pool.submit()
    pool.on_poll_start()
    pool.finish(pool._pool[0], seconds=0.5)
    assert pool.depth() == 1
    for _ in range(3):
        pool.submit()
    pool.on_poll_start()
    assert pool.loads() == [1]


def test_what_waits_behind_a_long_run_is_taken_back() -> None:
    pool = Pool(1)
    pool.knows("op", 0.0001)
    jobs = [pool.submit() for _ in range(3)]
    pool.on_poll_start()
    process = pool._pool[0]
    process.lane.turn.begin(1)
    long_after = time.monotonic() + 1
    pool._take_back(process.lane, long_after)
    assert pool.loads() == [3], "the worker may be about to begin the next"
    pool._take_back(process.lane, long_after)
    assert pool.loads() == [1]
    assert set(pool.outbound_buffer) == set(jobs[1:])
    assert not process.lane.turn.begin(2)


def test_what_the_worker_left_out_before_the_node_took_it_back_is_not_lost() -> None:
    pool = Pool(1)
    pool.knows("op", 0.0001)
    jobs = [pool.submit() for _ in range(2)]
    pool.on_poll_start()
    process = pool._pool[0]
    process.lane.turn.begin(1)
    pool._take_back(process.lane, time.monotonic() + 1)
    assert not process.lane.turn.begin(2)
    pool._take_back(process.lane, time.monotonic() + 1)
    assert pool.loads() == [2], "the number was begun, so the worker's word decides"
    pool.on_skipped(process, 2)
    assert list(pool.outbound_buffer) == jobs[1:]


def test_begin_end_and_result_are_told_once_and_in_their_order() -> None:
    pool = Pool(1)
    told: list[str] = []
    job = pool.submit(
        accept_callback=lambda *_: told.append("begins"), callback=lambda *_: told.append("ends")
    )
    pool.on_poll_start()
    process = pool._pool[0]
    process.lane.turn.begin(1)
    pool.accept_begun(process)
    pool.accept_begun(process)
    pool.on_done(process, 1, (True, "value"), None, 0.1)
    pool.on_done(process, 1, (True, "value"), None, 0.1)
    assert told == ["begins", "ends"]
    assert job.ready()
    assert not pool._cache


def test_the_result_of_what_was_given_up_is_not_stored() -> None:
    pool = Pool(1)
    job = pool.submit()
    pool.on_poll_start()
    job.discard()
    stored: Any = ("key", b"value", 0)
    pool.on_done(pool._pool[0], 1, (True, "value"), stored, 0.1)
    assert not pool.results
