"""Queues that grow, against the memory that the server has left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pooltasks import keys
from pooltasks.broker.queues import lists_of
from pooltasks.cli.checks.finding import Finding, error, warning
from pooltasks.cli.checks.server import memory_limit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import redis
    from celery import Celery

    from pooltasks.metrics.samples import StoredSample

_OVERHEAD = 1.2
"""Bytes of a list for each byte of its messages."""
_SOON, _NEAR = 3600.0, 600.0
"""Seconds until the memory is full."""
_SHORTEST = 5.0
"""Seconds of which a growth is believed."""


def growth(samples: Mapping[str, Sequence[StoredSample]]) -> float:
    """Return how many operations a second a queue has grown by lately; 0 if it has not."""
    states = sorted((one.at, one.queue.depth) for its in samples.values() for one in its)
    if not states:
        return 0.0
    (began, before), (at, depth) = states[0], states[-1]
    return max(0.0, (depth - before) / (at - began)) if at - began >= _SHORTEST else 0.0


def message_bytes(app: Celery, client: redis.Redis, pool: str) -> int:
    """Return the bytes of the message that waits longest; 0 if none waits."""
    for name in lists_of(app, keys.queue(pool)):
        found: list[bytes] = client.lrange(name, -1, -1)  # type: ignore[assignment]
        if found:
            return len(found[0])
    return 0


def check_growth(
    pool: str, information: Mapping[str, Any], rate: float, size: float
) -> Iterator[Finding]:
    """Look at when a queue that goes on growing fills the server's memory.

    Args:
        pool: The pool.
        information: What the server says of itself.
        rate: Operations a second by which the queue grows.
        size: Bytes of a message.
    """
    limit, used = memory_limit(information), information.get("used_memory", 0)
    grown = rate * size * _OVERHEAD
    if not limit or not grown:
        return
    left = max(0, limit - used) / grown
    if left > _SOON:
        return
    gravity = error if left < _NEAR else warning
    yield gravity(
        f"pool.{pool}",
        f"its queue grows by {rate:,.0f} operations a second: the server's memory is full in "
        f"{left / 60:.0f} min",
        f"Give it more workers (pooltasks status {pool}), send less, or set max_queue.",
    )
