"""One Redis client for each application, for everything that is not a message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

if TYPE_CHECKING:
    from celery import Celery


def redis_client(celery_app: Celery) -> redis.Redis:
    """Return the application's client; it is made at the first call.

    redis-py notices a fork and opens new connections in the child, so the same
    client serves a node and its workers.
    """
    extension = celery_app.pooltasks
    if extension.client is None:
        extension.client = redis.Redis.from_url(
            extension.settings.redis_url.get_secret_value(),
            # A server that went away must show itself, not hang an operation.
            socket_connect_timeout=5.0,
            socket_timeout=30.0,
            health_check_interval=30,
        )
    client: redis.Redis = extension.client
    return client


def impatient_client(celery_app: Celery) -> redis.Redis:
    """Return a new client for an event loop: it gives up after half a second."""
    return redis.Redis.from_url(
        celery_app.pooltasks.settings.redis_url.get_secret_value(),
        socket_connect_timeout=0.5,
        socket_timeout=0.5,
        retry=Retry(NoBackoff(), 0),
    )
