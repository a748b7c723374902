"""Warm-up without a node: the commands, their reports, and who may warm up when."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from pooltasks.node.warmup import CommandReport, Permits, Plan, WorkerReport, run_commands, summary
from pooltasks.settings import PoolSettings, WarmUp, WarmUpCommand

DEADLINE = 10.0  # seconds


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


class Workers:
    """Forked processes that each hold a permit until they are let go."""

    def __init__(self, permits, number):
        fork = multiprocessing.get_context("fork")
        self._mark = f":{os.fstat(permits._file.fileno()).st_ino} "
        # Semaphores: they are not harmed by the death of a process that waits.
        self.inside = fork.Semaphore(0)
        self.let_go = [fork.Semaphore(0) for _ in range(number)]
        self.leave = fork.Semaphore(0)
        self.processes = [
            fork.Process(target=self._hold, args=(permits, index)) for index in range(number)
        ]
        for process in self.processes:
            process.start()

    def _hold(self, permits, index):
        with permits.one(index):
            self.inside.release()
            self.let_go[index].acquire(timeout=DEADLINE)
        # Alive: the permit is given back by the context, not by the kernel.
        self.leave.acquire(timeout=DEADLINE)

    def holding_and_waiting(self):
        """The indexes of the processes that hold the kernel's lock and that wait for one."""
        index_of = {process.pid: index for index, process in enumerate(self.processes)}
        holding, waiting = set(), set()
        for line in Path("/proc/locks").read_text().splitlines():
            if self._mark in line:
                words = line.split()
                is_waiting = words[1] == "->"
                index = index_of[int(words[5 if is_waiting else 4])]
                (waiting if is_waiting else holding).add(index)
        return holding, waiting

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
            workers = Workers(permits, number)
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
    for _ in range(3):
        assert workers.inside.acquire(timeout=DEADLINE)


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
    os.kill(workers.processes[holder].pid, signal.SIGKILL)
    assert workers.wait_for(holding=1, waiting=0) == {1 - holder}


@pytest.mark.parametrize("strategy", ["parallel", "sequential"])
def test_the_permit_of_a_warm_up_that_raises_is_given_back(strategy):
    permits = Permits(strategy, 2)
    with permits.one(0):
        pass
    with pytest.raises(ValueError, match="x"), permits.one(0):
        raise ValueError("x")
    inode = os.fstat(permits._file.fileno()).st_ino
    assert f":{inode} " not in Path("/proc/locks").read_text()
    permits._file.close()


def test_a_plan_has_the_permits_of_its_settings():
    settings = PoolSettings(warmup=WarmUp(strategy="staged"))
    plan = Plan.of("code", settings, 5)
    assert (plan.pool, plan.settings, plan.permits.count) == ("code", settings, 2)
    plan.permits._file.close()
