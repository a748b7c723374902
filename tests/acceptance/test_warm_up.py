"""No operation starts before its worker is warm."""

from __future__ import annotations

import json
import os
import signal
from itertools import pairwise
from typing import Any

import pytest
from deployment import DEADLINE, Deployment, wait_until

from pooltasks import Pool

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]


def test_with_a_warm_up_of_six_seconds_no_operation_runs_on_a_cold_worker(
    deployment: Deployment,
) -> None:
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 2
        warmup = { commands = [{ operation = "sample_operations.warm", kwargs = { seconds = 6 } }] }
    """)
    pool = Pool("code", app=app)
    results = [pool.submit("sample_operations.probe") for _ in range(4)]
    deployment.start_node("-Q", "pool.code")

    answers = [result.get(timeout=DEADLINE) for result in results]
    assert all(answer["warm"] for answer in answers)

    status = deployment.wait_for_warm(2)
    victim = status["workers"][0]["pid"]
    os.kill(victim, signal.SIGKILL)
    answers = [pool.submit("sample_operations.probe") for _ in range(8)]
    assert all(answer.get(timeout=DEADLINE)["warm"] for answer in answers)

    app.control.pool_grow(1)
    status = deployment.wait_for_warm(3)
    assert victim not in [worker["pid"] for worker in status["workers"]]
    results = [pool.submit("sample_operations.probe") for _ in range(12)]
    assert all(result.get(timeout=DEADLINE)["warm"] for result in results)
    # Two at the start, one replacement, one more: none was killed and tried again.
    assert deployment.redis.get("warm-ups") == "4"


def overlaps(timeline: list[dict[str, Any]]) -> int:
    """Return the largest number of warm-ups that went on at once."""
    return max(
        sum(other["started_at"] <= one["started_at"] < other["finished_at"] for other in timeline)
        for one in timeline
    )


@pytest.mark.parametrize(
    ("strategy", "at_once"), [("parallel", 6), ("staged", 2), ("sequential", 1)]
)
@pytest.mark.timing
def test_the_strategy_decides_how_many_workers_warm_up_at_once(
    deployment: Deployment, strategy: str, at_once: int
) -> None:
    deployment.configure(f"""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 6
        [pools.code.warmup]
        strategy = "{strategy}"
        commands = [{{ operation = "sample_operations.warm", kwargs = {{ seconds = 0.5 }} }}]
    """)
    deployment.start_node("-Q", "pool.code")
    report = deployment.wait_for_warm(6)["warm_up"]

    assert overlaps(report["timeline"]) == at_once
    command = report["commands"]["sample_operations.warm"]
    assert report["success_rate"] == 1
    assert command["failures"] == 0
    assert 0.5 <= command["average_seconds"] <= command["maximum_seconds"] < 2
    assert report["seconds"] >= 0.5 * 6 / at_once


def test_a_warm_up_that_fails_is_reported_retried_with_backoff_and_reserves_nothing(
    deployment: Deployment,
) -> None:
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 1
        [[pools.code.warmup.commands]]
        operation = "sample_operations.warm"
        kwargs = { unless = "repaired" }
    """)
    result = Pool("code", app=app).submit("sample_operations.probe")
    node = deployment.start_node("-Q", "pool.code")

    wait_until(lambda: int(deployment.redis.get("warm-ups") or 0) >= 3, "three attempts")
    # 0.5 s and 1 s lie between three attempts; a pool that spins makes hundreds.
    assert int(deployment.redis.get("warm-ups")) <= 4
    assert deployment.redis.llen("pool.code") == 1
    assert "RuntimeError: the warm-up is told to fail" in deployment.log()
    assert node.poll() is None

    deployment.redis.set("repaired", 1)
    assert result.get(timeout=DEADLINE)["warm"]


def test_a_warm_up_that_hangs_is_ended_at_init_timeout(deployment: Deployment) -> None:
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 1
        init_timeout = 1
        warmup = { commands = [{ operation = "sample_operations.hang_in_warm_up_once" }] }
    """)
    deployment.start_node("-Q", "pool.code")
    assert Pool("code", app=app).submit("sample_operations.probe").get(timeout=DEADLINE)["warm"]
    assert deployment.redis.get("hangs") == "2"
    assert "was not warm within init_timeout" in deployment.log()


def test_a_lazy_pool_warms_a_worker_up_at_its_first_operation(deployment: Deployment) -> None:
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 1
        lazy = true
        warmup = { commands = [{ operation = "sample_operations.warm" }] }
    """)
    deployment.start_node("-Q", "pool.code")
    deployment.wait_for_warm(1)
    assert deployment.redis.get("warm-ups") is None
    assert Pool("code", app=app).submit("sample_operations.probe").get(timeout=DEADLINE)["warm"]
    assert deployment.redis.get("warm-ups") == "1"


def test_pool_warm_warms_every_worker_again_also_a_busy_one_and_reports(
    deployment: Deployment,
) -> None:
    (deployment.folder / "events").mkdir()
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 2
        warmup = { commands = [{ operation = "sample_operations.warm" }] }
    """)
    deployment.start_node("-Q", "pool.code")
    deployment.wait_for_warm(2)
    busy = Pool("code", app=app).submit("sample_operations.occupy", [2])

    completed = deployment.run("celery", "-A", "pooltasks", "pool", "warm", "--json")

    assert completed.returncode == 0, completed.stderr
    (report,) = json.loads(completed.stdout).values()
    assert report["workers"] == report["succeeded"] == 2
    assert report["finished"]
    assert busy.get(timeout=DEADLINE) in [worker["pid"] for worker in report["timeline"]]
    assert deployment.redis.get("warm-ups") == "4"
    lines = [
        json.loads(line)
        for path in (deployment.folder / "events").iterdir()
        for line in path.read_text().splitlines()
    ]
    assert "pool code: 2 of 2 workers are warm after " in deployment.log()
    told = [event for event in lines if event["event"] == "pool.warmup"]
    assert [(event["round"], event["workers"], event["success_rate"]) for event in told] == [
        (0, 2, 1.0),
        (1, 2, 1.0),
    ]


def test_a_call_has_its_own_commands_and_strategy(deployment: Deployment) -> None:
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 3
    """)
    deployment.start_node("-Q", "pool.code")
    deployment.wait_for_warm(3)
    pool = Pool("code", app=app)
    command = {"operation": "sample_operations.warm", "kwargs": {"seconds": 0.1}}
    (report,) = pool.warm(strategy="sequential", commands=[command, command]).values()
    assert (report["finished"], report["success_rate"]) == (True, 1.0)
    its = report["timeline"]
    assert [worker["error"] for worker in its] == [None] * 3
    for earlier, later in pairwise(its):
        assert later["started_at"] >= earlier["finished_at"]
    assert deployment.redis.get("warm-ups") == "6"

    slow = {**command, "kwargs": {"seconds": DEADLINE}, "timeout": 0.1}
    (report,) = pool.warm(commands=[slow]).values()
    assert (report["finished"], report["succeeded"]) == (True, 0)
    assert "it has 0.1 s" in report["timeline"][0]["error"]

    (report,) = pool.warm(commands=[{"operation": "no.such"}]).values()
    assert report["refused"] == "there is no operation 'no.such'"
