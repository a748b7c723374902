"""What the flood of one tenant does to the waits of others, where tenants take turns."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

from benchmarks.nodes import configure, serving
from pooltasks import Pool, app, keys, operation
from pooltasks.broker.client import redis_client

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_POOL = "tenants"
_WAITS: Final = "fairness:waits"
_TENANTS: Final = 49
_FLOOD = "flood"
_SETTLED: Final = 2.0  # seconds


@operation(pool=_POOL, key="tenant", fair=True, ignore_result=True)
def serve(tenant: str, published: float, seconds: float) -> None:
    """Tell how long a tenant's call has waited, and take some time."""
    if tenant != _FLOOD:
        redis_client(app).rpush(_WAITS, time.time() - published)
    time.sleep(seconds)


def report(
    url: str, folder: Path, *, seconds: int, flood: int, run: float, workers: int
) -> list[str]:
    """Measure the waits of 49 tenants with one call a second each.

    Args:
        url: Of the server.
        folder: For the nodes' logs and configuration.
        seconds: For how long each time.
        flood: How many calls of one more tenant wait.
        run: Seconds that each call takes.
        workers: Of the node.
    """
    configure(
        f"""
        [pools.{_POOL}]
        imports = ["benchmarks.fairness"]
        pool_size = {workers}
        max_pool_size = {workers}
        enable_optimizer = false
        checkout_timeout = 86400
        """,
        url,
        folder,
    )
    with serving(_POOL, folder=folder):
        _waits(2, 0.0)  # until the node serves
        alone = _waits(seconds, run)
        Pool(_POOL).submit_many(serve, ((_FLOOD, 0.0, run) for _ in range(flood)))
        time.sleep(_SETTLED)
        before = _waiting()
        flooded = _waits(seconds, run)
    rows = [("alone", alone), (f"beside {before} to {_waiting()} waiting calls", flooded)]
    lines = [
        f"{name}: {', '.join(f'p{q:g} {_ms(its, q):.1f} ms' for q in (50, 90, 99))}"
        for name, its in rows
    ]
    return [*lines, f"p99: {_ms(flooded, 99) / _ms(alone, 99):.2f} times as long"]


def _waiting() -> int:
    """Return how many calls wait for their turns."""
    return int(redis_client(app).hlen(keys.flow(keys.queue(_POOL), "waiting")))


def _waits(seconds: int, run: float) -> list[float]:
    """Have each tenant call once a second, at a moment of its own; return the waits in seconds."""
    client = redis_client(app)
    client.delete(_WAITS)
    chance = random.Random(3)  # noqa: S311  the same moments each time
    begun = time.time()
    calls = sorted(
        (begun + chance.random() + second, f"tenant {number}")
        for number in range(_TENANTS)
        for second in range(seconds)
    )
    for at, tenant in calls:
        time.sleep(max(0.0, at - time.time()))
        serve.delay(tenant, time.time(), run)
    while int(client.llen(_WAITS)) < len(calls):
        time.sleep(0.05)
    return [float(each) for each in client.lrange(_WAITS, 0, -1)]


def _ms(waits: Sequence[float], percent: float) -> float:
    return 1000 * sorted(waits)[min(len(waits) - 1, int(percent / 100 * len(waits)))]
