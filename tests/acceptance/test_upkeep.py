"""A node looks after its workers."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest
from deployment import DEADLINE, Deployment, Node, wait_until

from pooltasks import Pool

pytestmark = pytest.mark.timeout(120)


def events(deployment: Deployment, name: str) -> list[dict[str, Any]]:
    """Return the events of that name that the processes of a deployment have noted."""
    lines = [
        line
        for path in (deployment.folder / "events").iterdir()
        for line in path.read_text().splitlines()
    ]
    return [event for event in map(json.loads, lines) if event["event"] == name]


def test_a_worker_that_hangs_is_replaced_and_a_busy_one_is_not(deployment: Deployment) -> None:
    (deployment.folder / "events").mkdir()
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 4
        health_check_interval = 0.4
        max_health_failures = 3
    """)
    deployment.start_node("-Q", "pool.code")
    pool = Pool("code", app=app)
    node = Node(deployment, app)
    node.wait_for(warm=4)
    busy = [
        pool.submit("sample_operations.compute", ["python", 4], {"in_c": False}),
        pool.submit("sample_operations.compute", ["c", 4], {"in_c": True}),
        pool.submit("sample_operations.occupy", [4]),
    ]
    hung = pool.submit("sample_operations.hang_once", ["hung"])
    wait_until(lambda: deployment.redis.get("hung"), "it hangs")
    started_at = time.monotonic()
    # It could be ended by its own limits only after 30 s and 3 s more.
    assert hung.get(timeout=DEADLINE) == 2
    assert time.monotonic() - started_at < 15
    assert [result.get(timeout=DEADLINE) for result in busy[:2]] == [1, 1]
    assert busy[2].get(timeout=DEADLINE) in {worker["pid"] for worker in node.status()["workers"]}

    (death,) = events(deployment, "worker.terminate")
    assert (death["cause"], death["expected"]) == ("unhealthy", False)
    checks = [
        e for e in events(deployment, "worker.health_check") if e["worker"] == death["worker"]
    ]
    assert [check["problems"] for check in checks[-3:]] == [["unresponsive"]] * 3
    assert checks[-1]["failures"] == 3
    (recovery,) = events(deployment, "recovery")
    assert recovery["cause"] == "unhealthy"
    assert all(worker["health"]["failures"] == 0 for worker in node.status()["workers"])


def test_workers_are_recycled_one_at_a_time_behind_a_warm_replacement(
    deployment: Deployment,
) -> None:
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 2
        recycle_operations = 20
        memory_limit_mb = 250
        health_check_interval = 0.3
        max_health_failures = 2
        [[pools.code.warmup.commands]]
        operation = "sample_operations.warm"
        kwargs = { seconds = 0.5 }
    """)
    deployment.start_node("-Q", "pool.code")
    pool = Pool("code", app=app)
    node = Node(deployment, app)
    first = {worker["pid"] for worker in node.wait_for(warm=2)["workers"]}
    seen = []

    def replaced(workers: set[int]) -> bool:
        seen.append(node.status())
        return not workers & {worker["pid"] for worker in seen[-1]["workers"]}

    # Each worker gets its share of operations this long. One may run all that are very short.
    marks = [str(number) for number in range(100)]
    results = [pool.submit("sample_operations.note", [mark, 0.02]) for mark in marks]
    wait_until(lambda: replaced(first), "both are replaced")
    assert [result.get(timeout=DEADLINE) for result in results] == marks

    fat = pool.execute("sample_operations.keep_in_memory", [300], timeout=DEADLINE)
    wait_until(lambda: replaced({fat}), "the one with too much memory is replaced")
    assert all(status["warm"] == 2 for status in seen)
    assert all(len(status["workers"]) <= 3 for status in seen)
    assert all(sum(w["outgoing"] for w in status["workers"]) <= 1 for status in seen)
    assert "it has run" in deployment.log()
    assert f"worker {fat} is replaced: it uses" in deployment.log()


def test_the_cause_of_a_death_is_told(deployment: Deployment) -> None:
    (deployment.folder / "events").mkdir()
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 1
        spares = 1
        max_deliveries = 1
    """)
    deployment.start_node("-Q", "pool.code")
    pool = Pool("code", app=app)
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL):
        pool.submit("sample_operations.die_of", [number]).get(timeout=DEADLINE, propagate=False)
    wait_until(lambda: len(events(deployment, "recovery")) == 3, "three recoveries")
    assert [e["cause"] for e in events(deployment, "recovery")] == ["segfault", "abort", "killed"]
