"""What outlives a node's connection: who the node is, and what it has finished.

A server that restarts, or a network that fails for a moment, takes a node's
connection and not its workers. The node that comes back before anybody took it
for dead goes on as the same: what its workers run is still its own, and is
acknowledged over the new connection. The rest of what it had reserved goes
back to the queue, for it has forgotten it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pooltasks.broker.completion import Completion
from pooltasks.broker.recovery import Lease
from pooltasks.broker.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE = 2.0
"""Seconds for which a node that was cut off itself lets expired leases be: whoever
was cut off with it needs as long to come back."""


class Tenure:
    """A node's identity and its unfinished completions, over all its connections.

    Args:
        running: Returns the reservations whose operations its workers run.
    """

    def __init__(self, running: Callable[[], set[str]] = set) -> None:
        self.identity = uuid4().hex
        self.completion = Completion()
        self._running = running
        self._patience = 0.0

    def lease(self, client: Any, prefix: str = "") -> Lease:
        """Return the lease under which messages are reserved over a new connection.

        Args:
            client: A client of the server.
            prefix: Of the deployment's keys and channels.
        """
        wire = Wire(client.connection_pool.get_connection())
        lease = Lease(client, wire, self.identity, self._patience, prefix)
        self._patience = _PATIENCE
        if not lease.resume(self._running() | set(self.completion.reservations)):
            # The first connection, or the others have given its operations away.
            self.identity = lease.identity = uuid4().hex
            lease.take()
        return lease
