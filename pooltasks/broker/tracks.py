"""Tracks: what a node takes while two versions of a pool's code run beside each other.

During a rollout each message that waits is sorted into the list of one version
(``sort.lua``). A node serves the list of its own. Which that is it hears when it joins: a
rollout that begins or ends has every node join again before it may reserve anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from celery.utils.log import get_logger

from pooltasks import keys
from pooltasks.broker.scripts import Script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pooltasks.broker.names import Names

logger = get_logger(__name__)

AHEAD = Script("sort.lua", "ahead.lua")


class Track(NamedTuple):
    """The operations that a node takes during a rollout, or after one whose version it has."""

    lists: Sequence[str]
    """The lists from which it reserves, by place; none: it takes nothing."""
    waits_at: str
    """The list at which it waits while these are empty; '' if it takes nothing."""

    @property
    def takes_nothing(self) -> bool:
        """Whether another version runs what waits."""
        return not self.lists


NOTHING = Track((), "")


class Standing(NamedTuple):
    """A pool's last rollout, as a node that joins hears of it; all '' if there is none."""

    state: str
    """``live``, ``done`` or ``aborted``."""
    before: str
    version: str
    """The one that is or was rolled out."""
    retired: str
    """The versions that rollouts have taken out of use, between and around them commas."""


class Tracks:
    """The tracks of one node, of which it chooses when it joins.

    Args:
        names: Of its pool.
        version: The node's.
        fair: Whether operations of the pool are fair: who waits for a turn is of no version.
    """

    def __init__(self, names: Names, version: str, *, fair: bool) -> None:
        self._names = names
        self._version = version
        self._fair = fair
        self._said: str | None = None
        """The version of which it has said that it takes nothing meanwhile."""

    def of(self, rollout: Standing) -> Track | None:
        """Return the node's track; None: it takes what waits, as ever.

        Args:
            rollout: The pool's last.
        """
        names, version = self._names, self._version
        if rollout.state != "live":
            self._said = None
            return NOTHING if f",{version}," in rollout.retired else None
        if self._fair:
            self._say_why(rollout)
            return NOTHING
        if version == rollout.version:
            return Track(names.canary, names.canary[0])
        return Track(names.stable, names.lists[0]) if version == rollout.before else NOTHING

    def _say_why(self, rollout: Standing) -> None:
        if self._said == rollout.version:
            return
        self._said = rollout.version
        pool = self._names.queue.removeprefix(keys.QUEUE_PREFIX)
        logger.warning(
            "This node takes nothing while version %s is rolled out: an operation of its pool is "
            "fair, and the turns of its keys know no versions. End the rollout: pooltasks rollout "
            "abort %s. Then restart the nodes one after the other.",
            rollout.version,
            pool,
        )
