"""What a channel has reserved, and how much more it may."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.transport import redis, virtual

if TYPE_CHECKING:
    from collections.abc import Callable

    from pooltasks.broker.channel import Channel

_UNLIMITED = 100
"""Messages a channel without a prefetch count reserves at the same time."""


class QoS(redis.QoS):
    """What the channel has reserved; acknowledgements gather until they are flushed."""

    channel: Channel

    gate: Callable[[int], int] | None = None
    """Narrows the prefetch count to what a node's warm workers can take."""

    def room(self) -> int:
        """Return how many messages may be reserved now."""
        if not self.channel.pause.is_over():
            return 0
        allowed = self.gate(self.prefetch_count) if self.gate else self.prefetch_count or _UNLIMITED
        return max(0, allowed - len(self._delivered) + len(self._dirty))

    def holds(self, reservation: str | None) -> bool:
        """Return whether ``reservation`` is there and not finished."""
        return reservation in self._delivered and reservation not in self._dirty

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: leases, not ages, tell what is to be put back (``recovery.py``)."""

    def is_closed(self) -> bool:
        """Return whether nothing may be reserved, however little there is."""
        return self.gate is not None and not self.gate(self.prefetch_count)

    def can_consume(self) -> bool:
        """Return whether a message may be reserved, or an answer is still owed.

        kombu would leave that answer unread until there is room: what it has
        reserved would be out of reach of other nodes.
        """
        return bool(self.channel._in_poll) or self.room() > 0  # noqa: SLF001  kombu's name

    def append(self, message: Any, delivery_tag: str) -> None:
        """Keep a message that the script has reserved."""
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge with the next step to the server."""
        self.channel.completion.acknowledge(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put a message back at the head of its queue, or make it a dead letter.

        Celery rejects for good what it does not know or cannot run, and what an
        operation refuses with ``Reject``: other brokers dead-letter it too.
        """
        message = self._delivered[delivery_tag]
        if requeue:
            self.channel.give_back(message)
        else:
            self.channel.bury(message)
        virtual.QoS.ack(self, delivery_tag)
