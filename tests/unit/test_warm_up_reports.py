"""Warm-up without a node: the commands, their reports, and who may warm up when."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from multiprocessing import reduction
from types import SimpleNamespace

import psutil
import pytest
from celery import Celery

from pooltasks.node.worker.warmup import (
    CommandReport,
    Orders,
    Permits,
    Plan,
    WorkerReport,
    at_once,
    run_commands,
    summary,
)
from pooltasks.pool_settings import PoolSettings, WarmUp, WarmUpCommand

DEADLINE = 20.0  # seconds


# Commands


def command(operation, *args, **kwargs):
    return WarmUpCommand(operation=operation, args=args, kwargs=kwargs)


def test_the_commands_run_in_order_with_their_arguments():
    calls = []
    app = SimpleNamespace(
        tasks={
            "a": lambda *args, **kwargs: calls.append(("a", args, kwargs)),
            "b": lambda: calls.append("b"),
        }
    )
    before = time.time()
    report = run_commands(app, [command("a", 1, x=2), command("b"), command("a")])
    assert calls == [("a", (1,), {"x": 2}), "b", ("a", (), {})]
    assert [done.operation for done in report.commands] == ["a", "b", "a"]
    assert all(done.seconds >= 0 and done.error is None for done in report.commands)
    assert report.error is None
    assert report.pid == os.getpid()
    assert before <= report.started_at <= report.finished_at <= time.time()


def test_the_first_failure_ends_the_warm_up_with_its_traceback():
    calls = []

    def fail():
        raise ValueError("as it was told")

    app = SimpleNamespace(tasks={"ok": lambda: calls.append(1), "fail": fail})
    report = run_commands(app, [command("ok"), command("fail"), command("ok")])
    assert calls == [1]
    assert [done.operation for done in report.commands] == ["ok", "fail"]
    assert report.error == report.commands[1].error
    assert "ValueError: as it was told" in report.error
    assert "in fail" in report.error
    line = fail.__code__.co_firstlineno + 1
    assert report.failure == f"fail: ValueError: as it was told ({__file__}, line {line})"


def test_an_exception_of_many_lines_is_named_by_its_first_one():
    def fail():
        raise ValueError("first\nsecond")

    report = run_commands(SimpleNamespace(tasks={"fail": fail}), [command("fail")])
    assert report.failure.startswith("fail: ValueError: first (")


def test_an_operation_that_is_not_there_is_a_failure_like_any_other():
    assert (
        "KeyError: 'missing'" in run_commands(SimpleNamespace(tasks={}), [command("missing")]).error
    )


def test_without_commands_a_worker_is_warm_at_once():
    report = run_commands(SimpleNamespace(tasks={}), [])
    assert report.commands == ()
    assert report.error is None


# The summary


def test_the_summary_of_no_worker():
    assert summary([]) == {
        "workers": 0,
        "succeeded": 0,
        "success_rate": None,
        "seconds": 0.0,
        "commands": {},
        "timeline": [],
    }


def test_the_summary_merges_the_workers():
    reports = [
        WorkerReport(2, 11.0, 15.0, (CommandReport("a", 1.0), CommandReport("b", 3.0, "Trace"))),
        WorkerReport(1, 10.0, 12.0, (CommandReport("a", 2.0), CommandReport("a", 0.0))),
        WorkerReport(3, 12.0, 13.0, (CommandReport("a", 1.0), CommandReport("b", 1.0))),
        WorkerReport(4, 12.5, 12.5, ()),
    ]
    merged = summary(iter(reports))
    assert (merged["workers"], merged["succeeded"], merged["success_rate"]) == (4, 3, 0.75)
    assert merged["seconds"] == 5.0
    assert merged["commands"] == {
        "a": {"average_seconds": 1.0, "maximum_seconds": 2.0, "failures": 0},
        "b": {"average_seconds": 2.0, "maximum_seconds": 3.0, "failures": 1},
    }
    assert [worker["pid"] for worker in merged["timeline"]] == [1, 2, 3, 4]
    assert [worker["error"] for worker in merged["timeline"]] == [None, "Trace", None, None]
    assert merged["timeline"][1]["started_at"] == 11.0
    assert merged["timeline"][1]["finished_at"] == 15.0


# Permits


def test_the_files_of_a_node_are_closed_when_it_ends():
    code = (
        "from pooltasks.node.worker.warmup import Plan\n"
        "from pooltasks.pool_settings import PoolSettings\n"
        "plan = Plan.of('code', PoolSettings(), 2)"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""


ASKS, HOLDS, IS_DONE = 1, 2, 3


def hold(file, strategy, index, states, semaphores):
    """Hold a permit until it is let go; run in a process of its own."""
    let_go, leave = semaphores
    permits = Permits(strategy, len(states))
    permits._file.close()
    permits._file = os.fdopen(file.detach(), "r+b")
    states[index] = ASKS
    with permits.one(index):
        states[index] = HOLDS
        let_go.acquire(timeout=3 * DEADLINE)
        states[index] = IS_DONE
    # Alive: the permit is given back by the context, not by the kernel.
    leave.acquire(timeout=3 * DEADLINE)
    permits._file.close()


class SharedFile:
    """The file of permits, which each process opens anew as it gets it."""

    def __init__(self, permits):
        self._file = permits._file

    def __reduce__(self):
        return _same, (reduction.DupFd(self._file.fileno()),)


def _same(descriptor):
    return descriptor


class Workers:
    """Processes that each hold a permit until they are let go.

    They are not forked from this process: in one that runs other tests too, a lock
    may be held at that moment, which the fork inherits for ever.
    """

    def __init__(self, strategy, permits, number):
        spawn = multiprocessing.get_context("spawn")
        # Not /proc/locks: some kernels leave out who waits.
        self.states = spawn.RawArray("i", number)
        # Semaphores: they are not harmed by the death of a process that waits.
        self.let_go = [spawn.Semaphore(0) for _ in range(number)]
        self.leave = spawn.Semaphore(0)
        self.processes = [
            spawn.Process(
                target=hold,
                args=(SharedFile(permits), strategy, index, self.states, (let_go, self.leave)),
            )
            for index, let_go in enumerate(self.let_go)
        ]
        for process in self.processes:
            process.start()

    def holding_and_waiting(self):
        """The indexes of the processes that hold a permit, and that sleep until they get one."""
        # In this order: who is found asleep after it has asked waits for a permit.
        asked = [index for index, state in enumerate(self.states) if state == ASKS]
        asleep = {index for index in asked if self._sleeps(index)}
        holding = {
            index
            for index, state in enumerate(self.states)
            if state == HOLDS and self.processes[index].is_alive()
        }
        return holding, asleep - holding

    def _sleeps(self, index):
        return psutil.Process(self.processes[index].pid).status() == psutil.STATUS_SLEEPING

    def wait_for(self, *, holding, waiting):
        """Wait until so many hold and wait; return the indexes of those that hold."""
        deadline = time.monotonic() + DEADLINE
        while True:
            holders, others = self.holding_and_waiting()
            if (len(holders), len(others)) == (holding, waiting):
                return holders
            assert time.monotonic() < deadline, (holders, others)

    def end(self):
        for semaphore in (*self.let_go, *[self.leave] * len(self.processes)):
            semaphore.release()
        for process in self.processes:
            process.join(DEADLINE)
            process.kill()
            process.join()
            process.close()


@pytest.fixture
def start_workers():
    with ExitStack() as stack:

        def start(strategy, number):
            permits = Permits(strategy, number)
            stack.callback(permits._file.close)
            workers = Workers(strategy, permits, number)
            stack.callback(workers.end)
            return workers

        yield start


def test_sequential_is_one_worker_at_a_time(start_workers):
    workers = start_workers("sequential", 3)
    turns = []
    for waiting in (2, 1, 0):
        (index,) = workers.wait_for(holding=1, waiting=waiting)
        turns.append(index)
        workers.let_go[index].release()
    workers.wait_for(holding=0, waiting=0)
    assert sorted(turns) == [0, 1, 2]


def test_staged_is_a_third_of_the_workers_at_a_time(start_workers):
    workers = start_workers("staged", 6)
    turns = []
    for waiting in (4, 2, 0):
        stage = workers.wait_for(holding=2, waiting=waiting)
        assert {index % 2 for index in stage} == {0, 1}  # neighbours take turns
        turns += stage
        for index in stage:
            workers.let_go[index].release()
    workers.wait_for(holding=0, waiting=0)
    assert sorted(turns) == [0, 1, 2, 3, 4, 5]


def test_parallel_is_all_workers_at_once(start_workers):
    workers = start_workers("parallel", 3)
    workers.wait_for(holding=3, waiting=0)


@pytest.mark.parametrize(
    ("workers", "permits"), [(1, 1), (2, 1), (3, 1), (4, 2), (6, 2), (7, 3), (9, 3), (10, 4)]
)
def test_a_third_is_rounded_up(workers, permits):
    staged = Permits("staged", workers)
    assert staged.count == permits
    staged._file.close()


def test_the_permit_of_a_worker_that_is_killed_is_given_back(start_workers):
    workers = start_workers("sequential", 2)
    (holder,) = workers.wait_for(holding=1, waiting=1)
    workers.processes[holder].kill()
    workers.processes[holder].join(DEADLINE)
    assert workers.wait_for(holding=1, waiting=0) == {1 - holder}


@pytest.mark.parametrize("strategy", ["parallel", "sequential"])
def test_the_permit_of_a_warm_up_that_raises_is_given_back(strategy):
    permits = Permits(strategy, 2)
    with pytest.raises(ValueError, match="x"), permits.one(0):
        raise ValueError("x")
    workers = Workers(strategy, permits, 1)
    workers.wait_for(holding=1, waiting=0)
    workers.end()
    permits._file.close()


def test_a_plan_has_the_permits_of_its_settings():
    settings = PoolSettings(warmup=WarmUp(strategy="staged"))
    plan = Plan.of("code", settings, 5)
    assert (plan.pool, plan.settings, plan.permits.count) == ("code", settings, 2)
    plan.permits._file.close()
    plan.orders._file.close()


# Limits of commands, and what a round runs instead of what is set


def test_a_command_has_its_own_limit_and_those_without_one_that_of_all():
    def hang():
        time.sleep(DEADLINE)

    app = SimpleNamespace(tasks={"hang": hang, "quick": lambda: None})
    slow = WarmUpCommand(operation="hang", timeout=0.05)
    report = run_commands(app, [command("quick"), slow], timeout=DEADLINE)
    assert [done.error is None for done in report.commands] == [True, False]
    assert report.commands[1].seconds < DEADLINE / 2
    assert "it has 0.05 s" in report.failure
    assert f"{__file__}, line {hang.__code__.co_firstlineno + 1}" in report.failure
    assert "it has 0.1 s" in run_commands(app, [command("hang")], timeout=0.1).failure


def test_a_command_that_swallows_its_interruption_has_failed_all_the_same():
    def stubborn():
        with suppress(Exception):
            time.sleep(DEADLINE)

    report = run_commands(
        SimpleNamespace(tasks={"stubborn": stubborn}), [command("stubborn")], 0.05
    )
    assert "it has 0.05 s" in report.error


def test_a_coroutine_is_cancelled_at_its_limit():
    began, cleaned = [], []

    async def hang():
        began.append(True)
        try:
            await asyncio.sleep(DEADLINE)
        finally:
            cleaned.append(True)

    app = Celery(set_as_current=False)
    task = app.task(name="hang", typing=False)(hang)
    report = run_commands(SimpleNamespace(tasks={"hang": task}), [command("hang")], 0.5)
    assert "SoftTimeLimitExceeded" in report.error
    assert cleaned == began  # on a machine that is full its time may be over before it begins


def test_the_alarm_of_others_is_as_it_was():
    before = signal.getsignal(signal.SIGALRM)
    run_commands(SimpleNamespace(tasks={"quick": lambda: None}), [command("quick")], 5.0)
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_workers_read_the_last_order_that_is_complete():
    orders = Orders()
    first = WarmUp(strategy="staged", commands=[command("a", 1, x=2)], command_timeout=3)
    second = WarmUp(commands=[command("b" * 5000)])
    orders.give(first)
    assert orders.last() == first
    orders.give(second)
    orders._file.write(b'{"strategy": "para')  # the next is being written
    assert orders.last() == second
    orders._file.close()


@pytest.mark.parametrize(
    ("strategy", "at_once_of_seven"), [("parallel", None), ("sequential", 1), ("staged", 3)]
)
def test_a_round_may_have_another_strategy(strategy, at_once_of_seven):
    assert at_once(strategy, 7) == at_once_of_seven
    permits = Permits("parallel", 7)
    with permits.one(0, strategy):
        pass
    permits._file.close()
