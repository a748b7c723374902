"""The client of the server for an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NotConnectedError

from pooltasks.errors import ConfigurationError

if TYPE_CHECKING:
    from pooltasks import address

_CONNECT = 3.0
"""Seconds in which a server must take a connection."""


def client_of(server: address.Server, silence: float | None, **options: Any) -> redis.Redis:
    """Return a client that sends its commands over one connection.

    A connection that broke is replaced once, at once. A command without an answer has failed.

    Args:
        server: The server.
        silence: Seconds in which it must answer, if the address does not say; None: any time.
        **options: Arguments of redis-py's connections.

    Raises:
        ConfigurationError: The address names several hosts.
    """
    of_sentinels = {**server.sentinel_options, **options.pop("sentinel_kwargs", {})}
    of_sentinels.pop("retry", None)  # that is for threads
    least = options.pop("min_other_sentinels", 0)
    options = {
        "socket_connect_timeout": _CONNECT,
        "socket_timeout": silence,
        "retry": Retry(NoBackoff(), 1, supported_errors=(NotConnectedError,)),
        **server.connection_options,
        **options,
    }
    has_tls = server.tls is not None
    if server.master_name:
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
            [*server.hosts], min_other_sentinels=least, sentinel_kwargs=of_sentinels
        )
        client: redis.Redis = sentinel.master_for(
            server.master_name,
            connection_class=SentinelManagedSSLConnection if has_tls else SentinelManagedConnection,
            **options,
        )
        return client
    if len(server.hosts) > 1:
        raise ConfigurationError(
            "An event loop uses one server, and broker_url names several. Use Sentinels, or "
            "submit in a thread: await asyncio.to_thread(operation.delay)."
        )
    kind: Any = redis.SSLConnection if has_tls else redis.Connection
    if server.path:
        kind = redis.UnixDomainSocketConnection
        options["path"] = server.path
    else:
        options["host"], options["port"] = server.hosts[0]
    pool: redis.ConnectionPool = redis.ConnectionPool(connection_class=kind, **options)
    client = redis.Redis(connection_pool=pool, single_connection_client=True)
    client.auto_close_connection_pool = True
    return client
