"""Every event of the catalogue is emitted by the real processes."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from deployment import DEADLINE, Deployment, wait_until

from pooltasks import Pool, telemetry
from pooltasks.optimizer.controller import Controller

if TYPE_CHECKING:
    from pooltasks.app import PoolApp

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]


def events_of(deployment: Deployment) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in (deployment.folder / "events").iterdir()
        for line in path.read_text().splitlines()
    ]


def events_of_a_decision(app: PoolApp) -> list[str]:
    """Decide the size of the pool here, and return which events that emits."""
    told: list[str] = []
    telemetry.attach("decisions", "optimizer.decision", lambda name, *_: told.append(name))
    try:
        wait_until(lambda: Controller(app, "code").tick() and told, "a decision")
    finally:
        telemetry.detach("decisions")
    return told


def test_every_event_of_the_catalogue_is_emitted_where_it_happens(deployment: Deployment) -> None:
    (deployment.folder / "events").mkdir()
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 1
        health_check_interval = 0.2
        warmup = { commands = [{ operation = "sample_operations.warm" }] }
    """)
    pool = Pool("code", app=app)
    node = deployment.start_node("-Q", "pool.code")
    pool.submit("sample_operations.echo", [1]).get(timeout=DEADLINE)
    with pytest.raises(ValueError, match="as it was told"):
        pool.submit("sample_operations.fail").get(timeout=DEADLINE)
    pool.submit("sample_operations.fail_until", ["attempts", 2]).get(timeout=DEADLINE)
    pool.submit("sample_operations.unserialisable")
    pool.submit("sample_operations.ignore")
    pool.submit("sample_operations.die_once", ["deliveries"]).get(timeout=DEADLINE)
    wait_until(
        lambda: any(event["event"] == "worker.health_check" for event in events_of(deployment)),
        "a health check",
    )
    decided = events_of_a_decision(app)
    node.terminate()
    node.wait(DEADLINE)

    events = events_of(deployment)
    # A rollout takes a minute; its events are those of test_rollout.py.
    emitted = {event["event"] for event in events} | {*decided, "rollout"}
    assert emitted == set(telemetry.EVENTS)

    def only(name: str, **wanted: Any) -> dict[str, Any]:
        (found,) = (
            event for event in events if event["event"] == name and wanted.items() <= event.items()
        )
        return found

    start = only("operation.start", operation="sample_operations.echo")
    stop = only("operation.stop", operation="sample_operations.echo")
    checkin = only("worker.checkin", operation="sample_operations.echo")
    assert start["pool"] == "code"
    assert start["worker"] == start["pid"] != node.pid
    assert stop["outcome"] == "success"
    assert 0 <= start["wait"] == stop["wait"] < 30
    assert 0 < stop["run"] < checkin["busy"] < 5

    failed = only("operation.exception", operation="sample_operations.fail")
    assert (failed["outcome"], failed["category"]) == ("failure", "python")
    retried = only("operation.exception", operation="sample_operations.fail_until")
    assert (retried["outcome"], retried["category"]) == ("retry", "connection")
    assert only("operation.exception", operation="sample_operations.unserialisable")
    assert only("operation.stop", operation="sample_operations.ignore")["outcome"] == "ignored"
    assert only("error", operation="sample_operations.fail")["pid"] == start["pid"]

    again = only("operation.start", operation="sample_operations.die_once", redelivered=True)
    assert again["wait"] is None  # it had its wait before
    recovery = only("recovery")
    assert recovery["pid"] == node.pid
    assert recovery["exitcode"] == -signal.SIGKILL
    assert recovery["worker"] == again["worker"]
    assert 0 < recovery["duration"] < 10
    assert only("error", operation=None, category="communication")
    assert only("worker.terminate", expected=False)["worker"] == start["worker"]
    assert only("worker.terminate", expected=True)["worker"] == again["worker"]
    assert only("pool.init")["size"] == 1
    assert only("pool.terminate")["age"] > 0
    assert len([event for event in events if event["event"] == "warmup"]) == 2
    assert only("pool.warmup", round=0, workers=1, success_rate=1.0, strategy="parallel")


def test_a_handler_that_raises_breaks_no_operation(deployment: Deployment) -> None:
    (deployment.folder / "broken_handler.py").write_text(
        "from pooltasks import telemetry\n"
        "def broken(*_):\n"
        "    raise RuntimeError('of the handler')\n"
        "telemetry.attach('broken', 'operation.start', broken)\n"
    )
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations", "broken_handler"]
        pool_size = 1
    """)
    deployment.start_node("-Q", "pool.code")
    pool = Pool("code", app=app)
    assert [pool.execute("sample_operations.echo", [i], timeout=DEADLINE) for i in range(3)] == [
        0,
        1,
        2,
    ]
    assert deployment.log().count("telemetry handler 'broken' raised and is detached") == 1


def test_a_worker_that_is_killed_while_idle_is_a_recovery_too(deployment: Deployment) -> None:
    (deployment.folder / "events").mkdir()
    deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 2
    """)
    deployment.start_node("-Q", "pool.code")
    victim = deployment.wait_for_warm(2)["workers"][0]["pid"]
    killed_at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    recoveries = wait_until(
        lambda: [event for event in events_of(deployment) if event["event"] == "recovery"],
        "a replacement",
    )
    assert len(recoveries) == 1
    assert recoveries[0]["duration"] < time.monotonic() - killed_at
