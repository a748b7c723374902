"""Hearing of results on an event loop, over one connection and without a thread."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery.states import READY_STATES
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from pooltasks.broker.async_client import close
from pooltasks.broker.async_wire import AsyncWire
from pooltasks.broker.pause import is_passing
from pooltasks.gathering import IN_A_TURN, Gathering

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import asyncio as redis

_ERRORS = (RedisError, OSError)
_LOOK = 0.2
"""Seconds between looks whether the connection is there and the server says something."""
_SILENCE = 2.0
"""Seconds after which a silent server is asked whether it is there."""
_LEAVE = 3.5
"""Seconds after which a silent connection is left: a new one may work, where one was forgotten."""
_PATIENCE = 5.0
"""Seconds without a word of the server after which nobody waits any longer."""


class Results:
    """The results for which a loop waits."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._waiting: dict[bytes, set[asyncio.Future[Any]]] = {}
        self._turn = asyncio.Lock()
        """One at a time connects."""
        self._backend: Any = None
        self._watcher: asyncio.Task[None] | None = None
        self._heard_at = 0.0
        """Monotonic seconds at which the server last said a word, or was first asked for one."""
        self._asked_at = 0.0
        self._failure = ""
        """The reason for which the last attempt to connect failed."""
        self._wire = self._new_wire()
        self._begun = Gathering(self._subscribe)
        self._ended = Gathering(self._unsubscribe)

    def _new_wire(self) -> AsyncWire:
        return AsyncWire(self._tell, self._hear, self._refuse)

    async def final(self, key: bytes, backend: Any) -> Any:
        """Return a final result as it is stored, decoded, when there is one.

        Raises:
            kombu.exceptions.OperationalError: The server cannot be heard.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._backend = backend
        waiting = self._waiting.setdefault(key, set())
        waiting.add(future)
        if self._watcher is None or self._watcher.done():
            self._hear()
            self._watcher = asyncio.create_task(self._watch())
        try:
            self._begun.put(key)
            return await future
        finally:
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(key, None)
                self._ended.put(key)

    async def _subscribe(self, keys: list[bytes]) -> list[None]:
        if self._wire.is_open:
            self._wire.subscribe(keys)
        else:
            with suppress(*_ERRORS):  # the watcher tries again
                await self._connect()
        return [None] * len(keys)

    async def _unsubscribe(self, keys: list[bytes]) -> list[None]:
        unwanted = [key for key in keys if key not in self._waiting]
        if unwanted:
            self._wire.unsubscribe(unwanted)
        return [None] * len(keys)

    async def _connect(self) -> None:
        """Connect if that is needed, and ask for everything that is waited for."""
        async with self._turn:
            if self._wire.is_open:
                return
            wire = self._new_wire()
            try:
                await wire.open(self.client.connection_pool)
            except _ERRORS as error:
                self._failure = f" {error}"
                raise
            self._failure = ""
            self._wire = wire
            if self._waiting:
                wire.subscribe([*self._waiting])

    async def _watch(self) -> None:
        """Connect again, and have nobody wait for a server that cannot be heard."""
        connecting: asyncio.Task[None] | None = None
        try:
            while self._waiting:
                await asyncio.sleep(_LOOK)
                silent = time.monotonic() - self._heard_at
                if silent > _PATIENCE:
                    await self._give_up()
                elif not self._wire.is_open:
                    if connecting is None or connecting.done():
                        connecting = asyncio.create_task(self._try_to_connect())
                elif silent > _SILENCE and self._asked_at < self._heard_at:
                    self._asked_at = time.monotonic()
                    self._wire.ping()
                elif silent > _LEAVE:
                    self._wire.close()
        finally:
            if connecting is not None:
                connecting.cancel()
                await asyncio.wait([connecting])

    async def _try_to_connect(self) -> None:
        with suppress(*_ERRORS):  # the next look tries again
            await self._connect()

    async def _give_up(self) -> None:
        """Tell everybody who waits, and leave a connection that is silent."""
        self._wire.close()
        present = [future for each in self._waiting.values() for future in each]
        for number, future in enumerate(present, 1):
            if not future.done():
                future.set_exception(
                    OperationalError(
                        f"The server could not be heard for {_PATIENCE:g} s.{self._failure}"
                    )
                )
            if number % IN_A_TURN == 0:
                await asyncio.sleep(0)
        self._hear()  # who comes now has a time of his own

    def _hear(self) -> None:
        self._heard_at = time.monotonic()

    def _tell(self, key: bytes, payload: bytes) -> None:
        if key not in self._waiting:
            return
        try:
            stored = self._backend.decode(payload)
        except Exception as error:  # noqa: BLE001  whatever a serializer raises
            self._fail(key, error)
            return
        if stored["status"] not in READY_STATES:
            return
        for future in self._waiting[key]:
            if not future.done():
                future.set_result(stored)

    def _refuse(self, keys: Sequence[bytes], error: Exception) -> None:
        """Tell those who wait that the server refuses for good to be asked for their results."""
        if is_passing(error) or str(error).startswith("LOADING"):
            return  # it is asked again over the next connection
        for key in keys:
            self._fail(key, OperationalError(str(error)))

    def _fail(self, key: bytes, error: Exception) -> None:
        for future in self._waiting.get(key, ()):
            if not future.done():
                future.set_exception(error)

    async def close(self) -> None:
        """Stop listening."""
        if self._watcher is not None:
            self._watcher.cancel()
            # It may be about to connect: what it opens must be there to be closed.
            await asyncio.gather(self._watcher, return_exceptions=True)
        async with self._turn:
            self._wire.close()
        await close(self.client)
