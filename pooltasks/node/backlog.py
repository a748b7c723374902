"""Backlog: what waits in the queue, for a node that has no room to reserve it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from pooltasks import keys
from pooltasks.broker.client import impatient_client
from pooltasks.broker.queues import lists_of

if TYPE_CHECKING:
    from celery import Celery

_PAUSE = 1.0
"""Seconds for which a server that did not answer is not asked again: the loop waits for it."""


class Backlog:
    """Asks the server how long a pool's queue is, from a node's event loop.

    Args:
        app: The application.
        pool: The pool's name.
    """

    def __init__(self, app: Celery, pool: str) -> None:
        self._client = impatient_client(app)
        self._lists = lists_of(app, keys.queue(pool))
        self._silent_until = 0.0

    def length(self) -> int:
        """Return the operations in the queue, as far as is known: 0 while the server is away."""
        if time.monotonic() < self._silent_until:
            return 0
        try:
            return sum(int(self._client.llen(name)) for name in self._lists)
        except RedisError:
            self._silent_until = time.monotonic() + _PAUSE
            return 0
