"""Deleting what waits in a pool: in its lists, for its turn, and what limits hold back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pooltasks import keys
from pooltasks.broker.client import redis_client
from pooltasks.broker.queues import waiting_in
from pooltasks.broker.scripts import Script

if TYPE_CHECKING:
    from celery import Celery

_PURGE = Script("purge.lua")
_OF_FLOW = (*keys.OF_TURNS, "held", "messages", "resume", "running")


class Purged(NamedTuple):
    """How many operations were deleted."""

    in_lists: int
    """Operations that waited in the pool's lists."""
    in_lines: int
    """Operations that waited for the turn of their key."""
    held: int
    """Operations that limits held back."""


def purge(app: Celery, pool: str) -> Purged:
    """Delete all operations of a pool that wait and are due.

    Args:
        app: The application.
        pool: The pool's name.

    Raises:
        redis.RedisError: The server does not answer.
    """
    queue, client = keys.queue(pool), redis_client(app)
    names = [*(keys.flow(queue, name) for name in _OF_FLOW), *waiting_in(app, queue)]
    answer: Any = client.eval(_PURGE.text, len(names), *names)
    return Purged(*answer)
