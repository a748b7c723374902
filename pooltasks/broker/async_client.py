"""The client of the server for an event loop.

Where a server is, and how its TLS and its logins are, is read as for threads
(:meth:`pooltasks.address.Server.pool`). Only the classes of redis-py differ.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis import CredentialProvider
from redis import asyncio as redis
from redis.asyncio import sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NotConnectedError

from pooltasks.connections import Kinds, OneOfSeveral

if TYPE_CHECKING:
    from pooltasks.address import Server

_CONNECT = 3.0
"""Seconds in which a server must take a connection."""


def client_of(server: Server, silence: float | None, **options: Any) -> redis.Redis:
    """Return a client that sends its commands over one connection, or a few if there are Sentinels.

    A connection that broke is replaced once, at once. A command without an answer has failed.

    Args:
        server: The server.
        silence: Seconds in which it must answer, if the address does not say; None: any time.
        **options: As those of :meth:`pooltasks.address.Server.client`.
    """
    # The address has a retry of Sentinels that is for threads.
    of_sentinels = {**options.get("sentinel_kwargs", {}), "retry": Retry(NoBackoff(), 0)}
    options = {
        "socket_connect_timeout": _CONNECT,
        "socket_timeout": silence,
        "retry": Retry(NoBackoff(), 1, supported_errors=(NotConnectedError,)),
        **server.options,
        **options,
        "sentinel_kwargs": of_sentinels,
    }
    pool = server.pool(_OF_LOOPS, **options)
    provider = pool.connection_kwargs.get("credential_provider")
    if provider is not None and not _is_for_loops(provider):
        pool.connection_kwargs["credential_provider"] = _AskedInAThread(provider)
    # A connection asks the Sentinels when its pool hands it out, and not when it breaks.
    client = redis.Redis(connection_pool=pool, single_connection_client=not server.master_name)
    client.auto_close_connection_pool = True
    return client


async def close(client: redis.Redis) -> None:
    """Close a client and, where there are Sentinels, those that it asks."""
    await client.aclose()
    pool = client.connection_pool
    if isinstance(pool, sentinel.SentinelConnectionPool):
        await pool.sentinel_manager.aclose()


def abandon(client: redis.Redis) -> None:
    """Let go of a client whose loop was closed: its connection can no more be closed by asyncio."""
    connection, client.connection = client.connection, None
    if connection is not None:
        connection._reader = connection._writer = None  # noqa: SLF001  it would close them


def _is_for_loops(provider: Any) -> bool:
    its = getattr(type(provider), "get_credentials_async", None)
    return its not in (None, CredentialProvider.get_credentials_async)


class _AskedInAThread(CredentialProvider):
    """A provider that was written for threads, and may ask a server of its own."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def get_credentials(self) -> Any:
        return self._provider.get_credentials()

    async def get_credentials_async(self) -> Any:
        return await asyncio.to_thread(self._provider.get_credentials)


class _FirstThatAnswers(OneOfSeveral):
    """A connection to the first of several hosts that answers."""

    async def _connect(self) -> None:
        error: OSError | None = None
        connect = super()._connect  # type: ignore[misc]
        for host, port in self.hosts:
            self.host, self.port = host, port
            try:
                return await connect()  # type: ignore[no-any-return]
            except OSError as its:
                error = its
        assert error is not None  # noqa: S101  there is a host
        raise error


class _HoldsUpNoLoop:
    """A connection over TLS that is opened and closed without anybody's waiting.

    To read a system's certificates takes 50 ms. They are read for each connection, as for
    threads: files of certificates change. The end of TLS is not agreed upon with a server
    that may be silent.
    """

    ssl_context: Any
    _writer: Any
    socket_connect_timeout: float | None

    async def _connect(self) -> None:
        self.ssl_context.context = None
        async with asyncio.timeout(self.socket_connect_timeout):
            await asyncio.to_thread(self.ssl_context.get)
        await super()._connect()  # type: ignore[misc]

    async def disconnect(self, *args: Any, **options: Any) -> None:
        """Close the connection, at once."""
        if self._writer is not None:
            self._writer.transport.abort()
        await super().disconnect(*args, **options)  # type: ignore[misc]


class _AnyConnection(_FirstThatAnswers, redis.Connection):
    """A connection to one of several hosts, without TLS."""


class _SSLConnection(_HoldsUpNoLoop, redis.SSLConnection):
    """A connection to one host, over TLS."""


class _AnySSLConnection(_FirstThatAnswers, _SSLConnection):
    """A connection to one of several hosts, over TLS."""


class _SSLConnectionToMaster(_HoldsUpNoLoop, sentinel.SentinelManagedSSLConnection):
    """A connection to a master, over TLS."""


class _Sentinels(sentinel.Sentinel):
    """The Sentinels; those with TLS do not hold up the loop either."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]
        for client in self.sentinels:
            if client.connection_pool.connection_class is redis.SSLConnection:
                client.connection_pool.connection_class = _SSLConnection


_OF_LOOPS = Kinds(
    pool=redis.ConnectionPool,
    of_hosts={
        (False, False): redis.Connection,
        (False, True): _AnyConnection,
        (True, False): _SSLConnection,
        (True, True): _AnySSLConnection,
    },
    on_socket=redis.UnixDomainSocketConnection,
    sentinel=_Sentinels,
    pool_of_master=sentinel.SentinelConnectionPool,
    of_master={False: sentinel.SentinelManagedConnection, True: _SSLConnectionToMaster},
)
