"""The server's time, known without asking for it each time.

Hosts' clocks differ, by seconds where nobody keeps them; waits and deadlines
compare times of two hosts. So both ends use the server's clock. A process asks for
its TIME when it connects and seldom after that; in between the host's monotonic
clock goes on, which no correction of the host's time makes jump.

An answer was written between asking and receiving it, so half of that time
bounds its error (Cristian, "Probabilistic clock synchronization", Distributed
Computing 3, 1989). Of several answers the quickest counts.
"""

from __future__ import annotations

import mmap
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import redis

from pooltasks.broker.client import impatient_client

if TYPE_CHECKING:
    from celery import Celery

REFRESH = 20.0
"""Seconds after which the server is asked again."""
_DRIFT = 100e-6
"""Seconds a second by which two hosts' oscillators may drift apart."""
_QUICK = 0.001
"""Seconds: an answer within this is good enough to ask no further."""
_ASK = 5

_AHEAD, _ERROR, _KNOWN_AT, _ASKED_AT = range(4)


class ServerClock:
    """The server's clock as this host sees it.

    Processes that are forked after it was made share each other's answers: they
    lie in shared memory, and the monotonic clock is that of the host. A node's
    workers therefore know the time without asking.

    Until the server has answered once it shows the host's own time, and so it
    does in an application without a server, which runs its operations eagerly.
    """

    def __init__(self) -> None:
        # Each value is one aligned word, stored whole; no lock is needed.
        self._words = memoryview(mmap.mmap(-1, 4 * 8)).cast("d")

    def now(self) -> float:
        """Return the server's time in seconds since the epoch."""
        ahead = self._words[_AHEAD]
        return time.monotonic() + ahead if ahead else time.time()

    def at(self, moment: float) -> float:
        """Return the value of :meth:`now` at a moment of the host's monotonic clock, in seconds."""
        ahead = self._words[_AHEAD]
        return moment + ahead if ahead else time.time() + moment - time.monotonic()

    @property
    def error(self) -> float | None:
        """Seconds by which :meth:`now` may be wrong; None if the server has not answered yet."""
        words = self._words
        if not words[_AHEAD]:
            return None
        return words[_ERROR] + _DRIFT * (time.monotonic() - words[_KNOWN_AT])

    def is_due(self) -> bool:
        """Return whether the server should be asked."""
        asked_at = self._words[_ASKED_AT]
        return not asked_at or time.monotonic() - asked_at > REFRESH

    def measure(self, client: redis.Redis) -> None:
        """Ask the server.

        Raises:
            redis.RedisError: It does not answer; the clock goes on as before.
        """
        words = self._words
        words[_ASKED_AT] = time.monotonic()  # at once: other threads need not ask too
        answers = []
        for _ in range(_ASK):
            sent = time.monotonic()
            seconds, microseconds = client.time()
            received = time.monotonic()
            answers.append((received - sent, seconds + microseconds / 1e6, sent, received))
            if received - sent <= _QUICK:
                break
        _, server, sent, received = min(answers)
        self.observe(server, sent, received)

    def observe(self, server: float, sent: float, received: float) -> None:
        """Learn from an answer of the server.

        Args:
            server: Its time, seconds since the epoch.
            sent: Monotonic seconds before it was asked.
            received: Monotonic seconds when the answer was there.
        """
        words = self._words
        words[_ASKED_AT] = received
        error = (received - sent) / 2
        ahead = server - (sent + received) / 2
        known = self.error
        # A slow answer that agrees with the known time tells nothing new. One that does
        # not agree is news: the server's clock was set, or it is another server.
        if known is not None and error > known and abs(ahead - words[_AHEAD]) <= error + known:
            return
        words[_ERROR] = error
        words[_KNOWN_AT] = received
        words[_AHEAD] = ahead


def server_now(celery_app: Celery) -> float:
    """Return the server's time for a message; asks the server where that is due.

    The next command notices a server that does not answer; until then the clock
    goes on by itself.
    """
    clock: ServerClock = celery_app.pooltasks.clock
    if clock.is_due() and not celery_app.conf.task_always_eager:
        with impatient_client(celery_app) as client, suppress(redis.RedisError):
            clock.measure(client)
    return clock.now()
