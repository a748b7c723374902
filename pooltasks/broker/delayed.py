"""Operations that are not due yet: they wait at the server, and no node pays for them.

An operation with an ETA or a countdown, and a retry that waits, lie in a sorted set of
their pool. The nodes that watch (``session.py``) put each into the queue when it is due.
A stock client's message lies in the queue first; the node that reserves it has it wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pooltasks.broker.pusher import Command
from pooltasks.broker.scripts import Script

if TYPE_CHECKING:
    from pooltasks.broker.names import Names

_PUBLISH = Script("delay.lua", "publish_delayed.lua")
_MILLISECONDS = 1000


def publish(
    names: Names, entry: str, message: bytes, *, due: float, place: int, unique: str
) -> Command:
    """Return the command that publishes an operation which is due later.

    Args:
        names: The keys of its pool.
        entry: The operation's id.
        message: The message.
        due: When it is due, in seconds since the epoch by the server's clock.
        place: The place of the list that it will go on.
        unique: A text that no other message has.
    """
    return Command(
        *(b"EVAL", _PUBLISH.source, b"3"),
        *(key.encode() for key in (names.lists[place], names.delayed, names.delayed_messages)),
        *(names.due.encode(), entry.encode(), unique.encode()),
        *(b"%d" % (due * _MILLISECONDS), b"%d" % place, message),
    )
