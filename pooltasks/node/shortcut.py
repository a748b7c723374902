"""The short way of a result: a worker completes its operation, and its node hears of it then.

While operations wait, a node completes many in one step, with its next
reservation. Where nothing waits there is nothing to gather, and the caller would
wait for the node to wake up first, on an idle pool for a tenth of the round trip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from celery.utils.log import get_logger
from redis.exceptions import RedisError

from pooltasks.broker.client import impatient_client
from pooltasks.broker.completion import Batch, complete
from pooltasks.broker.wire import Wire

if TYPE_CHECKING:
    from celery import Celery

    from pooltasks.broker.channel import Channel
    from pooltasks.broker.results import StoredResult
    from pooltasks.node.jobs import Job

logger = get_logger(__name__)


class Claim(NamedTuple):
    """What a worker needs to complete an operation."""

    unacked: str
    """Key of the hash of what its node has reserved."""
    reservation: str
    """The operation's place there."""


class Claims:
    """Says which operations their workers may complete, and hears of those that they have."""

    channel: Channel | None = None
    """From which operations come; None if their results are not stored with the acknowledgement."""

    def of(self, job: Job) -> Claim | None:
        """Return the claim of an operation that is acknowledged late; None if it is the node's."""
        if self.channel is None or not self.channel.is_caught_up:
            return None  # the next reservation, which comes at once, completes it
        return Claim(self.channel.stored_unacked_key, _reservation(job))

    def completed(self, job: Job) -> None:
        """Note that an operation is completed: its acknowledgement, about to come, is done."""
        if self.channel is not None:
            self.channel.completion.completed(_reservation(job))


def _reservation(job: Job) -> str:
    """Return where the operation's message is reserved, as its request knows it."""
    reservation: str = job.call[1][2]["properties"]["delivery_tag"]
    return reservation


class Shortcut:
    """A worker's own way to the server; it connects when it is first needed.

    Args:
        app: The application.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._wire: Wire | None = None
        self._is_shut = False

    def complete(self, claim: Claim, stored: StoredResult) -> bool:
        """Store a result, tell whoever waits for it, and acknowledge, in one step.

        Returns:
            Whether that is done; if not, the node has to do it, even if it may be done.
        """
        try:
            if self._wire is None:
                pool = impatient_client(self._app).connection_pool
                self._wire = Wire(pool.get_connection())
            complete(self._wire, claim.unacked, Batch([stored], [claim.reservation]))
        except RedisError as error:
            # Once: of an outage the node says more, which waits for the server as long as it takes.
            if not self._is_shut:
                logger.info("results go by the node until the server takes them here: %s", error)
            self._is_shut = True
            self.close()
            return False
        self._is_shut = False
        return True

    def close(self) -> None:
        """Close the connection; the next operation opens it again."""
        if self._wire is not None:
            self._wire.close()
