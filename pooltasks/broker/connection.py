"""The connection of a node: kombu's, through our transport."""

from __future__ import annotations

from typing import Any

from kombu import Connection
from kombu.transport import TRANSPORT_ALIASES

from pooltasks.broker.tenure import Tenure

NAME = "pooltasks"
"""The transport's name in kombu."""


class NodeConnection(Connection):
    """A connection through this transport, whose address reads as the Redis it is."""

    def __init__(self, hostname: str = "localhost", *args: Any, **kwargs: Any) -> None:
        TRANSPORT_ALIASES[NAME] = "pooltasks.broker.transport:Transport"
        self.tenure = Tenure()
        """That of the node, on the connection over which it consumes."""
        # kombu takes the transport from before a '+', and else from the argument.
        hostname = hostname.replace("redis+socket:", f"{NAME}+socket:", 1)
        super().__init__(hostname, *args, **{**kwargs, "transport": NAME})

    def as_uri(self, *args: Any, **kwargs: Any) -> str:
        """Return the address, as kombu does."""
        uri: str = super().as_uri(*args, **kwargs)
        return uri.replace(NAME, "redis", 1)
