"""A connection to which results come: stored ones, and those that are published.

With RESP3 a connection that has subscribed may still ask. So one write subscribes to
results and looks them up, in this order, which misses none: a result that was stored
before the subscription is read, a later one comes as a message.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from hiredis import PushNotification
from redis.exceptions import TimeoutError as TimedOutError

from pooltasks.broker.wire import Wire, pack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_RESP3 = 3
_CHANNELS = 1000
"""Most channels of one command."""
_SILENCE = 2.0
"""Seconds after which a silent server is asked whether it is there, and has for its answer."""
_PING = pack(("PING",))


class Mailbox:
    """One connection. Threads that share it lock it for every call but :meth:`wait`.

    Args:
        pool: Where the connection comes from.

    Raises:
        redis.RedisError: The server is away.
    """

    def __init__(self, pool: Any) -> None:
        self._wire = Wire(pool.get_connection())
        if self._wire.connection.protocol != _RESP3:
            self._wire.ask(pack(("HELLO", _RESP3)))
        self._asked: deque[Sequence[bytes]] = deque()
        """Keys of the unanswered look-ups; empty for a question whether the server is there."""
        self._silent_since = time.monotonic()
        """When the last message came, or the first question after it was asked."""
        self._come: deque[tuple[bytes, bytes]] = deque()
        """Keys and values of results that are read and not handed out."""

    def subscribe(self, keys: Sequence[bytes]) -> None:
        """Have the results at ``keys`` come here; stored ones come at once.

        Raises:
            redis.RedisError: The server is away.
        """
        for some in _chunks(keys):
            self._ask(some, pack(("SUBSCRIBE", *some)) + pack(("MGET", *some)))

    def _ask(self, keys: Sequence[bytes], packed: bytes) -> None:
        if not self._asked:
            self._silent_since = time.monotonic()
        self._asked.append(keys)
        self._wire.send(packed)

    def unsubscribe(self, keys: Sequence[bytes]) -> None:
        """Have no more results at ``keys`` come here.

        Raises:
            redis.RedisError: The server is away.
        """
        for some in _chunks(keys):
            self._wire.send(pack(("UNSUBSCRIBE", *some)))

    def look_is_due_in(self) -> float:
        """Return the seconds until :meth:`look` has something to do."""
        return max(0.0, self._silent_since + _SILENCE - time.monotonic())

    def look(self) -> None:
        """Ask a server that was silent for a while whether it is there.

        Raises:
            redis.TimeoutError: It has not answered.
            redis.ConnectionError: It is away.
        """
        if self.look_is_due_in() > 0:
            return
        if self._asked:
            raise TimedOutError(f"{self._wire.connection!r}: no answer in {_SILENCE:g} s")
        self._ask((), _PING)

    def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds; return whether there is something to receive.

        The only thing that may be done while another thread sends.
        """
        return bool(self._come) or self._wire.wait(timeout)

    def receive(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and value of each result that has come; wait for the first message.

        Raises:
            redis.RedisError: The server is away, or refuses to be asked.
        """
        if not self._come:
            messages = self._wire.arrived()
            self._silent_since = time.monotonic()
            for message in messages:
                self._take(message)
        while self._come:  # if the taker of a result raises, the others come the next time
            yield self._come.popleft()

    def _take(self, message: Any) -> None:
        if isinstance(message, Exception):
            raise message
        if not isinstance(message, PushNotification):
            asked = self._asked.popleft()
            if not asked:
                return
            found = zip(asked, message, strict=True)
            self._come.extend((key, value) for key, value in found if value is not None)
        elif message[0] == b"message":
            self._come.append((message[1], message[2]))

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()


def _chunks(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), _CHANNELS):
        yield keys[start : start + _CHANNELS]
