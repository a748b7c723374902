"""Closes connections that Celery opened for a moment: a node keeps four to its server.

Two are its session's. Of Celery's own one hears remote control and one sends events;
the others served the start, or a question, and kombu would keep them for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.worker.consumer.control import Control
from kombu import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIRST, _EVERY = 3.0, 60.0
"""Seconds after the start, and between later times. A connection closed in use opens again."""


class IdleConnections(bootsteps.StartStopStep):
    """Closes the idle connections of a node from time to time."""

    requires = (Control,)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timers: list[Any] = []

    def start(self, consumer: Any) -> None:
        """Close them soon, and again later."""
        self.stop(consumer)
        self._timers = [
            consumer.timer.call_after(_FIRST, close_idle, (consumer,)),
            consumer.timer.call_repeatedly(_EVERY, close_idle, (consumer,)),
        ]

    def stop(self, _consumer: Any) -> None:
        """Close none any more."""
        for timer in self._timers:
            timer.cancel()
        self._timers = []


def close_idle(consumer: Any) -> None:
    """Close the connections that Celery's consumer and its application do not use now."""
    for connection in _connections(consumer):
        transport = connection._transport  # noqa: SLF001  asking for it would connect
        for channel in transport.channels if transport else ():
            for pool in (channel._pool, channel._async_pool):  # noqa: SLF001  kombu's names
                if pool is not None:
                    pool.disconnect(inuse_connections=False)


def _connections(consumer: Any) -> Iterator[Connection]:
    if consumer.connection is not None:
        yield consumer.connection
    if consumer.event_dispatcher is not None:
        yield consumer.event_dispatcher.connection
    pool = consumer.app._pool  # noqa: SLF001  asking for it would make it
    for resource in list(pool._resource.queue) if pool is not None else ():  # noqa: SLF001  kombu's
        if isinstance(resource, Connection):
            yield resource
