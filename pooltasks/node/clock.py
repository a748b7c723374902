"""A node keeps the clock that it shares with its workers, so that none of them asks."""

from __future__ import annotations

from typing import Any

import redis
from celery import bootsteps
from celery.utils.log import get_logger
from celery.worker.consumer.connection import Connection

from pooltasks.broker.client import impatient_client
from pooltasks.broker.clock import REFRESH

logger = get_logger(__name__)


class ClockKeeper(bootsteps.StartStopStep):
    """Asks for the server's time at each connection and seldom after that."""

    requires = (Connection,)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._clock = consumer.app.pooltasks.clock
        self._client: redis.Redis | None = None
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Measure now, before anything is reserved, and again from time to time."""
        self._client = impatient_client(consumer.app)
        self._measure()
        self._timer = consumer.timer.call_repeatedly(REFRESH / 2, self._measure)

    def stop(self, _consumer: Any) -> None:
        """Stop measuring; the next connection may be to another server."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._client is not None:
            self._client.close()
            self._client = None

    shutdown = stop

    def _measure(self) -> None:
        try:
            self._clock.measure(self._client)
        except redis.RedisError as error:
            logger.warning("the server's time is not known any better: %s", error)
