"""A connection of an event loop on which results arrive, without the layers above it.

As for threads (``wire.py``), how to connect is redis-py's, and packing and reading are hiredis'.
RESP3 allows to subscribe and to ask on one connection. So a result that was stored before
is in the answer, and a later one comes as a message: none is missed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import hiredis
from redis.exceptions import InvalidResponse, ResponseError

from pooltasks.broker.wire import pack
from pooltasks.gathering import IN_A_TURN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_INCOMPLETE: Final = object()
_RESP3: Final = 3


class AsyncWire(asyncio.Protocol):
    """Hands on what arrives, a few results in each turn of the loop.

    Args:
        take: Is given key and value of each result that has come.
        heard: Called whenever something arrives.
        refused: Is given the keys of results that the server refuses to tell of, and its error.
    """

    def __init__(
        self,
        take: Callable[[bytes, bytes], None],
        heard: Callable[[], None],
        refused: Callable[[Sequence[bytes], Exception], None],
    ) -> None:
        self._take = take
        self._heard = heard
        self._refused = refused
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._stream: Any = None
        """asyncio's, which closes the connection when nobody refers to it."""
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=ResponseError, notEnoughData=_INCOMPLETE
        )
        self._asked: deque[Sequence[bytes]] = deque()
        """Keys of the look-ups that are not answered; none of a question whether it is there."""
        self._come: deque[tuple[bytes, bytes]] = deque()
        self._is_handing_on = False

    @property
    def is_open(self) -> bool:
        """Whether the connection is there, as far as is known."""
        return self._transport is not None

    async def open(self, pool: Any) -> None:
        """Connect.

        Args:
            pool: Makes redis-py's connection; it never gets to know the connection.

        Raises:
            redis.RedisError: The server is away.
        """
        connection = pool.make_connection()
        try:
            await connection.connect()
            if int(connection.protocol) != _RESP3:
                await connection.send_command("HELLO", _RESP3)
                await connection.read_response()
        except BaseException:  # a cancellation, too
            await connection.disconnect(nowait=True)
            raise
        self._stream = connection._writer  # noqa: SLF001  there is no other way to it
        self._transport = self._stream.transport
        self._transport.set_protocol(self)
        # redis-py has no part in it any more: neither in reading nor in closing it.
        connection._reader = connection._writer = None  # noqa: SLF001

    def subscribe(self, keys: Sequence[bytes]) -> None:
        """Have the results at ``keys`` come here, those that are there already at once."""
        self._ask(keys, pack(("SUBSCRIBE", *keys)) + pack(("MGET", *keys)))

    def unsubscribe(self, keys: Sequence[bytes]) -> None:
        """Have no more results at ``keys`` come here."""
        if self._transport is not None:
            self._transport.write(pack(("UNSUBSCRIBE", *keys)))

    def ping(self) -> None:
        """Ask the server whether it is there."""
        self._ask((), pack(("PING",)))

    def _ask(self, keys: Sequence[bytes], packed: bytes) -> None:
        if self._transport is not None:
            self._asked.append(keys)
            self._transport.write(packed)

    def data_received(self, data: bytes) -> None:
        """Read what has arrived; asyncio calls this."""
        self._heard()
        self._reader.feed(data)
        while (message := self._reader.gets(False)) is not _INCOMPLETE:
            if isinstance(message, hiredis.PushNotification):
                if message[0] == b"message":
                    self._come.append((message[1], message[2]))
                continue
            asked = self._asked.popleft()
            if isinstance(message, Exception):
                self.close()  # whoever opens it again asks again
                self._refused(asked, message)
                return
            found = zip(asked, message, strict=True) if asked else ()
            self._come.extend((key, value) for key, value in found if value is not None)
        if self._come and not self._is_handing_on:
            self._is_handing_on = True
            self._hand_on()

    def _hand_on(self) -> None:
        for _ in range(IN_A_TURN):
            if not self._come:
                self._is_handing_on = False
                return
            self._take(*self._come.popleft())
        self._loop.call_soon(self._hand_on)

    def connection_lost(self, _: Exception | None) -> None:
        """Note that the connection is gone; asyncio calls this."""
        self._transport = None

    def close(self) -> None:
        """Close the connection."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
