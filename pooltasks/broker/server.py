"""How a node opens its connections to the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pooltasks import address
from pooltasks.broker.link import ANSWER_SECONDS
from pooltasks.broker.wire import Wire, greet

if TYPE_CHECKING:
    from celery import Celery

_CONNECT_SECONDS = 1.0


class Connector:
    """Opens the connections of one node; one that is closed is opened again by the next call.

    Args:
        app: The application.
    """

    def __init__(self, app: Celery) -> None:
        client = address.connect(
            app.pooltasks.settings.redis_url.get_secret_value(),
            redis.Redis,
            protocol=3,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=greet,
        )
        self._pool = client.connection_pool

    def __call__(self) -> Wire:
        """Open a connection with RESP3: published messages come between the answers.

        Raises:
            redis.RedisError: The server is away.
        """
        return Wire(self._pool.get_connection(), self._pool.release)
