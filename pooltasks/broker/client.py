"""Clients of the server for everything that is not a message, in a deployment's own key space.

Two deployments may share a server, each with a prefix before all of its keys
(Celery's ``global_keyprefix``). Celery and kombu put it before theirs; these
clients put it before ours, so that nothing else in the library knows of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.retry import Retry

from pooltasks import address, keys
from pooltasks.broker.wire import greet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

_WITHOUT_KEYS = {
    *("CLIENT", "CONFIG", "DBSIZE", "DISCARD", "EXEC", "FLUSHDB", "INFO", "MULTI", "PING"),
    # The pattern of SCAN is of keys as the server has them.
    *("PUBLISH", "SCAN", "SCRIPT", "TIME", "UNWATCH"),
}
_ALL_ARE_KEYS = {"DEL", "EXISTS", "MGET", "RENAMENX", "UNLINK", "WATCH"}
_FIRST_IS_KEY = {
    *("EXPIRE", "PEXPIRE", "PTTL", "TTL", "TYPE", "GET", "INCR", "SET"),
    *("HDEL", "HEXISTS", "HGET", "HGETALL", "HKEYS", "HLEN", "HMGET", "HSCAN", "HSET", "HSETNX"),
    *("HVALS", "PERSIST"),
    *("LLEN", "LPUSH", "LRANGE", "MEMORY", "RPUSH", "XADD", "XLEN", "XRANGE", "XREVRANGE"),
    *("ZADD", "ZCARD", "ZCOUNT", "ZRANGE", "ZRANGEBYSCORE", "ZREM", "ZREVRANGE", "ZSCORE"),
}
_COUNTED = {"EVAL", "EVALSHA"}
"""Commands whose second argument is the number of keys that follow."""


def with_prefix(prefix: str, command: Sequence[Any]) -> list[Any]:
    """Return a command with ``prefix`` before each of its keys.

    Raises:
        NotImplementedError: The places of this command's keys are not known here.
    """
    parts = list(command)
    name = str(parts[0]).partition(" ")[0].upper()
    if name in _WITHOUT_KEYS:
        places = range(0)
    elif name in _FIRST_IS_KEY:
        places = range(1, 2)
    elif name in _ALL_ARE_KEYS:
        places = range(1, len(parts))
    elif name in _COUNTED:
        places = range(3, 3 + int(parts[2]))
    else:
        raise NotImplementedError(
            f"The command {name} cannot be used with a key prefix: pooltasks.broker.client "
            "does not know which of its arguments are keys. Add it there."
        )
    for place in places:
        key = parts[place]
        if isinstance(key, bytes):
            text = keys.prefixed(prefix, key.decode("utf-8", "surrogateescape"))
            parts[place] = text.encode("utf-8", "surrogateescape")
        else:
            parts[place] = keys.prefixed(prefix, str(key))
    return parts


class _PrefixedPipeline(Pipeline):
    prefix = ""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute or gather a command."""
        return super().execute_command(*with_prefix(self.prefix, args), **options)  # type: ignore[no-untyped-call]


class PrefixedClient(redis.Redis):
    """A client whose keys all begin with ``prefix`` on the server; its users do not see that."""

    prefix = ""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute a command."""
        return super().execute_command(*with_prefix(self.prefix, args), **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline on the same keys."""
        pipeline = _PrefixedPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )
        pipeline.prefix = self.prefix
        return pipeline


def client_on(pool: redis.ConnectionPool, prefix: str) -> redis.Redis:
    """Return a client on connections that somebody else has configured.

    Args:
        pool: The connections.
        prefix: The text that all keys of the deployment begin with; may be empty.
    """
    return _prefixed(_kind(prefix)(connection_pool=pool), prefix)


def redis_client(celery_app: Celery) -> redis.Redis:
    """Return the application's client; it is made at the first call.

    redis-py notices a fork and opens new connections in the child, so the same
    client serves a node and its workers.
    """
    extension = celery_app.pooltasks
    if extension.client is None:
        # A server that went away must raise an error, not hang an operation.
        extension.client = _client(
            celery_app, socket_connect_timeout=5.0, socket_timeout=30.0, health_check_interval=30
        )
    client: redis.Redis = extension.client
    return client


def impatient_client(celery_app: Celery, **options: Any) -> redis.Redis:
    """Return a new client for an event loop: it gives up after half a second.

    Args:
        celery_app: The application.
        **options: More options of the connections.
    """
    return _client(
        celery_app,
        socket_connect_timeout=0.5,
        socket_timeout=0.5,
        retry=Retry(NoBackoff(), 0),
        redis_connect_func=greet,
        **options,
    )


def key_prefix(celery_app: Celery) -> str:
    """Return the text that every key of the application's deployment begins with."""
    prefix: str = celery_app.conf.broker_transport_options.get("global_keyprefix", "")
    return prefix


def _client(celery_app: Celery, **options: Any) -> redis.Redis:
    extension = celery_app.pooltasks
    url = extension.settings.redis_url.get_secret_value()
    options = {**extension.connection_options, **options}
    prefix = key_prefix(celery_app)
    return _prefixed(address.connect(url, _kind(prefix), **options), prefix)


def _kind(prefix: str) -> type[redis.Redis]:
    # Without a prefix, commands need not be looked at.
    return PrefixedClient if prefix else redis.Redis


def _prefixed(client: redis.Redis, prefix: str) -> redis.Redis:
    if isinstance(client, PrefixedClient):
        client.prefix = prefix
    return client
