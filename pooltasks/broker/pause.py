"""Pauses of a channel: what is not to be asked of the server for now."""

from __future__ import annotations

import time

from celery.utils.log import get_logger
from redis.exceptions import OutOfMemoryError

logger = get_logger(__name__)

_REFUSED = 0.5
"""Seconds after which a server that has refused something is asked again."""

_PASSING = ("OOM", "MISCONF", "NOREPLICAS", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")
"""How the errors begin of a server that refuses for a while."""


class Pause:
    """Until when a node asks for nothing, and why if the server has refused it.

    A server may answer and do nothing: its memory is full, it cannot write to its
    disk, it has too few replicas. That passes, or somebody mends it, and no node
    ends for it. The log has each new reason, and the end.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._refused_until = 0.0
        self._reason = ""

    def rest(self, seconds: float) -> None:
        """Ask for no messages for some seconds; what has finished is completed meanwhile."""
        self._until = time.monotonic() + seconds

    def is_over(self) -> bool:
        """Return whether the server may be asked for messages."""
        return time.monotonic() >= max(self._until, self._refused_until)

    def is_refused(self) -> bool:
        """Return whether the server has just refused something, and is to be left alone."""
        return time.monotonic() < self._refused_until

    def refused(self, error: Exception) -> None:
        """Note that the server refuses what it was asked; it is asked again in a moment."""
        self._refused_until = time.monotonic() + _REFUSED
        if str(error) != self._reason:
            self._reason = str(error)
            logger.error(
                "The server refuses what a node asks of it: %s. Trying again until it does not.",
                error,
            )

    def accepted(self) -> None:
        """Note that the server does what it is asked."""
        if self._reason:
            self._reason = ""
            logger.warning("The server does again what a node asks of it.")


def is_passing(error: Exception) -> bool:
    """Return whether a server that answered this will take the command later."""
    return isinstance(error, OutOfMemoryError) or str(error).startswith(_PASSING)
