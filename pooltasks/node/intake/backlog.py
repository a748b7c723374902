"""Backlog: what waits in the queue and its lines, for a node that has no room to reserve it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from pooltasks import keys
from pooltasks.broker.client import impatient_client
from pooltasks.broker.queues import lists_of
from pooltasks.broker.wire import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery import Celery

    from pooltasks.broker.session import NodeSession

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


class QueueLength:
    """The length of a queue as the server has told it over a node's session.

    Args:
        session: The node's.
        lists: Returns the lists from which it reserves now; none: it takes nothing.
        fair: Whether keys take turns.
    """

    def __init__(
        self, session: NodeSession, lists: Callable[[], Sequence[str]], *, fair: bool
    ) -> None:
        self._session = session
        self._lists = lists
        self._in_lines = [pack(("HLEN", session.names.waiting))] if fair else []
        self._length = 0
        self._answers: list[int] | None = None
        """Answers to the commands, while the server is asked."""
        self._asked = 0

    def last(self) -> int:
        """Return how many operations waited when that was asked last; ask again."""
        if self._answers is None and self._session.side.wire is not None:
            commands = [pack(("LLEN", name)) for name in self._lists()]
            if not commands:
                return 0
            commands += self._in_lines
            self._answers, self._asked = [], len(commands)
            for command in commands:
                self._session.send(self._session.side, command, self._counted, again=False)
        return self._length

    def forget(self) -> None:
        """Wait for no answer: the connection broke."""
        self._answers = None

    def _counted(self, answer: Any) -> None:
        if self._answers is None:
            return
        self._answers.append(answer)
        if len(self._answers) == self._asked:
            self._length, self._answers = sum(self._answers), None
