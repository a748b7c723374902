"""Workers wait at the server themselves while operations come one by one; nothing else differs."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError
from deployment import DEADLINE, Deployment, has_ended, wait_until

from pooltasks import Pool
from pooltasks.errors import PoisonedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from celery.result import AsyncResult

    from pooltasks.app import PoolApp

pytestmark = pytest.mark.long

WORKERS = 4
CONFIGURATION = """
    [pools.code]
    imports = ["own_wait_operations"]
    pool_size = 4
    max_pool_size = 6
    max_deliveries = 2
    max_overflow = 0
    enable_optimizer = false
"""


@pytest.fixture
def deployment(redis_url: str, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path, redis_url) as deployment:
        yield deployment


@pytest.fixture
def app(deployment: Deployment) -> PoolApp:
    app = deployment.configure(CONFIGURATION)
    deployment.start_node("-Q", "pool.code", "-n", "first@%h")
    deployment.wait_for_warm(WORKERS)
    return app


def waiting(deployment: Deployment) -> int:
    """How many connections wait at the server for a message of the pool."""
    return sum(each["cmd"] == "blmove" for each in deployment.redis.client_list())


class Trickle:
    """Operations that come one by one, each known by its number."""

    def __init__(self, app: PoolApp, *, pause: float = 0.01, seconds: float = 0.001) -> None:
        self._pause, self._seconds = pause, seconds
        self._pool = Pool("code", app=app)
        self._is_over = threading.Event()
        self.results: dict[int, AsyncResult[Any]] = {}
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        while not self._is_over.wait(self._pause):
            number = len(self.results)
            self.results[number] = self._pool.submit(
                "own_wait_operations.note", [f"trickle-{number}", self._seconds]
            )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def wait(self) -> None:
        """Wait until every operation has ended well."""
        for number, result in self.results.items():
            assert result.get(timeout=DEADLINE) is not None, number


@contextmanager
def trickle(deployment: Deployment, app: PoolApp) -> Iterator[Trickle]:
    """Have operations come, and workers wait for them themselves; at the end all have run."""
    its = Trickle(app)
    its.start()
    try:
        wait_until(lambda: waiting(deployment) >= WORKERS - 1, "workers that wait themselves")
        yield its
    finally:
        its.stop()
    its.wait()


def runs(deployment: Deployment) -> dict[str, int]:
    """How often each operation of a trickle has run."""
    starts = deployment.redis.hgetall("starts")
    return {mark: int(times) for mark, times in starts.items() if mark.startswith("trickle-")}


def assert_all_ran_once(deployment: Deployment, its: Trickle) -> None:
    assert runs(deployment) == {f"trickle-{number}": 1 for number in its.results}


def test_all_that_comes_runs_once_and_is_counted(deployment: Deployment, app: PoolApp) -> None:
    with trickle(deployment, app) as its:
        sent = len(its.results)
        wait_until(lambda: len(its.results) > sent + 200, "operations that come one by one")
        before = waiting(deployment)
    assert before >= WORKERS - 1
    assert_all_ran_once(deployment, its)
    name = "own_wait_operations.note"
    wait_until(lambda: waiting(deployment) == 1, "a node that waits itself where nothing comes")
    inspect = app.control.inspect(timeout=1)
    (stats,) = (inspect.stats() or {}).values()
    assert stats["total"][name] == len(its.results)
    assert deployment.reserved() == 0
    assert deployment.log().count(f"Task {name}") >= 2 * len(its.results), "received, succeeded"
    wait_until(
        lambda: (
            sum(each["operations"] for each in deployment.status()["workers"]) >= len(its.results)
        ),
        "workers that have run them",
    )


def test_errors_retries_and_rare_kinds_end_as_always(deployment: Deployment, app: PoolApp) -> None:
    pool = Pool("code", app=app)
    with trickle(deployment, app):
        failed = pool.submit("own_wait_operations.fail", ["so"])
        retried = pool.submit("own_wait_operations.fail_until", ["attempts", 3])
        rejected = pool.submit("own_wait_operations.reject", ["for good"])
        due = app.send_task("own_wait_operations.note", ["due"], queue="pool.code", countdown=0.5)
        once = pool.submit("own_wait_operations.note_once", ["once"])
        unknown = app.send_task("own_wait_operations.nothing", queue="pool.code")
        limited = pool.submit("own_wait_operations.sleep", [30])
        with pytest.raises(ValueError, match="so"):
            failed.get(timeout=DEADLINE)
        assert retried.get(timeout=DEADLINE)
        with pytest.raises(Exception, match="for good"):
            rejected.get(timeout=DEADLINE)
        assert due.get(timeout=DEADLINE) == "due"
        assert once.get(timeout=DEADLINE) == "once"
        with pytest.raises(Exception, match="nothing"):
            unknown.get(timeout=DEADLINE)
        with pytest.raises(SoftTimeLimitExceeded):
            limited.get(timeout=DEADLINE)
    assert deployment.redis.hget("starts", "once") == "1"


def test_a_long_operation_is_the_nodes_with_its_limits(
    deployment: Deployment, app: PoolApp
) -> None:
    with trickle(deployment, app):
        begun = time.monotonic()
        result = app.send_task(
            "own_wait_operations.note",
            ["soft", 60],
            queue="pool.code",
            soft_time_limit=1.5,
            time_limit=20,
        )
        hard = app.send_task(
            "own_wait_operations.hang", ["hung"], queue="pool.code", time_limit=1.5
        )
        inspect = app.control.inspect(timeout=0.5)

        def active() -> set[str]:
            return {each["id"] for its in (inspect.active() or {}).values() for each in its}

        wait_until(lambda: {result.id, hard.id} <= active(), "two active operations")
        with pytest.raises(SoftTimeLimitExceeded):
            result.get(timeout=DEADLINE)
        assert time.monotonic() - begun < 5
        with pytest.raises(Exception, match="TimeLimitExceeded"):
            hard.get(timeout=DEADLINE)
    assert deployment.redis.hget("starts", "hung") == "1"


def test_an_operation_is_revoked_while_it_runs(deployment: Deployment, app: PoolApp) -> None:
    with trickle(deployment, app) as its:
        result = app.send_task("own_wait_operations.note", ["long", 60], queue="pool.code")
        wait_until(lambda: deployment.redis.hexists("starts", "long"), "an operation that runs")
        result.revoke(terminate=True)
        with pytest.raises(TaskRevokedError):
            result.get(timeout=DEADLINE)
    assert deployment.redis.hget("starts", "long") == "1"
    assert set(runs(deployment).values()) <= {1, 2}, "beside it, nothing runs more than twice"
    assert len(runs(deployment)) == len(its.results)


def test_one_that_runs_goes_on_when_it_is_revoked_too_late(
    deployment: Deployment, app: PoolApp
) -> None:
    with trickle(deployment, app):
        result = app.send_task("own_wait_operations.note", ["long", 1.0], queue="pool.code")
        wait_until(lambda: deployment.redis.hexists("starts", "long"), "an operation that runs")
        result.revoke()
        assert result.get(timeout=DEADLINE) == "long"


def test_what_a_killed_worker_ran_runs_again_and_what_kills_workers_ends(
    deployment: Deployment, app: PoolApp
) -> None:
    pool = Pool("code", app=app)
    with trickle(deployment, app) as its:
        died = pool.submit("own_wait_operations.die", ["died", 1])
        assert died.get(timeout=DEADLINE) == 2
        poison = pool.submit("own_wait_operations.die", ["poison", 9])
        with pytest.raises(PoisonedError):
            poison.get(timeout=DEADLINE)
    assert deployment.redis.hget("starts", "poison") == "2"
    assert len(runs(deployment)) == len(its.results)
    assert deployment.reserved() == 0


def test_idle_workers_are_killed_while_they_wait(deployment: Deployment, app: PoolApp) -> None:
    with trickle(deployment, app) as its:
        for _ in range(5):
            pids = [each["pid"] for each in deployment.wait_for_warm(WORKERS)["workers"]]
            wait_until(lambda: waiting(deployment) >= WORKERS - 1, "workers that wait themselves")
            os.kill(pids[0], signal.SIGKILL)
            wait_until(lambda pid=pids[0]: has_ended(pid), "its end")
    assert len(runs(deployment)) == len(its.results)
    assert deployment.reserved() == 0


def test_connections_that_are_cut_lose_nothing(deployment: Deployment, app: PoolApp) -> None:
    with trickle(deployment, app) as its:
        for _ in range(5):
            wait_until(lambda: waiting(deployment) >= WORKERS - 1, "workers that wait themselves")
            for each in deployment.redis.client_list():
                if each["cmd"] == "blmove":
                    deployment.redis.client_kill_filter(_id=each["id"])
    assert len(runs(deployment)) == len(its.results)
    assert deployment.reserved() == 0


def test_the_size_changes_while_workers_wait(deployment: Deployment, app: PoolApp) -> None:
    with trickle(deployment, app) as its:
        for size in (6, 2, 4):
            answer = app.control.broadcast(
                "pool_resize", arguments={"size": size}, reply=True, timeout=2
            )
            assert answer
            wait_until(
                lambda size=size: len(deployment.status().get("workers", ())) == size,
                f"{size} workers",
            )
    assert_all_ran_once(deployment, its)


def test_a_node_that_stops_leaves_all_to_the_next(deployment: Deployment, app: PoolApp) -> None:
    with trickle(deployment, app) as its:
        deployment.start_node("-Q", "pool.code", "-n", "second@%h")
        wait_until(lambda: " ready." in deployment.log(1), "a second node")
        deployment.nodes[0].send_signal(signal.SIGTERM)
        assert deployment.nodes[0].wait(timeout=DEADLINE) == 0
    assert_all_ran_once(deployment, its)
    assert deployment.reserved() == 0


def test_a_node_is_killed_while_its_workers_wait(deployment: Deployment, app: PoolApp) -> None:
    with trickle(deployment, app) as its:
        deployment.start_node("-Q", "pool.code", "-n", "second@%h")
        wait_until(lambda: " ready." in deployment.log(1), "a second node")
        deployment.nodes[0].kill()
    assert len(runs(deployment)) == len(its.results)
    wait_until(lambda: deployment.reserved() == 0, "nothing that is still reserved")


def test_workers_are_replaced_by_their_number_of_operations_and_their_memory(
    deployment: Deployment,
) -> None:
    app = deployment.configure(CONFIGURATION)
    deployment.start_node("-Q", "pool.code", "--max-tasks-per-child", "20")
    deployment.wait_for_warm(WORKERS)
    with trickle(deployment, app) as its:
        sent = len(its.results)
        wait_until(lambda: len(its.results) > sent + 200, "operations that come one by one")
    assert_all_ran_once(deployment, its)
    deployment.nodes[0].send_signal(signal.SIGTERM)
    deployment.nodes[0].wait(timeout=DEADLINE)
    deployment.redis.delete("starts")
    deployment.start_node("-Q", "pool.code", "--max-memory-per-child", "1000")
    wait_until(lambda: " ready." in deployment.log(1), "another node")
    its = Trickle(app)
    its.start()
    wait_until(lambda: len(its.results) > 100, "operations that come one by one")
    its.stop()
    its.wait()
    assert_all_ran_once(deployment, its)


def test_temporary_workers_come_while_workers_wait_themselves(deployment: Deployment) -> None:
    its_own = CONFIGURATION.replace("pool_size = 4", "pool_size = 2\n    min_pool_size = 2")
    app = deployment.configure(its_own.replace("max_overflow = 0", "max_overflow = 2"))
    deployment.start_node("-Q", "pool.code")
    deployment.wait_for_warm(2)
    its = Trickle(app, pause=0.02, seconds=0.015)
    its.start()
    wait_until(lambda: waiting(deployment) >= 1 and len(its.results) > 50, "a trickle")
    more = Trickle(app, pause=0.005, seconds=0.015)
    more.start()
    wait_until(lambda: deployment.status().get("overflow"), "a temporary worker")
    more.stop()
    its.stop()
    its.wait()
    more.wait()
