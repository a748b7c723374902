"""The transport of a node: kombu's for Redis, with an identity and a lease.

Queue and message stay kombu's own, so stock clients publish and stock workers
drain. Producers keep the stock transport: publishing needs nothing of this.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis
from redis.exceptions import ResponseError

from pooltasks.broker.channel import Channel
from pooltasks.broker.polling import Poller, Readers
from pooltasks.broker.recovery import WATCH_SECONDS, Lease


class Transport(redis.Transport):
    """The transport of a node: an identity, and a lease for as long as a loop runs it."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.lease: Lease | None = None
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Attach to the loop, and take the lease under which messages are reserved."""
        super().register_with_event_loop(connection, Readers(loop))
        channel = self.client.default_channel
        self.lease = self.client.tenure.lease(channel.server, channel.global_keyprefix)
        loop.call_repeatedly(WATCH_SECONDS, self._renew)

    def _renew(self) -> None:
        if self.lease is None:
            return
        try:
            held = self.lease.renew()
        except ResponseError as error:
            self.client.default_channel.pause.refused(error)
            return
        if not held:
            self.lease = None
            raise ConnectionResetError(
                "this node was taken for dead and its operations run elsewhere; it starts again"
            )

    def close_connection(self, connection: Any) -> None:
        """Close, and leave what is still reserved to the other nodes."""
        super().close_connection(connection)
        if self.lease is not None:
            self.lease.give_up()
            self.lease = None
