"""A connection to which results come: those that are there, and those that are published.

With RESP3 a connection that has subscribed may still ask. So one write both
subscribes to results and looks them up, in this order, which misses none: what
was stored before the subscription is there to be read, what comes after it is a
message.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from hiredis import PushNotification

from pooltasks.broker.wire import Wire, pack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_RESP3 = 3
_CHANNELS = 1000
"""Most channels of one command."""


class Mailbox:
    """One connection; whoever uses it from several threads locks it, but for :meth:`wait`.

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
        """Keys of the look-ups that are not answered."""
        self._come: deque[tuple[bytes, bytes]] = deque()
        """Keys and values of results that are read and not handed out."""

    def subscribe(self, keys: Sequence[bytes]) -> None:
        """Have the results at ``keys`` come here, those that are there already at once.

        Raises:
            redis.RedisError: The server is away.
        """
        for some in _chunks(keys):
            self._asked.append(some)
            self._wire.send(pack(("SUBSCRIBE", *some)) + pack(("MGET", *some)))

    def unsubscribe(self, keys: Sequence[bytes]) -> None:
        """Have no more results at ``keys`` come here.

        Raises:
            redis.RedisError: The server is away.
        """
        for some in _chunks(keys):
            self._wire.send(pack(("UNSUBSCRIBE", *some)))

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
            for message in self._wire.arrived():
                self._take(message)
        while self._come:  # what is left if whoever takes a result raises comes the next time
            yield self._come.popleft()

    def _take(self, message: Any) -> None:
        if isinstance(message, Exception):
            raise message
        if not isinstance(message, PushNotification):
            found = zip(self._asked.popleft(), message, strict=True)
            self._come.extend((key, value) for key, value in found if value is not None)
        elif message[0] == b"message":
            self._come.append((message[1], message[2]))

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()


def _chunks(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), _CHANNELS):
        yield keys[start : start + _CHANNELS]
