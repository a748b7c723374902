"""Overflow: temporary workers beyond the size, for operations that no worker has time for.

A node decides on its own, many times between two decisions of a policy. It is here
because the simulator runs the very same code.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK = 0.02
"""Seconds between two looks of a node at its workers."""
_TOLERATED = 0.5
"""Share of the objective's wait that operations wait without a temporary worker."""
_IDLE = 0.5
"""Seconds for which a temporary worker stays that is not needed."""


class Overflow:
    """How many temporary workers a node has beyond its size.

    The node looks a few times while it works. If at two looks in a row every worker is
    busy and operations wait for so long that it matters, there is one more from then on. A
    spare, which costs no fork, comes at the first of them. There is one more only at a time,
    because each node of a pool sees the same queue. They are workers like the others: there are
    more of them for as long as operations would wait for so long without them, and half a second
    longer. A spare that serves as one is not replaced: it comes back.

    Operations of five milliseconds wait for each other all the time, and for a moment only. So
    half of the objective's wait does not matter; otherwise a pool of them would never be
    without temporary workers.

    Args:
        most: How many there may be.
        wait: The objective's wait in seconds.
    """

    def __init__(self, most: int, wait: float = 0.0) -> None:
        self.most = most
        self._tolerated = _TOLERATED * wait
        self._needed: list[float] = []  # of each: when it was needed last
        self._lacked = False

    @property
    def count(self) -> int:
        """How many there are to be."""
        return len(self._needed)

    def spares(self, number: int) -> int:
        """Return how many of ``number`` spares are to rest: the others serve as temporary ones."""
        return max(0, number - self.count)

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
        run: float = math.inf,
        resting: int = 0,
        room: int | None = None,
    ) -> bool:
        """Take note of the workers; return whether more or fewer are wanted now.

        Args:
            now: Seconds on any clock that never goes back.
            size: How many there are to be without overflow.
            serving: How many are given operations.
            busy: How many of these have as many as they have slots.
            waiting: How many workers the node's operations need that no worker has.
            queued: The same for operations in the queue; asked only when every worker is busy.
            run: Seconds that an operation runs.
            resting: How many spares rest.
            room: The most workers that the host has room for; None if that is not known.
        """
        before = self.count
        if busy >= serving and (before or self.most):
            waiting += queued()
        for number in range(before):
            # Without this one and those after it:
            if not self._is_too_long(busy + waiting - size - number, size + number, run):
                break
            self._needed[number] = now
        while self._needed and now - self._needed[-1] >= _IDLE:
            self._needed.pop()
        coming = size + self.count - serving
        lacks = busy >= serving >= size and self._is_too_long(
            waiting - coming, serving + coming, run
        )
        most = self.most if room is None else min(self.most, room - size)
        if lacks and (self._lacked or resting) and self.count < most:
            self._needed.append(now)
        self._lacked = lacks
        return self.count != before

    def _is_too_long(self, waiting: int, workers: int, run: float) -> bool:
        """Return whether so many operations wait too long for so many busy workers."""
        return waiting > 0 and waiting * run >= self._tolerated * workers
