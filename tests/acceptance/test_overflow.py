"""A node has temporary workers while its own are not enough, whoever sizes it or not."""

from __future__ import annotations

import os
import signal
import time

import pytest
from deployment import DEADLINE, Deployment, Node, wait_until

from pooltasks import Pool

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]


@pytest.mark.parametrize("transport", ["pooltasks", "stock"])
def test_temporary_workers_come_for_what_waits_and_end_when_they_are_idle(
    deployment: Deployment, transport: str
) -> None:
    app = deployment.configure(f"""
        broker_transport = "{transport}"

        [pools.code]
        imports = ["sample_operations"]
        pool_size = 1
        max_overflow = 2
    """)
    deployment.start_node("-Q", "pool.code")
    node = Node(deployment, app)
    pool = Pool("code", app=app)
    node.wait_for(warm=1, overflow=0)
    results = [pool.submit("sample_operations.occupy", [3]) for _ in range(4)]
    status = node.wait_for(overflow=2, busy=3)
    assert (status["size"], status["warm"], status["prefetch"]) == (1, 3, 1)

    def told() -> bool:
        load = pool.metrics().load
        return (load.size, load.warm, load.overflow) == (1, 3, 2)

    wait_until(told, "a sample tells of them")
    pids = [result.get(timeout=DEADLINE) for result in results]
    assert len({*pids}) == 3
    (worker,) = node.wait_for(warm=1, overflow=0, busy=0)["workers"]
    assert worker["state"] == "warm"
    assert "Traceback" not in deployment.log()


def test_a_spare_is_a_temporary_worker_at_once(deployment: Deployment) -> None:
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 1
        max_overflow = 1
        spares = 1
        warmup = { commands = [{ operation = "sample_operations.warm", kwargs = { seconds = 3 } }] }
    """)
    deployment.start_node("-Q", "pool.code")
    node = Node(deployment, app)
    pool = Pool("code", app=app)
    (spare,) = (
        worker["pid"]
        for worker in node.wait_for(warm=1, spares=1, warming=0)["workers"]
        if worker["state"] == "spare"
    )
    busy = pool.submit("sample_operations.occupy", [4])
    node.wait_for(busy=1)
    waited_since = time.monotonic()
    assert pool.execute("sample_operations.probe", timeout=DEADLINE)["pid"] == spare
    assert time.monotonic() - waited_since < 2
    busy.get(timeout=DEADLINE)
    node.wait_for(warm=1, spares=1, warming=0, overflow=0)


def test_a_size_that_grows_takes_temporary_workers_over_and_a_dead_one_is_replaced(
    deployment: Deployment,
) -> None:
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 1
    """)
    deployment.start_node("-Q", "pool.code")
    node = Node(deployment, app)
    pool = Pool("code", app=app)
    node.wait_for(warm=1)
    # Nothing is set: somebody allows it, as a policy may.
    assert node.ask("pool_resize", size=1, overflow=1)["max_overflow"] == 1
    assert "overflow is -1" in node.ask("pool_resize", size=1, overflow=-1)["refused"]
    results = [pool.submit("sample_operations.occupy", [3]) for _ in range(2)]
    before = {worker["pid"] for worker in node.wait_for(overflow=1, busy=2)["workers"]}
    reply = node.ask("pool_resize", size=2)
    assert (reply["warm"], reply["warming"], reply["overflow"], reply["prefetch"]) == (2, 0, 0, 2)
    assert {worker["pid"] for worker in node.status()["workers"]} == before

    results += [pool.submit("sample_operations.occupy", [3]) for _ in range(1)]
    extra = {worker["pid"] for worker in node.wait_for(overflow=1, busy=3)["workers"]} - before
    # It goes when it is not needed, although none is allowed any more.
    assert node.ask("pool_resize", size=2, overflow=0)["max_overflow"] == 0
    os.kill(extra.pop(), signal.SIGKILL)
    assert len([result.get(timeout=DEADLINE) for result in results]) == 3
    node.wait_for(warm=2, overflow=0, busy=0)
