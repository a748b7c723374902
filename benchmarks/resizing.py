"""The speed at which a node follows: forks on command, and spares that take over."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.measure import BrokenRoundError
from benchmarks.nodes import configure, serving
from benchmarks.telemetry import Figure
from pooltasks import app, operation
from pooltasks.broker.client import redis_client

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import redis

_FORKS, _SPARES = "forks", "spares"
_BEGUN, _RELEASE = "resizing:begun", "resizing:release"
_WARM_UP: Final = 3.0  # seconds
_TIMEOUT: Final = 30.0
_FROM, _TO = 2, 12  # workers between which the node grows, one by one
_FORKED_WITHIN, _SERVES_WITHIN = 0.15, 0.03

CONFIGURATION: Final = f"""
[pools.{_FORKS}]
imports = ["benchmarks.resizing"]
pool_size = {_FROM}
min_pool_size = {_FROM}
max_pool_size = {_TO}

[pools.{_SPARES}]
imports = ["benchmarks.resizing"]
pool_size = 1
spares = 1
warmup = {{ commands = [{{ operation = "benchmarks.resizing.warm_up" }}] }}
"""


@operation(pool=_SPARES)
def warm_up() -> None:
    """Take as long as loading a model does."""
    time.sleep(_WARM_UP)


@operation(pool=_SPARES, ignore_result=True)
def hold() -> None:
    """Tell when this begins, and keep the worker until it is released."""
    begun = time.time()
    client = redis_client(app)
    client.rpush(_BEGUN, json.dumps([begun, os.getpid()]))
    client.blpop([_RELEASE], timeout=_TIMEOUT)


class Node:
    """A node of this benchmark, as the kernel and its control commands show it.

    Args:
        pool: The pool that it serves.
        pid: Its process id.
    """

    def __init__(self, pool: str, pid: int) -> None:
        self._pid = pid
        self._name: str = _until(
            lambda: next(
                (
                    name
                    for reply in app.control.broadcast("pool_status", reply=True, timeout=0.3)
                    for name, its in reply.items()
                    if its["pool"] == pool
                ),
                None,
            ),
            f"the node of {pool} answers",
        )

    def workers(self) -> set[str]:
        """Return its child processes."""
        return set(Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split())

    def resize(self, size: int) -> None:
        """Send the command, and wait for nothing."""
        app.control.broadcast("pool_resize", arguments={"size": size}, destination=[self._name])

    def wait_for(self, **values: int) -> None:
        """Wait until its status has these values."""

        def reached() -> bool:
            (reply,) = app.control.broadcast(
                "pool_status", reply=True, destination=[self._name], limit=1, timeout=_TIMEOUT
            )
            return all(reply[self._name][key] == value for key, value in values.items())

        _until(reached, str(values))


def figures(rounds: int, url: str, folder: Path) -> list[Figure]:
    """Measure each ``rounds`` times, forks ten times as often.

    Raises:
        BrokenRoundError: A node did not do its task.
    """
    configure(CONFIGURATION, url, folder)
    with serving(_FORKS, _SPARES, folder=folder) as (forks_pid, spares_pid):
        client = redis_client(app)
        forked = _forks(Node(_FORKS, forks_pid), 10 * rounds)
        spares = Node(_SPARES, spares_pid)
        grown = [_growth(spares, client) for _ in range(rounds)]
        recovered = [_death(spares, client) for _ in range(rounds)]
    return [
        Figure("command to forked worker, p50", *_ms(forked, 0.5, _FORKED_WITHIN)),
        Figure("command to forked worker, p99", *_ms(forked, 0.99, _FORKED_WITHIN)),
        Figure("command to a spare's first operation, p50", *_ms(grown, 0.5, _SERVES_WITHIN)),
        Figure("command to a spare's first operation, longest", *_ms(grown, 1, _SERVES_WITHIN)),
        Figure("SIGKILL to a spare's first operation, p50", *_ms(recovered, 0.5, _SERVES_WITHIN)),
        Figure("SIGKILL to a spare's first operation, longest", *_ms(recovered, 1, _SERVES_WITHIN)),
    ]


def _ms(seconds: Sequence[float], quantile: float, bound: float) -> tuple[float, str, float]:
    ordered = sorted(seconds)
    at = min(len(ordered) - 1, int(quantile * len(ordered)))
    return 1000 * ordered[at], "ms", 1000 * bound


def _forks(node: Node, number: int) -> list[float]:
    """Return the seconds from each command to grow by one until there is one more process."""
    found = []
    size = _TO
    for _ in range(number):
        if size == _TO:
            size = _FROM
            node.resize(size)
            node.wait_for(size=size, warm=size, warming=0)
            _until(lambda: len(node.workers()) == _FROM, "the others have ended")
        before = node.workers()
        size += 1
        sent = time.monotonic()
        node.resize(size)
        _until(lambda before=before: node.workers() - before, "it forks")  # type: ignore[misc]
        found.append(time.monotonic() - sent)
        node.wait_for(size=size, warm=size, warming=0)
    return found


def _growth(node: Node, client: redis.Redis) -> float:
    """Return the seconds from the command until the spare runs an operation that waited for it."""
    node.wait_for(size=1, warm=1, spares=1, warming=0, busy=0)
    hold.delay()
    _begun(client)
    hold.delay()
    sent = time.time()
    node.resize(2)
    begun, _ = _begun(client)
    client.rpush(_RELEASE, 1, 1)
    node.wait_for(size=2, warm=2, spares=1, warming=0, busy=0)
    node.resize(1)
    return begun - sent


def _death(node: Node, client: redis.Redis) -> float:
    """Return the seconds from a worker's death until the spare runs its waiting operation."""
    node.wait_for(size=1, warm=1, spares=1, warming=0, busy=0)
    hold.delay()
    _, worker = _begun(client)
    hold.delay()
    killed = time.time()
    os.kill(worker, signal.SIGKILL)
    begun, _ = _begun(client)
    client.rpush(_RELEASE, 1, 1)
    _begun(client)  # the other of the two
    return begun - killed


def _begun(client: redis.Redis) -> tuple[float, int]:
    """Return when the next operation began, and in which process."""
    entry: Any = client.blpop([_BEGUN], timeout=_TIMEOUT)
    if entry is None:
        raise BrokenRoundError(f"no operation began within {_TIMEOUT:g} s")
    at, worker = json.loads(entry[1])
    return at, worker


def _until(reached: Callable[[], Any], what: str) -> Any:
    """Return the value of ``reached`` as soon as it is true."""
    deadline = time.monotonic() + _TIMEOUT
    while not (value := reached()):
        if time.monotonic() > deadline:
            raise BrokenRoundError(f"it did not come to pass within {_TIMEOUT:g} s: {what}")
        time.sleep(0.0005)
    return value
