"""Nothing that was accepted is lost, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from celery import chord
from celery.exceptions import NotRegistered
from deployment import DEADLINE, Deployment, wait_until

from pooltasks import Pool, keys
from pooltasks.broker.watching import LEASE_SECONDS
from pooltasks.errors import PoisonedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from celery import Signature

    from pooltasks.app import PoolApp

pytestmark = pytest.mark.long

CONFIGURATION = """
    [pools.code]
    imports = ["sample_operations"]
    pool_size = 4
"""


@pytest.fixture
def deployment(redis_url: str, tmp_path: Path) -> Iterator[Deployment]:
    """An empty deployment on each of the servers: their scripts and blocking commands differ."""
    with Deployment(tmp_path, redis_url) as deployment:
        yield deployment


@pytest.fixture
def app(deployment: Deployment) -> PoolApp:
    return deployment.configure(CONFIGURATION)


def start_two_nodes(deployment: Deployment) -> None:
    """Start two nodes and wait until each has seen that the other lives."""
    for name in ("first", "second"):
        deployment.start_node("-Q", "pool.code", "-n", f"{name}@%h", "-c", "8")
    wait_until(
        lambda: all(" ready." in deployment.log(number) for number in (0, 1)), "two ready nodes"
    )
    wait_until(lambda: deployment.living() == 2, "two leases")
    seen_at = time.monotonic()
    wait_until(lambda: time.monotonic() - seen_at > 0.3, "both have looked at each other")


def marks(deployment: Deployment) -> list[dict[str, Any]]:
    return [json.loads(mark) for mark in deployment.redis.lrange("marks", 0, -1)]


def occupied(deployment: Deployment, app: PoolApp) -> tuple[list[Any], int]:
    """Start two nodes and 8 operations; return their results and how many the first node runs."""
    start_two_nodes(deployment)
    pool = Pool("code", app=app)
    results = [pool.submit("sample_operations.mark_and_occupy", ["marks", 1.5]) for _ in range(8)]
    wait_until(lambda: deployment.redis.llen("marks") == 8, "8 running operations")
    node = deployment.nodes[0].pid
    on_first = sum(mark["node"] == node for mark in marks(deployment))
    assert on_first, "the first node ran nothing: the test shows nothing"
    return results, on_first


@pytest.mark.timing
def test_what_a_killed_node_ran_runs_elsewhere_within_half_a_second(
    deployment: Deployment, app: PoolApp
) -> None:
    results, on_first = occupied(deployment, app)

    killed_at = time.time()
    deployment.nodes[0].kill()
    wait_until(lambda: deployment.redis.llen("marks") == 8 + on_first, "all run again")

    later = [mark["at"] - killed_at for mark in marks(deployment)[8:]]
    assert max(later) < 0.5
    for result in results:
        result.get(timeout=DEADLINE)
    assert deployment.redis.llen("marks") == 8 + on_first
    assert "its connections closed" in deployment.log(1)


@pytest.mark.timing
def test_what_a_frozen_node_ran_runs_elsewhere_within_its_lease_and_the_node_rejoins(
    deployment: Deployment, app: PoolApp
) -> None:
    results, on_first = occupied(deployment, app)
    node = psutil.Process(deployment.nodes[0].pid)
    frozen = [node, *node.children(recursive=True)]
    frozen_at = time.time()
    for process in frozen:
        process.suspend()
    try:
        wait_until(lambda: deployment.redis.llen("marks") >= 8 + on_first, "all run again")
        later = [mark["at"] - frozen_at for mark in marks(deployment)[8:]]
        assert max(later) < LEASE_SECONDS + 1.5
    finally:
        for process in frozen:
            process.resume()
    for result in results:
        result.get(timeout=DEADLINE)
    wait_until(lambda: "was taken for dead" in deployment.log(0), "the node notices")
    wait_until(lambda: deployment.living() == 2, "it rejoins")
    assert deployment.nodes[0].poll() is None


@pytest.mark.timing
def test_what_workers_run_when_only_their_node_freezes_is_completed_by_them(
    deployment: Deployment, app: PoolApp
) -> None:
    results, _ = occupied(deployment, app)
    deployment.nodes[0].send_signal(signal.SIGSTOP)
    try:
        for result in results:
            result.get(timeout=LEASE_SECONDS)
    finally:
        deployment.nodes[0].send_signal(signal.SIGCONT)
    wait_until(lambda: not deployment.reserved(), "all are acknowledged")
    assert deployment.redis.llen("marks") == 8


def test_an_operation_that_kills_its_worker_starts_max_deliveries_times(
    deployment: Deployment, app: PoolApp
) -> None:
    deployment.start_node("-Q", "pool.code")
    pool = Pool("code", app=app)
    poison = pool.submit("sample_operations.die_always", ["starts"])
    neighbours = [pool.submit("sample_operations.echo", [number]) for number in range(40)]

    with pytest.raises(PoisonedError, match="killed its worker or node at each of 3 deliveries"):
        poison.get(timeout=DEADLINE)
    assert deployment.redis.get("starts") == "3"
    assert [neighbour.get(timeout=DEADLINE) for neighbour in neighbours] == list(range(40))

    listed = deployment.run("pooltasks", "dead", "list", "code", "--json")
    (letter,) = json.loads(listed.stdout)
    assert letter["id"] == poison.id
    assert letter["deliveries"] == 3
    assert deployment.run("pooltasks", "dead", "retry", "code", poison.id).returncode == 0
    again = wait_until(lambda: deployment.redis.get("starts") == "6", "it runs again, 3 times")
    assert again


def test_a_chord_whose_part_loses_its_worker_after_its_success_is_complete(
    deployment: Deployment, app: PoolApp
) -> None:
    deployment.start_node("-Q", "pool.code", "-c", "2")

    def call(operation: str, *args: Any) -> Signature:
        return app.signature(f"sample_operations.{operation}", args, queue="pool.code")

    header = [call("die_before_it_is_counted", "counted"), call("echo", "other")]
    body = chord(header)(call("echo"))
    assert body.get(timeout=DEADLINE) == ["counted", "other"]
    assert deployment.redis.get("counted") == "2"


def test_an_operation_that_kills_its_node_starts_max_deliveries_times(
    deployment: Deployment, app: PoolApp
) -> None:
    for number in range(4):
        deployment.start_node("-Q", "pool.code", "-n", f"n{number}@%h", "-c", "2")
    wait_until(lambda: deployment.living() == 4, "four leases")
    seen_at = time.monotonic()
    wait_until(lambda: time.monotonic() - seen_at > 0.5, "they have seen each other")
    pool = Pool("code", app=app)
    # Those that run beside it die with it, and wait with it for their turn.
    neighbours = [pool.submit("sample_operations.occupy", [0.2]) for _ in range(12)]
    poison = pool.submit("sample_operations.kill_the_node", ["starts"])
    neighbours += [pool.submit("sample_operations.occupy", [0.2]) for _ in range(12)]

    with pytest.raises(PoisonedError, match="killed its worker or node at each of 3 deliveries"):
        poison.get(timeout=DEADLINE)
    assert deployment.redis.get("starts") == "3"
    for neighbour in neighbours:
        neighbour.get(timeout=DEADLINE)
    assert sum(node.poll() is None for node in deployment.nodes) == 1
    (letter,) = json.loads(deployment.run("pooltasks", "dead", "list", "code", "--json").stdout)
    assert letter["id"] == poison.id


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"properties": {}, "headers": {}}',
        b'{"properties": {}, "headers": [], "body": ""}',
        b'{"properties": {"body_encoding": "base64"}, "headers": {}, "body": "\xc3\xa9"}',
        b'{"properties": 3, "headers": {}, "body": ""}',
        b'{"properties": {"delivery_info": 3}, "headers": {"task": "a", "id": "b"}, "body": ""}',
        (
            b'{"properties": {"delivery_info": {}, "body_encoding": "base64"}, "content-type": '
            b'"application/json", "content-encoding": "utf-8", "body": "W1tdLHt9LHt9XQ==", '
            b'"headers": {"task": "sample_operations.echo", '
            b'"id": "c", "retries": [], "timelimit": 7}}'
        ),
        b'{"properties": {}, "headers": {"task": 1, "id": "a"}, "body": "x"}',
        b'{"properties": {}, "headers": {"task": "sample_operations.echo", "id": 3}, "body": "x"}',
    ],
)
def test_what_is_no_message_becomes_a_dead_letter_and_harms_nobody(
    serving: Deployment, junk: bytes
) -> None:
    letters = keys.dead_letters("pool.code")
    before = serving.redis.hlen(letters)
    serving.redis.lpush("pool.code", junk)
    assert serving.pool.execute("sample_operations.echo", ["after"], timeout=DEADLINE) == "after"
    assert serving.redis.hlen(letters) == before + 1
    assert serving.nodes[0].poll() is None


def test_an_operation_that_nobody_knows_becomes_a_dead_letter_with_a_result(
    serving: Deployment,
) -> None:
    result = serving.app.send_task("sample_operations.nothing", queue="pool.code")
    with pytest.raises(NotRegistered):
        result.get(timeout=DEADLINE)
    listed = serving.run(
        "pooltasks", "dead", "list", "code", "--operation", "sample_operations.nothing", "--json"
    )
    (letter,) = json.loads(listed.stdout)
    assert letter["id"] == result.id
    assert letter["reason"].startswith("rejected")


def orphans(deployment: Deployment) -> list[int]:
    """Return the processes of the deployment whose parent is gone."""
    return [
        process.pid
        for process in psutil.process_iter(["cwd", "ppid"])
        if process.info["cwd"] == str(deployment.folder)
        and process.info["ppid"] not in (os.getpid(), *(node.pid for node in deployment.nodes))
    ]


def test_no_operation_is_lost_when_nodes_are_killed_at_any_moment(
    deployment: Deployment, app: PoolApp
) -> None:
    pool = Pool("code", app=app)
    deployment.start_node("-Q", "pool.code", "-n", "watcher@%h", "-c", "1")
    results = [pool.submit("sample_operations.echo", [number]) for number in range(600)]
    for number in range(4):
        victim = deployment.start_node("-Q", "pool.code", "-n", f"victim-{number}@%h")
        wait_until(lambda: deployment.living() >= 2, "it has its lease")
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
    assert [result.get(timeout=DEADLINE) for result in results] == list(range(600))
    wait_until(lambda: not orphans(deployment), "every worker of a killed node is dead")
    wait_until(lambda: not deployment.reserved(), "nothing is left reserved")
