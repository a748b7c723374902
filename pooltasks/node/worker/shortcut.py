"""The short way of a result: a worker completes its operation, and its node hears of it then.

While operations wait, a node completes many in one step, with its next
reservation. Where nothing waits there is nothing to gather, and the caller would
wait for the node to wake up first, on an idle pool for a tenth of the round trip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from celery.utils.log import get_logger
from redis.exceptions import NoScriptError, RedisError

from pooltasks.broker.client import impatient_client
from pooltasks.broker.completion import Batch
from pooltasks.broker.reservations import COMPLETE
from pooltasks.broker.wire import Wire

if TYPE_CHECKING:
    from celery import Celery

    from pooltasks.broker.loan import Loan
    from pooltasks.broker.results import StoredResult
    from pooltasks.node.intake.intake import Intake
    from pooltasks.node.workforce.jobs import Job

logger = get_logger(__name__)


class Claim(NamedTuple):
    """The reservation that a worker may complete."""

    unacked: str
    """Key of the hash of its node's reservations."""
    reservation: str
    """The operation's place there."""


class Claims:
    """Says which operations their workers may complete, and hears of those that they have."""

    intake: Intake | None = None
    """The node's intake; None if results are not stored together with the acknowledgement."""

    def of(self, job: Job) -> Claim | None:
        """Return the claim of an operation that is acknowledged late; None if it is the node's."""
        if self.intake is None or not self.intake.is_caught_up:
            return None  # the next reservation, which comes at once, completes it
        reservation = job.call.reservation
        if reservation is None or reservation in self.intake.reservations.controlled:
            return None  # the node makes room for others like it in the same step
        session = self.intake.session
        return Claim(session.names.unacked(session.identity), reservation)

    def completed(self, job: Job) -> None:
        """Note that an operation is completed: its acknowledgement, about to come, is done."""
        if self.intake is not None and job.call.reservation is not None:
            self.intake.reservations.held.discard(job.call.reservation)


class Shortcut:
    """A worker's own way to the server; it connects when it is first needed.

    Args:
        app: The application.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._wire: Wire | None = None
        self._joined: str | None = None
        """The identity of the node to whose connections this one belongs; None: to no node's."""
        self._is_shut = False

    def complete(self, claim: Claim, stored: StoredResult) -> bool:
        """Store a result, tell its caller, and acknowledge, in one step.

        Returns:
            Whether that is done; if not, the node has to do it, even if it may be done.
        """
        try:
            wire = self._open()
            batch = Batch([stored], [claim.reservation])
            command = COMPLETE.call((claim.unacked, *batch.keys()), batch.arguments())
            try:
                wire.ask(command)
            except NoScriptError:  # the server was restarted, or somebody emptied its cache
                wire.ask(COMPLETE.load())
                wire.ask(command)
        except RedisError as error:
            # Once: the node itself, which waits as long as it takes, says more of an outage.
            if not self._is_shut:
                logger.info("results go by the node until the server takes them here: %s", error)
            self._is_shut = True
            self.close()
            return False
        self._is_shut = False
        return True

    def join(self, loan: Loan) -> Wire:
        """Return the connection, as one of the node that lends its wait.

        Raises:
            redis.RedisError: The server is away, or refuses.
        """
        if self._joined not in (None, loan.identity):
            self.close()
        wire = self._open()
        if self._joined is None or not self.is_open:
            loan.join(wire)
            self._joined = loan.identity
        return wire

    def _open(self) -> Wire:
        if self._wire is None:
            # With RESP3 a connection that is subscribed takes commands too.
            pool = impatient_client(self._app, protocol=3).connection_pool
            self._wire = Wire(pool.get_connection())
        return self._wire

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._wire is not None and self._wire.fileno() is not None

    def close(self) -> None:
        """Close the connection; the next operation opens it again."""
        self._joined = None
        if self._wire is not None:
            self._wire.close()
