"""The connection of a node: kombu's, through our transport."""

from __future__ import annotations

from typing import Any

from kombu import Connection
from kombu.transport import TRANSPORT_ALIASES

from pooltasks.broker.tenure import Tenure

_NAME = "pooltasks"
_SENTINEL_NAME = "pooltasks-sentinel"
"""The transports' names in kombu."""


class NodeConnection(Connection):
    """A connection through this transport, whose address reads as the Redis it is."""

    def __init__(self, hostname: str = "localhost", *args: Any, **kwargs: Any) -> None:
        TRANSPORT_ALIASES[_NAME] = "pooltasks.broker.transport:Transport"
        TRANSPORT_ALIASES[_SENTINEL_NAME] = "pooltasks.broker.sentinels:SentinelTransport"
        self.tenure = Tenure()
        """That of the node, on the connection over which it consumes."""
        # kombu takes the transport from before a '+', and else from the argument.
        hostname = hostname.replace("redis+socket:", f"{_NAME}+socket:", 1)
        self._scheme = hostname.partition(":")[0].partition("+")[0].replace(_NAME, "redis")
        self._name = _SENTINEL_NAME if self._scheme == "sentinel" else _NAME
        super().__init__(hostname, *args, **{**kwargs, "transport": self._name})

    def switch(self, conn_str: str) -> None:
        """Go to another of several addresses; kombu would take the transport from it, too."""
        super().switch(conn_str)
        self.transport_cls = self._name

    def as_uri(self, *args: Any, **kwargs: Any) -> str:
        """Return the address, as kombu does."""
        uri: str = super().as_uri(*args, **kwargs)
        return uri.replace(self._name, self._scheme)
