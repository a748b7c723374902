"""What the process pool tells its parts: its hooks, without a fork."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from billiard.pool import CLOSE, RUN

from pooltasks.node.worker.child import EX_WARM_UP_FAILED
from pooltasks.node.workforce.jobs import Lane
from pooltasks.node.workforce.process_pool import ProcessPool


class Part:
    """A part that notes what it is told."""

    def __init__(self, **its: Any) -> None:
        self.told: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.__dict__.update(its)

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.told.append((name, args, kwargs))

    @property
    def names(self) -> list[str]:
        """The names of what was called."""
        return [name for name, *_ in self.told]


class Loop:
    """An event loop that notes what is due later."""

    def __init__(self) -> None:
        self.later: list[Any] = []

    def call_later(self, _seconds: float, function: Any, *_: Any) -> None:
        self.later.append(function)


@pytest.fixture
def process() -> Any:
    """The process of a worker."""
    return SimpleNamespace(
        pid=1,
        index=0,
        inqW_fd=7,
        exitcode=-9,
        forked_at=0.0,
        timed_out=set(),
        is_unhealthy=False,
        lane=Lane(),
    )


@pytest.fixture
def pool(process: Any) -> Any:
    """The pool with one worker, which is warm and serves."""
    pool = ProcessPool.__new__(ProcessPool)  # __init__ would fork
    pool._pool, pool._state = [process], RUN
    pool._fileno_to_inq, pool._all_inqueues = {}, set()
    pool._hub, pool._looks = Loop(), False
    pool.sizing = Part(warm={1}, serving={1}, lacking=lambda: 1)
    pool.warm_ups, pool.deaths = Part(), Part()
    pool.dispatch = Part(waiting=["job"])
    return pool


def test_a_worker_serves_through_its_pipe_until_it_rests(pool, process):
    pool.serve(1)
    assert (pool._fileno_to_inq, pool._all_inqueues) == ({7: process}, {7})
    pool.rest(1)
    assert (pool._fileno_to_inq, pool._all_inqueues) == ({}, set())
    assert pool.deaths.told == [("on_serving", (1, 0), {}), ("on_resting", (0,), {})]


def gone(pool: Any, process: Any, *, shutdown: bool = False) -> tuple[bool, bool]:
    """Have a worker be gone; return whether it served, and whether its start failed."""
    pool._on_gone(process, shutdown=shutdown)
    ((_, _, told),) = pool.deaths.told
    assert told["lacking"] == 1
    assert pool.warm_ups.names[0] == "on_gone"
    return told["served"], "on_failed" in pool.warm_ups.names


def test_a_worker_that_died_has_served(pool, process):
    assert gone(pool, process) == (True, False)


def test_a_worker_that_never_was_warm_has_failed(pool, process):
    pool.sizing.warm, pool.sizing.serving = set(), set()
    assert gone(pool, process) == (False, True)


def test_a_worker_that_could_not_be_warmed_again_has_failed(pool, process):
    process.exitcode = EX_WARM_UP_FAILED
    assert gone(pool, process) == (False, True)


def test_a_cold_worker_that_was_asked_to_end_has_not_failed(pool, process):
    pool.sizing.warm, pool.sizing.serving = set(), set()
    process._controlled_termination = True
    assert gone(pool, process) == (False, False)


def test_no_start_fails_while_the_node_ends(pool, process):
    pool.sizing.warm, pool.sizing.serving = set(), set()
    assert gone(pool, process, shutdown=True) == (False, False)


@pytest.mark.parametrize(("jobs", "temporary"), [(True, False), (False, True)])
def test_there_is_one_look_at_a_time_while_there_is_something_to_see(pool, jobs, temporary):
    pool.dispatch.is_watched, pool.dispatch.durations = lambda: jobs, Part(mean=0.5)
    pool.sizing.is_watched = lambda: temporary
    pool._look_later()
    pool._look_later()
    assert pool._hub.later == [pool._look]
    pool._look()
    assert pool._hub.later == [pool._look] * 2
    ((name, (now,), _),) = pool.dispatch.told
    assert name == "look"
    assert pool.sizing.told == [("look", (now,), {"waiting": 1, "run": 0.5})]


def test_nothing_is_looked_at_where_nothing_is_to_see_or_the_pool_ends(pool):
    pool.dispatch.is_watched = pool.sizing.is_watched = lambda: False
    pool._look_later()
    assert not pool._hub.later
    pool._state = CLOSE
    pool._look()
    assert not pool.dispatch.told
