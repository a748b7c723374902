"""Time limits: how long an operation may run by its caller, itself, its pool and its deadline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pooltasks.task import Operation

_LEAST = 0.1
"""Seconds that an operation always has. The worker itself refuses an operation after its
deadline, with an error; a shorter limit would strike before it gets that far."""


def seconds_left(headers: Mapping[str, Any], now: Callable[[], float]) -> float | None:
    """Return the seconds until an operation's deadline; None: it has none.

    Args:
        headers: Of its message.
        now: Returns seconds since the epoch, by the server's clock.
    """
    deadline = headers.get("deadline")
    return deadline - now() if isinstance(deadline, int | float) else None


def time_limits(
    asked: tuple[float | None, float | None],
    operation: Operation,
    of_pool: float | None,
    left: float | None,
) -> tuple[float | None, float | None]:
    """Return the hard and the soft limit in seconds, as Celery orders them.

    The soft limit is the caller's, else the operation's, else the pool's, and never more
    than the time until the deadline. The hard limit follows it by a tenth, at least one
    second and at most ten, in which the operation can clean up. One that comes no later
    than the soft limit acts alone.

    Args:
        asked: The hard and the soft limit that the caller asks for.
        operation: The operation.
        of_pool: The limit of its pool.
        left: Seconds until its deadline.
    """
    hard, soft = asked
    if soft is None:
        soft = operation.timeout or operation.soft_time_limit or of_pool
    if left is not None:
        soft = max(_LEAST, left if soft is None else min(soft, left))
    hard = hard or operation.time_limit
    if soft is None:
        return hard, None
    if hard is None:
        hard = soft + min(10.0, max(1.0, soft / 10))
    return hard, soft if soft < hard else None
