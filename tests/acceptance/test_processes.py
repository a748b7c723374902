"""Operations start processes of their own; these end with their worker (celery #1709)."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import process_operations as operations
import pytest
from deployment import DEADLINE, Deployment, has_ended, wait_until

from pooltasks import Pool

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.long

POOLS = """
[pools.code]
imports = ["process_operations"]
pool_size = 1
slots = {slots}

[pools.other]
"""


@pytest.fixture(params=[1, 4], ids=["one slot", "slots"])
def deployed(request: pytest.FixtureRequest, deployment: Deployment) -> Deployment:
    """A node with one worker."""
    deployment.configure(POOLS.format(slots=request.param))
    deployment.start_node("-Q", "pool.code")
    return deployment


def run(deployed: Deployment, operation: Any, *args: Any, **kwargs: Any) -> Any:
    pool = Pool("code", app=deployed.app)
    return pool.submit(operation.name, args, kwargs).get(timeout=DEADLINE)


def wait_until_ended(processes: Mapping[str, Any]) -> None:
    try:
        for kind, pid in processes.items():
            wait_until(lambda pid=pid: has_ended(int(pid)), f"the process {kind} has ended")
    finally:
        for pid in processes.values():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def test_operations_start_processes(deployed: Deployment) -> None:
    for method in ("fork", "spawn", "forkserver"):
        assert run(deployed, operations.by_process, method, 7) == 49
    assert run(deployed, operations.by_executor, "spawn", [1, 2, 3]) == [1, 4, 9]
    assert run(deployed, operations.by_pool, "fork", [1, 2, 3]) == [1, 4, 9]


def test_a_process_of_an_operation_is_one_of_python_s_and_no_worker(deployed: Deployment) -> None:
    assert run(deployed, operations.terminated_child) == -signal.SIGTERM


def test_a_process_has_connections_of_its_own(deployed: Deployment) -> None:
    assert run(deployed, operations.publish_beside_a_child, "used") == 0
    assert int(deployed.redis.get("used")) == 41
    assert deployed.redis.llen("pool.other") == 41


def test_processes_outlive_their_operation_and_end_with_their_worker(deployed: Deployment) -> None:
    started = run(deployed, operations.leave_processes)
    assert run(deployed, operations.by_process, "fork", 2) == 4
    assert not any(has_ended(pid) for pid in started.values())
    os.kill(started["worker"], signal.SIGKILL)
    wait_until_ended(started)
    assert run(deployed, operations.by_process, "fork", 3) == 9


def test_processes_end_with_a_worker_that_a_hard_limit_ends(deployed: Deployment) -> None:
    result = Pool("code", app=deployed.app).submit(
        operations.leave_processes_and_hang.name, ("started",)
    )
    started = wait_until(lambda: deployed.redis.hgetall("started"), "the processes")
    wait_until_ended(started)
    with suppress(Exception):  # which error that is, other tests say
        result.get(timeout=DEADLINE)


def test_processes_end_with_a_node_that_is_stopped(deployed: Deployment) -> None:
    started = run(deployed, operations.leave_processes)
    (node,) = deployed.nodes
    node.send_signal(signal.SIGTERM)
    assert node.wait(DEADLINE) == 0
    wait_until_ended(started)


def test_forked_processes_end_with_a_node_that_is_killed(deployed: Deployment) -> None:
    started = run(deployed, operations.leave_processes)
    (node,) = deployed.nodes
    node.kill()
    node.wait(DEADLINE)
    program = started.pop("executed")  # of that nobody is told: see docs/adopting.md
    wait_until_ended(started)
    with suppress(ProcessLookupError):
        os.kill(program, signal.SIGKILL)
