"""What flow control costs: drains of operations with keys, and of others, side by side."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from benchmarks.measure import BrokenRoundError
from benchmarks.nodes import configure, serving
from benchmarks.telemetry import Figure
from pooltasks import Pool, app, keys, operation
from pooltasks.broker.client import redis_client
from pooltasks.broker.names import Names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_FEW: Final = 100
_MANY: Final = 100_000
_LOOK: Final = 0.01
_PATIENCE: Final = 300.0
_UNCOUNTED: Final = 0.1  # of a drain: not all workers start at the same moment
_AT_ONCE: Final = 100


def _count(number: int) -> None:
    """Do nothing."""


def _serve(tenant: str, number: int) -> None:
    """Do nothing for a tenant."""


plain = operation(pool="plain", ignore_result=True)(_count)
keyed = operation(pool="keyed", key="tenant", concurrency=_AT_ONCE, ignore_result=True)(_serve)
fair = operation(pool="fair", key="tenant", fair=True, ignore_result=True)(_serve)

_DRAINS: Final[dict[str, tuple[Any, int]]] = {
    "plain": (plain, 0),
    "keyed": (keyed, _FEW),
    "keyed, 100,000 keys": (keyed, _MANY),
    "fair": (fair, _FEW),
    "fair, 100,000 keys": (fair, _MANY),
}
"""The operation and the number of keys of each drain; 0: it has none."""


def measure(
    rounds: int, operations: int, url: str, folder: Path, say: Callable[[str], None]
) -> Iterator[Figure | str]:
    """Drain each kind in turn, round by round; yield what each is beside the plain one.

    Args:
        rounds: How often.
        operations: How many are drained each time.
        url: Of the server.
        folder: For the nodes' logs and configuration.
        say: Tells the progress.
    """
    configure(
        "".join(
            f"""
            [pools.{pool}]
            imports = ["benchmarks.flow"]
            pool_size = 2
            max_pool_size = 2
            enable_optimizer = false
            checkout_timeout = 86400
            """
            for pool in ("plain", "keyed", "fair")
        ),
        url,
        folder,
    )
    rates: dict[str, list[float]] = {name: [] for name in _DRAINS}
    for number in range(rounds):
        for name, (task, many) in _DRAINS.items():
            rates[name].append(_drain(task, many, operations, folder))
            say(f"round {number + 1} of {rounds}: {name} {rates[name][-1]:.0f}/s")
    for name, its in rates.items():
        yield f"{name:<22}{median(its):>8.0f} operations/s"
    for bound in (
        ("keyed", "plain", 0.6),
        ("keyed, 100,000 keys", "keyed", 0.9),
        ("fair", "plain", 0.5),
        ("fair, 100,000 keys", "fair", 0.9),
    ):
        name, other, least = bound
        ratio = median(one / its for one, its in zip(rates[name], rates[other], strict=True))
        yield Figure(f"{name} ÷ {other}", ratio, "", least, is_least=True)


def _drain(task: Any, many: int, operations: int, folder: Path) -> float:
    """Drain a queue of operations; return how many a second."""
    client = redis_client(app)
    client.flushall()  # the benchmark has started this server
    Pool(task.pool).submit_many(
        task, ((f"tenant-{n % many}", n) if many else (n,) for n in range(operations))
    )
    begun = since = 0.0
    deadline = time.monotonic() + _PATIENCE
    with serving(task.pool, folder=folder):
        while left := _left(client, task.pool):
            now = time.monotonic()
            if not begun and left <= operations * (1 - _UNCOUNTED):
                begun, since = now, left
            if now > deadline:
                raise BrokenRoundError(f"{left} of {operations} operations are left")
            time.sleep(_LOOK)
        return since / (time.monotonic() - begun)


def _left(client: Any, pool: str) -> int:
    """Return how many operations of a pool no node has reserved."""
    names = Names(keys.queue(pool))
    step = client.pipeline(transaction=True)
    step.llen(names.lists[0])
    step.hlen(names.waiting)
    step.zcard(names.held)
    return sum(step.execute())
