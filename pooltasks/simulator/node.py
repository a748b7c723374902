"""A simulated node: its share of the workers, their counts and its samples."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial

from pooltasks.optimizer.overflow import Overflow


@dataclass
class Counters:
    """The counts of a node since its start."""

    begun: int = 0  # operations that have started
    started: int = 0  # of these, those without limits
    late: int = 0
    wait_sum: float = 0.0
    completed: int = 0
    service_sum: float = 0.0
    service_squares: float = 0.0

    def copy(self) -> Counters:
        """Return a copy of the present counts."""
        return Counters(**vars(self))


class Node:
    """A node: its workers, by number, and its counts.

    Args:
        overflow: How many temporary workers it may have beyond its share.
        wait: The objective's, in seconds.
    """

    def __init__(self, overflow: int, wait: float) -> None:
        self.alive = True
        self.target = 0
        self._begin = partial(Overflow, overflow, wait)
        self.overflow = self._begin()
        self.members: set[int] = set()  # every worker: warming, resting, idle, busy
        self.warming: set[int] = set()
        self.resting: list[int] = []  # warm, and given nothing: spares
        self.retiring = 0  # busy workers that rest when they finish
        self.forks_until = 0.0  # it forks one worker after another
        self.counters = Counters()
        self.sent: deque[tuple[float, Counters]] = deque()  # (taken at, sample), on their way
        self.seen = Counters()  # the newest sample that has arrived
        self.seen_of = 0.0  # when that was taken

    def die(self) -> None:
        """End; it comes back without temporary workers."""
        self.alive = False
        self.overflow = self._begin()

    @property
    def wanted(self) -> int:
        """How many workers are to serve now, temporary ones too."""
        return self.target + self.overflow.count

    def wanted_with(self, spares: int) -> int:
        """Return how many workers there are to be, with the spares that rest."""
        return self.wanted + self.overflow.spares(spares)

    def look(self, now: float, idle: int, *, queued: int, run: float) -> bool:
        """Look at the workers; return whether more or fewer temporary ones are wanted.

        Args:
            now: Simulated seconds.
            idle: How many of those that serve do nothing.
            queued: How many operations wait.
            run: Seconds that one runs.
        """
        return self.alive and self.overflow.look(
            now,
            self.target,
            serving=self.serving,
            busy=self.serving - idle,
            waiting=0,
            queued=lambda: queued,
            run=run,
            resting=len(self.resting),
        )

    @property
    def serving(self) -> int:
        """How many workers are given operations."""
        return len(self.members) - len(self.warming) - len(self.resting)
