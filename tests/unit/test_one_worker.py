"""The worker of a debugging node: it hears orders as worker processes do, and tells as much."""

from __future__ import annotations

import gc
import json
import marshal
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import _state

from pooltasks.node.debugging.one_worker import OneWorker
from pooltasks.node.scoreboard.scoreboard import Scoreboard
from pooltasks.node.worker.warmup import Plan
from pooltasks.node.workforce.jobs import Call, Kind
from pooltasks.pool_settings import PoolSettings, WarmUp, WarmUpCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pooltasks.app import PoolApp
    from pooltasks.node.worker.error_reports import ErrorReport
    from pooltasks.node.worker.outcome import Ending
    from pooltasks.node.workforce.jobs import Blame

DEADLINE = 10.0


def open_() -> None:
    """Succeed."""


def charge() -> int:
    return 1 // 0


class Loop:
    """An event loop that runs until something is so."""

    def add_reader(self, fd: int, read: Callable[[], None]) -> None:
        self._fd, self._read = fd, read

    def call_repeatedly(self, _seconds: float, _function: Callable[[], None]) -> None:
        """Nothing here has limits."""

    def run_until(self, is_so: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not is_so():
            left = deadline - time.monotonic()
            assert left > 0, f"not within {DEADLINE} s"
            if select.select([self._fd], [], [], left)[0]:
                self._read()


class Caller:
    """Hears how an operation ended."""

    ending: Ending | None = None

    def buries(self, ending: Ending) -> bool:  # noqa: ARG002  the protocol's
        return False

    def on_accepted(self, pid: int, at: float) -> None:
        """It began."""

    def on_timeout(self, soft: bool, timeout: float) -> None:
        raise AssertionError(soft, timeout)

    def on_ended(self, ending: Ending, _stored: Any) -> None:
        self.ending = ending

    def on_lost(self, error: str, blame: Blame) -> None:
        raise AssertionError(error, blame)

    def on_terminated(self, signal: str) -> None:
        raise AssertionError(signal)


class Node:
    """What a node has of its worker."""

    def __init__(self, app: PoolApp, settings: PoolSettings) -> None:
        self.loop = Loop()
        self.errors: list[ErrorReport] = []
        self.plan = Plan.of("shop", settings, 1)
        self.worker = OneWorker(
            initargs=(app, "debugging@host"),
            plan=self.plan,
            scoreboard=Scoreboard(),
            stores=False,
            on_result=lambda _stored: None,
            on_error=self.errors.append,
        )
        self.worker.register_with_event_loop(self.loop)

    def close(self) -> None:
        """Close what is open as long as a node lives."""
        for file in (self.plan.permits._file, self.plan.orders._file):
            file.close()
        for end in (self.worker._reader, self.worker._writer):
            os.close(end)

    def run(self, operation: str) -> Caller:
        """Run an operation to its end."""
        caller, body = Caller(), json.dumps([[], {}, {}])
        headers = {"id": "op-1", "task": operation, "root_id": "op-1", "args": [], "kwargs": {}}
        payload = (operation, "op-1", headers, body, "application/json", "utf-8")
        call = Call(Kind.OPERATION, operation, marshal.dumps(payload))
        self.worker.submit(call, caller, limits=(None, None), correlation_id="op-1")
        self.loop.run_until(lambda: caller.ending)
        return caller

    def warm(self, operation: str, strategy: str = "parallel") -> list[tuple[str, bool]]:
        """Have it run an order; return the commands that were run, and whether each succeeded."""
        order = WarmUp.model_validate(
            {"strategy": strategy, "commands": [{"operation": operation}]}
        )
        number = self.worker.warm_again(order)
        self.loop.run_until(lambda: not self.worker.warm_ups.round.waiting)
        assert self.worker.warm_ups.round.number == number
        (report,) = self.worker.warm_ups.round.reports
        return [(command.operation, command.error is None) for command in report.commands]


@pytest.fixture
def start(
    make_app: Callable[..., PoolApp], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Node]]:
    app = make_app("shop", pools={"shop": {}})
    monkeypatch.setattr(_state, "default_app", app)  # of the worker's threads
    app.task(open_, name="shop.open", shared=False)
    app.task(charge, name="shop.charge", shared=False)
    nodes: list[Node] = []

    def start_node(*, lazy: bool = False) -> Node:
        commands = (WarmUpCommand(operation="shop.open"),)
        nodes.append(Node(app, PoolSettings(lazy=lazy, warmup=WarmUp(commands=commands))))
        node = nodes[-1]
        node.loop.run_until(lambda: node.worker.warm)
        return node

    yield start_node
    for node in nodes:
        node.worker.close()
    for thread in threading.enumerate():
        if thread.name == "pooltasks-worker":
            thread.join(DEADLINE)
            assert not thread.is_alive()
    for node in nodes:
        node.close()
    gc.unfreeze()  # a warm-up has frozen what is this process's


def test_the_node_takes_what_its_worker_tells_of_an_error(start):
    node = start()
    ending = node.run("shop.charge").ending
    assert ending.text == "ZeroDivisionError('integer division or modulo by zero')"
    (error,) = node.errors
    assert (error.head.operation, error.head.error) == ("shop.charge", "ZeroDivisionError")
    assert error.is_final
    assert error.example
    assert node.run("shop.open").ending  # the loop goes on
    assert len(node.errors) == 1


@pytest.mark.parametrize("strategy", ["parallel", "sequential", "staged"])
def test_the_worker_runs_what_the_order_says(start, strategy):
    node = start()
    assert node.warm("shop.open", strategy) == [("shop.open", True)]
    assert node.worker.warm_ups.round.strategy == strategy
    assert node.warm("shop.charge", strategy) == [("shop.charge", False)]
    assert "shop.charge" in node.worker.warm_ups.failed_report.failure
    assert node.worker.warm  # it was warm before, and stays so


def test_the_report_of_an_order_is_that_of_the_order_before_the_first_operation(start):
    """A lazy worker has not run the pool's own commands yet."""
    assert start(lazy=True).warm("shop.charge") == [("shop.charge", False)]
