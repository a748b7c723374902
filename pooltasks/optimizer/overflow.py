"""Overflow: temporary workers beyond the size, for operations that no worker has time for.

A node decides on its own, many times between two decisions of a policy. It is here
because the simulator runs the very same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK = 0.02
"""Seconds between two looks of a node at its workers."""
_IDLE = 1.0
"""Seconds for which a temporary worker stays that is not needed."""


class Overflow:
    """How many temporary workers a node has beyond its size.

    The node looks a few times while it works. If at two looks in a row every worker is
    busy and an operation waits for one, there is one more from then on; one only at a
    time, because each node of a pool sees the same queue. They are workers like the
    others: there are more of them for as long as more are needed, and a second longer.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._needed: list[float] = []  # of each: when it was needed last
        self._lacked = False

    @property
    def count(self) -> int:
        """How many there are to be."""
        return len(self._needed)

    def take_over(self, number: int) -> None:
        """Let ``number`` of them count for a size that has grown."""
        del self._needed[:number]

    def look(
        self,
        now: float,
        size: int,
        *,
        serving: int,
        busy: int,
        waiting: int,
        queued: Callable[[], int],
        room: int | None = None,
    ) -> bool:
        """Take note of the workers; return whether more or fewer are wanted now.

        Args:
            now: Seconds on any clock that never goes back.
            size: How many there are to be without overflow.
            serving: How many are given operations.
            busy: How many of these have as many as they have slots.
            waiting: How many workers the node's operations need that no worker has.
            queued: The same for operations in the queue; asked only where that matters.
            room: The most workers that the host has room for; None if that is not known.
        """
        before = self.count
        coming = size + before - serving
        if not waiting and busy >= serving and (before < self.most or coming > 0):
            waiting = queued()
        for number in range(min(before, busy + waiting - size)):
            self._needed[number] = now
        while self._needed and now - self._needed[-1] >= _IDLE:
            self._needed.pop()
        coming = size + self.count - serving
        lacks = busy >= serving >= size and waiting > coming
        most = self.most if room is None else min(self.most, room - size)
        if lacks and self._lacked and self.count < most:
            self._needed.append(now)
        self._lacked = lacks
        return self.count != before
