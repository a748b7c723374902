"""The operations that limits hold back in a pool, as the pages show them."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pooltasks.broker.limited import read_top_keys

if TYPE_CHECKING:
    import redis

    from pooltasks.broker.limited import LimitedKey

_MOST = 20
"""Keys in a list."""
_READ_AGAIN = 1.0
"""Seconds between two readings."""


class RecentLimits:
    """The keys of a pool that use their limits most. For one thread.

    Args:
        client: A client of the server.
        pool: The pool's name.
    """

    def __init__(self, client: redis.Redis, pool: str) -> None:
        self._client = client
        self._pool = pool
        self._keys: list[LimitedKey] = []
        self._read_at = -math.inf

    def latest(self, now: float) -> list[dict[str, Any]]:
        """Return the keys that have something to run as JSON values, that with most held first.

        Args:
            now: Server time; ``age`` is the seconds for which the first that is held has waited.

        Raises:
            redis.RedisError: The server does not answer.
        """
        if time.monotonic() - self._read_at >= _READ_AGAIN:
            self._keys = read_top_keys(self._client, self._pool, _MOST)
            self._read_at = time.monotonic()
        return [
            {**asdict(its), "age": None if its.since is None else max(0.0, now - its.since)}
            for its in self._keys
        ]
