"""The classes of redis-py that connections are made of, and what this library adds to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Kinds:
    """redis-py's classes of connections: those for threads, or those for event loops."""

    pool: Any
    of_hosts: Mapping[tuple[bool, bool], type]
    """Classes by whether there is TLS and whether there are several hosts."""
    on_socket: type
    sentinel: Any
    pool_of_master: Any
    of_master: Mapping[bool, type]
    """Classes by whether there is TLS."""


class OneOfSeveral:
    """A connection to one of several hosts.

    Args:
        hosts: Host and port of each.
        **options: As redis-py's.
    """

    def __init__(self, *, hosts: tuple[tuple[str, int], ...], **options: Any) -> None:
        self.hosts = hosts
        super().__init__(**options)


class _FirstThatAnswers(OneOfSeveral):
    """A connection to the first of several hosts that answers."""

    def _connect(self) -> Any:
        error: OSError | None = None
        connect = super()._connect  # type: ignore[misc]
        for host, port in self.hosts:
            self.host, self.port = host, port
            try:
                return connect()
            except OSError as its:
                error = its
        assert error is not None  # noqa: S101  there is a host
        raise error


class _AnyConnection(_FirstThatAnswers, redis.Connection):
    """A connection to one of several hosts, without TLS."""


class _AnySSLConnection(_FirstThatAnswers, redis.SSLConnection):
    """A connection to one of several hosts, over TLS."""


OF_THREADS = Kinds(
    pool=redis.ConnectionPool,
    of_hosts={
        (False, False): redis.Connection,
        (False, True): _AnyConnection,
        (True, False): redis.SSLConnection,
        (True, True): _AnySSLConnection,
    },
    on_socket=redis.UnixDomainSocketConnection,
    sentinel=Sentinel,
    pool_of_master=SentinelConnectionPool,
    of_master={False: SentinelManagedConnection, True: SentinelManagedSSLConnection},
)
"""The classes for threads; for event loops see ``broker/async_client.py``."""
