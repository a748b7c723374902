"""A node, its workers or its server die, or are told to stop, at a bad moment."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from deployment import DEADLINE, Deployment, wait_until

from pooltasks import Pool
from pooltasks.embedded import EmbeddedServer, reserved_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.long

ONE_SLOW_WORKER = """
    [pools.code]
    imports = ["sample_operations"]
    pool_size = 1
    warmup = { commands = [{ operation = "sample_operations.warm", kwargs = { seconds = 2 } }] }
"""
TWO_WORKERS = """
    [pools.code]
    imports = ["sample_operations"]
    pool_size = 2
"""


def family_of(node: Any) -> list[psutil.Process]:
    parent = psutil.Process(node.pid)
    return [parent, *parent.children(recursive=True)]


def are_gone(processes: list[psutil.Process]) -> bool:
    return all(
        not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        for process in processes
    )


def kill_the_only_worker(deployment: Deployment) -> None:
    """Kill the warm worker and return once the node has noticed."""
    (worker,) = deployment.wait_for_warm(1)["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    # The replacement that warms up counts itself, and is forked after the gate closed.
    wait_until(lambda: deployment.redis.get("warm-ups") == "2", "a replacement warms up")


def test_while_no_worker_is_warm_what_is_published_stays_in_the_queue(
    deployment: Deployment,
) -> None:
    app = deployment.configure(ONE_SLOW_WORKER)
    deployment.start_node("-Q", "pool.code")
    kill_the_only_worker(deployment)

    # A BRPOP from before may still be at the server: it gets this operation.
    result = Pool("code", app=app).submit("sample_operations.probe")
    published_at = time.monotonic()
    wait_until(lambda: deployment.redis.llen("pool.code") == 1, "it is put back", deadline=0.2)
    while time.monotonic() - published_at < 1.0:
        assert deployment.redis.llen("pool.code") == 1
        assert deployment.reserved() == 0

    assert result.get(timeout=DEADLINE)["warm"]
    assert deployment.redis.llen("pool.code") == 0


def test_what_is_published_while_no_worker_is_warm_outlives_the_node(
    deployment: Deployment,
) -> None:
    app = deployment.configure(ONE_SLOW_WORKER)
    node = deployment.start_node("-Q", "pool.code")
    kill_the_only_worker(deployment)
    results = [Pool("code", app=app).submit("sample_operations.echo", [i]) for i in range(3)]
    wait_until(lambda: deployment.redis.llen("pool.code") == 3, "they wait", deadline=0.2)

    node.kill()
    node.wait(DEADLINE)

    assert deployment.redis.llen("pool.code") == 3
    deployment.start_node("-Q", "pool.code")
    assert [result.get(timeout=DEADLINE) for result in results] == [0, 1, 2]


def test_operations_keep_their_order_when_one_is_put_back(deployment: Deployment) -> None:
    app = deployment.configure(ONE_SLOW_WORKER)
    deployment.start_node("-Q", "pool.code")
    kill_the_only_worker(deployment)
    pool = Pool("code", app=app)
    results = [pool.submit("sample_operations.echo", [i]) for i in range(3)]
    wait_until(lambda: deployment.redis.llen("pool.code") == 3, "they wait", deadline=0.2)
    waiting = deployment.redis.lrange("pool.code", 0, -1)
    for result, message in zip(results, reversed(waiting), strict=True):
        assert result.id in message
    assert [result.get(timeout=DEADLINE) for result in results] == [0, 1, 2]


def test_a_node_told_to_stop_during_its_warm_up_stops_within_ten_seconds(
    deployment: Deployment,
) -> None:
    deployment.configure(ONE_SLOW_WORKER.replace("seconds = 2", "seconds = 60"))
    node = deployment.start_node("-Q", "pool.code")
    wait_until(lambda: deployment.redis.get("warm-ups") == "1", "the warm-up goes on")
    family = family_of(node)

    node.terminate()

    node.wait(10)
    wait_until(lambda: are_gone(family), "no process is left", deadline=1)


def test_a_node_told_to_stop_finishes_what_runs_and_leaves_the_rest(
    deployment: Deployment,
) -> None:
    app = deployment.configure(TWO_WORKERS)
    node = deployment.start_node("-Q", "pool.code")
    deployment.wait_for_warm(2)
    pool = Pool("code", app=app)
    running = [pool.submit("sample_operations.occupy", [2]) for _ in range(2)]
    wait_until(lambda: deployment.reserved() == 2, "both are reserved")
    waiting = [pool.submit("sample_operations.echo", [i]) for i in range(3)]
    family = family_of(node)

    node.terminate()

    assert node.wait(DEADLINE) == 0
    assert {result.get(timeout=1) for result in running} <= {process.pid for process in family}
    wait_until(lambda: are_gone(family), "no process is left", deadline=1)
    assert deployment.redis.llen("pool.code") == 3
    deployment.start_node("-Q", "pool.code")
    assert [result.get(timeout=DEADLINE) for result in waiting] == [0, 1, 2]


def test_the_workers_of_a_killed_node_die_with_it(deployment: Deployment) -> None:
    app = deployment.configure(TWO_WORKERS)
    node = deployment.start_node("-Q", "pool.code")
    deployment.wait_for_warm(2)
    Pool("code", app=app).submit("sample_operations.occupy", [20])
    wait_until(lambda: deployment.reserved() == 1, "it is reserved")
    family = family_of(node)
    assert len(family) == 3

    node.kill()

    node.wait(DEADLINE)
    wait_until(lambda: are_gone(family), "no worker is left", deadline=2)


@pytest.fixture
def restartable(tmp_path: Path) -> Iterator[tuple[EmbeddedServer, Deployment]]:
    """A server of its own on a fixed port, and a deployment on it."""
    with reserved_port(None) as port:
        pass
    server = EmbeddedServer(tmp_path / "data", port=port)
    server.start()
    deployment = Deployment(tmp_path, server.url)
    try:
        yield server, deployment
    finally:
        deployment.stop()
        server.stop()


def test_a_node_consumes_again_after_its_server_was_killed_and_started_again(
    restartable: tuple[EmbeddedServer, Deployment],
) -> None:
    server, deployment = restartable
    app = deployment.configure(TWO_WORKERS)
    deployment.start_node("-Q", "pool.code")
    deployment.wait_for_warm(2)
    pool = Pool("code", app=app)
    # Two are reserved and run, two wait in the list, when the server dies.
    accepted = [pool.submit("sample_operations.mark_and_occupy", ["run", 3]) for _ in range(4)]
    wait_until(lambda: deployment.redis.llen("run") == 2, "two run")

    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    log = deployment.log
    wait_until(lambda: "Connection to broker lost" in log(), "the node has noticed")
    server.start()

    # Another application: this one's connections are part of what died.
    again = Pool("code", app=deployment.configure(TWO_WORKERS))
    assert again.execute("sample_operations.echo", ["again"], timeout=DEADLINE) == "again"
    for result in accepted:
        again.app.AsyncResult(result.id).get(timeout=DEADLINE)
    assert deployment.nodes[0].poll() is None
    assert deployment.redis.llen("run") == 4, "what ran when the server died ran on, once"
