"""Rolling deployments behind a load balancer, while a producer never stops."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import pytest
from deployment import DEADLINE, Deployment, wait_until
from tcp_proxy import Proxy

from pooltasks import Pool, keys

if TYPE_CHECKING:
    from celery.result import AsyncResult

CONFIGURATION = """
    [pools.code]
    imports = ["sample_operations"]
    pool_size = 2
    checkout_timeout = 60
"""
IDLE_SECONDS = 5.0
"""After which the load balancer cuts a connection."""
DEPLOYMENTS = 3
GRACE = 3.0
"""Seconds from SIGTERM to SIGKILL."""
HOSTILE = (b"{", b"\xff", b'{"properties": {}, "headers": {"task": 1, "id": "a"}, "body": "x"}')
EVERY = 0.05
LONG_EVERY, ONCE_EVERY, LATER_EVERY, HOSTILE_EVERY = 40, 7, 11, 60


class Producer:
    """Publishes until it is closed: short operations, long ones, some that never run twice."""

    def __init__(self, deployment: Deployment, pool: Pool) -> None:
        self._redis = deployment.redis
        self._pool = pool
        self.results: dict[str, tuple[str, AsyncResult]] = {}
        """By what each operation writes when it starts: its kind and result."""
        self.hostile = 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._ends.wait(EVERY):
            number += 1
            kind, seconds, options = "short", 0.0, {}
            if number % LONG_EVERY == 0:
                kind, seconds = "long", 2.0
            elif number % ONCE_EVERY == 0:
                kind, seconds = "once", 0.1
            elif number % LATER_EVERY == 0:
                options = {"countdown": 1.0}
            if number % HOSTILE_EVERY == 0:
                self._redis.lpush("pool.code", HOSTILE[self.hostile % len(HOSTILE)])
                self.hostile += 1
            name = "note_once" if kind == "once" else "note"
            mark = f"{kind}-{number}"
            operation = self._pool.app.tasks[f"sample_operations.{name}"]
            self.results[mark] = kind, operation.apply_async((mark, seconds), **options)


def end(node: subprocess.Popen[bytes]) -> bool:
    """End a node as a deployment does; return whether it had to be killed."""
    node.terminate()
    with suppress(subprocess.TimeoutExpired):
        node.wait(GRACE)
        return False
    node.kill()
    node.wait()
    return True


@pytest.mark.long
@pytest.mark.timing
def test_nobody_notices_rolling_deployments_behind_a_load_balancer(deployment: Deployment) -> None:
    address, _, database = deployment.url.rpartition("/")
    port = int(address.rpartition(":")[2])
    pool = Pool("code", app=deployment.configure(CONFIGURATION))
    pool.app.loader.import_task_module("sample_operations")
    pool.app.finalize()
    with Proxy(port, idle_seconds=IDLE_SECONDS) as balancer:
        deployment.environment["POOLTASKS_REDIS_URL"] = (
            f"redis://127.0.0.1:{balancer.port}/{database}"
        )

        def start(number: int) -> subprocess.Popen[bytes]:
            node = deployment.start_node("-Q", "pool.code", "-n", f"node-{number}@%h")
            place = deployment.nodes.index(node)
            wait_until(lambda: " ready." in deployment.log(place), "a node is ready")
            return node

        running = [start(0), start(1)]
        with Producer(deployment, pool) as producer:
            killed = 0
            for number in range(2, 2 + DEPLOYMENTS):
                running.append(start(number))
                killed += end(running.pop(0))
            at = time.monotonic()
            wait_until(lambda: time.monotonic() - at > IDLE_SECONDS + 1, "idle ones are cut")
        interrupted = check_ends(producer)
        starts = deployment.redis.hgetall("starts")
        assert all(node.poll() is None for node in running), "a node ended by itself"

    assert starts.keys() == producer.results.keys(), "something was lost"
    repeated = {mark: count for mark, count in starts.items() if count != "1"}
    assert not any(mark.startswith("once") for mark in repeated)
    # Each SIGKILL interrupts what two workers run, and what was written behind that.
    assert len(repeated) <= 4 * killed, repeated
    assert interrupted <= 2 * killed
    letters = deployment.redis.hlen(keys.dead_letters("pool.code"))
    assert letters == producer.hostile


def check_ends(producer: Producer) -> int:
    """Wait for every result; return how many were interrupted that must not run twice."""
    interrupted = 0
    for mark, (kind, result) in producer.results.items():
        answer: Any = result.get(timeout=DEADLINE, propagate=False)
        if isinstance(answer, Exception):
            assert kind == "once", f"{mark}: {answer!r}"
            assert "two times" in str(answer) or "twice" in str(answer)
            interrupted += 1
        else:
            assert answer == mark
    return interrupted
