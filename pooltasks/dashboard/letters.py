"""Dead letters as the pages show them."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pooltasks import keys
from pooltasks.broker.dead_letters import DeadLetters
from pooltasks.dashboard.circumstances import recent_dead
from pooltasks.metrics.message_text import arguments_in, told_letter, told_message

if TYPE_CHECKING:
    import redis
    from celery import Celery

    from pooltasks.broker.dead_letters import DeadLetter

MOST = 500
"""Letters in a list; the search finds the others."""
_READ_AGAIN = 2.0
"""Seconds between two readings of all letters."""
_SHORT, _LONG = 300, 100_000
"""Characters of a text in a list, and of a text that is shown in full."""


class RecentLetters:
    """The dead letters of a pool, which are read again when their number changes.

    For one thread.

    Args:
        client: A client of the server.
        queue: The pool's queue.
    """

    def __init__(self, client: redis.Redis, queue: str) -> None:
        self._client: Any = client
        self._queue = queue
        self._store = DeadLetters(client, queue)
        self._letters: list[DeadLetter] = []
        self._number: int | None = None
        self._read_at = -math.inf

    def number(self) -> int:
        """Return the number of dead letters.

        Raises:
            redis.RedisError: The server does not answer.
        """
        return int(self._client.hlen(keys.dead_letters(self._queue)))

    def since(self, at: float, number: int) -> list[DeadLetter]:
        """Return those that were set aside after a moment.

        Args:
            at: Seconds since the epoch.
            number: The number of dead letters now.

        Raises:
            redis.RedisError: The server does not answer.
        """
        now = time.monotonic()
        if number != self._number and now - self._read_at >= _READ_AGAIN:
            self._letters = self._store.list() if number else []
            self._number, self._read_at = number, now
        return recent_dead(self._letters, at)


def listed(store: DeadLetters, reason: str, operation: str) -> dict[str, Any]:
    """Return the latest letters that match, and how many do.

    Args:
        store: The letters of a pool.
        reason: A text in their reason, in upper or lower case.
        operation: A text in the operation's name, in upper or lower case.

    Raises:
        redis.RedisError: The server does not answer.
    """
    is_filtered = bool(reason or operation)
    letters = [
        letter
        for letter in store.list(reason=reason, most=None if is_filtered else MOST)
        if operation.lower() in (letter.operation or "").lower()
    ]
    return {
        "matching": len(letters) if is_filtered else store.count(),
        "letters": [
            {name: _cut(value, _SHORT) for name, value in asdict(told_letter(letter)).items()}
            for letter in letters[:MOST]
        ],
    }


def shown(app: Celery, store: DeadLetters, identifier: str) -> dict[str, Any]:
    """Return a letter with its ``message``, and the ``arguments`` in it if they can be read.

    Secrets are masked.

    Args:
        app: The application.
        store: The letters of a pool.
        identifier: The letter's id.

    Raises:
        DeadLetterNotFoundError: There is no such letter.
        redis.RedisError: The server does not answer.
    """
    letter, message = store.show(identifier)
    texts = {
        **asdict(told_letter(letter)),
        "message": told_message(message),
        "arguments": arguments_in(app, message),
    }
    return {name: _cut(value, _LONG) for name, value in texts.items()}


def _cut(value: Any, most: int) -> Any:
    if isinstance(value, str) and len(value) > most:
        return f"{value[:most]}… ({len(value):,} characters)"
    return value
