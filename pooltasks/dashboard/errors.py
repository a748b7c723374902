"""The recent errors of a pool, as the pages show them."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pooltasks.metrics.error_groups import ErrorGroups, worst

if TYPE_CHECKING:
    import redis

    from pooltasks.broker.dead_letters import DeadLetters
    from pooltasks.metrics.error_groups import ErrorGroup

_MOST = 20
"""Kinds of errors in a list."""
_READ_AGAIN = 1.0
"""Seconds between two readings."""
_MOST_LETTERS = 2000
"""The latest dead letters whose kind of error is known."""


class RecentErrors:
    """The recent errors of a pool's operations. For one thread.

    Args:
        client: A client of the server.
        pool: The pool's name.
    """

    def __init__(self, client: redis.Redis, pool: str) -> None:
        self._store = ErrorGroups(client, pool)
        self._groups: list[ErrorGroup] = []
        self._read_at = -math.inf

    def latest(self) -> list[ErrorGroup]:
        """Return the kinds of errors, the last one that was seen first.

        Raises:
            redis.RedisError: The server does not answer.
        """
        now = time.monotonic()
        if now - self._read_at >= _READ_AGAIN:
            self._groups, self._read_at = self._store.latest(_MOST), now
        return self._groups

    def cause(self) -> str | None:
        """Return the error that most operations fail with now, in a line.

        Raises:
            redis.RedisError: The server does not answer.
        """
        its = worst(self.latest())
        return its.title if its else None


def listed(groups: list[ErrorGroup]) -> list[dict[str, Any]]:
    """Return kinds of errors as JSON values, the most frequent one of now first."""
    ordered = sorted(groups, key=lambda group: (group.recent, group.last), reverse=True)
    return [asdict(group) for group in ordered]


def shown(store: ErrorGroups, letters: DeadLetters, kind: str) -> dict[str, Any]:
    """Return one kind of errors with an example, and the ids of its dead letters.

    Args:
        store: The errors of a pool.
        letters: Its dead letters.
        kind: The id.

    Raises:
        ErrorGroupNotFoundError: There is no such kind.
        redis.RedisError: The server does not answer.
    """
    group, example = store.show(kind)
    return {
        **asdict(group),
        "title": group.title,
        "example": None if example is None else asdict(example),
        "letters": [its.id for its in letters.list(most=_MOST_LETTERS) if group.has(its)],
    }
