"""Scoreboard: what a node's workers did, added up from the rows that they write.

The node reads all rows once a second, and what a dead worker's row says before
the replacement gets it. :mod:`pooltasks.node.row` tells how a row is written.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pooltasks.errors import Category
from pooltasks.metrics.counts import OTHER, Counts
from pooltasks.node.row import MOST_OPERATIONS, Row
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from pooltasks.node.row import Reading


@dataclass
class Activity:
    """What the workers of a node did in a span of time."""

    counts: Counts = field(default_factory=Counts)
    operations: dict[str, Counts] = field(default_factory=dict)
    """The same by operation, at most :data:`MOST_OPERATIONS` and the rest as ``other``:
    without process seconds, and with the busy seconds of those that have finished."""


class _Seat:
    """The node's own notes on the worker of one row."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.last: Reading | None = None
        self.finished_busy = 0.0
        self.busy = 0.0
        """Busy seconds that are counted, those of the present operation too."""
        self.warm_since: float | None = None
        """Monotonic seconds up to which its process seconds are counted; None while cold."""


class Scoreboard:
    """The rows of a node, and what was done since the last look, by dead workers too.

    A worker's place in its node is its row. Rows are made before the fork that
    needs them and taken over by the replacement.
    """

    def __init__(self) -> None:
        self._seats: dict[int, _Seat] = {}
        self._activity = Activity()
        self._names: set[str] = set()
        # While a node stops, its timers run in a thread of their own.
        self._lock = threading.Lock()

    def row(self, index: int) -> Row:
        """Return the row for the worker that is about to be forked for place ``index``."""
        with self._lock:
            return self._seats.setdefault(index, _Seat(Row())).row

    def serves(self, index: int) -> None:
        """Count the process seconds of a worker from now: it takes operations."""
        with self._lock:
            self._seats[index].warm_since = time.monotonic()

    def rests(self, index: int) -> None:
        """Count the process seconds of a worker no more: it is kept in reserve."""
        with self._lock:
            seat = self._seats[index]
            self._collect(seat, time.monotonic())
            seat.warm_since = None

    def recovered(self) -> None:
        """Count a worker that died and was replaced."""
        with self._lock:
            self._activity.counts.recoveries += 1

    def died(self, index: int, *, timed_out: bool = False) -> bool:
        """Add up what a dead worker did and free its row.

        Args:
            index: Its place.
            timed_out: Whether it was killed because its operation ignored its
                time limit. The operation has failed then; otherwise it is lost.

        Returns:
            Whether it died in the middle of an operation.
        """
        with self._lock:
            seat = self._seats[index]
            reading = self._collect(seat, time.monotonic())
            if reading.started is not None:
                its = self._counts_of(reading.operation)
                its.outcomes[Outcome.FAILURE if timed_out else Outcome.LOST] += 1
                its.categories[Category.TIMEOUT if timed_out else Category.COMMUNICATION] += 1
            seat.row.clear()
            self._seats[index] = _Seat(seat.row)
            return reading.started is not None

    def collect(self) -> tuple[Activity, int]:
        """Return what was done since the last look, and how many workers have an operation."""
        with self._lock:
            now = time.monotonic()
            readings = [self._collect(seat, now) for seat in self._seats.values()]
            activity, self._activity = self._activity, Activity()
            for counts in activity.operations.values():
                # The busy seconds of the whole were counted as they passed.
                activity.counts.add(counts, busy=False)
            return activity, sum(reading.started is not None for reading in readings)

    def _collect(self, seat: _Seat, now: float) -> Reading:
        reading = seat.row.read(seat.last)
        seat.finished_busy += reading.add_to(self._counts_of)
        seat.last = reading
        # The present operation counts up to now. A worker looks at the clock
        # just before its row says that it has finished, hence the second maximum.
        present = max(0.0, now - reading.started) if reading.started is not None else 0.0
        busy = max(seat.busy, seat.finished_busy + present)
        counts = self._activity.counts
        counts.busy += busy - seat.busy
        seat.busy = busy
        if seat.warm_since is not None:
            counts.process += now - seat.warm_since
            seat.warm_since = now
        return reading

    def _counts_of(self, name: str) -> Counts:
        if name not in self._names and name != OTHER:
            if len(self._names) < MOST_OPERATIONS:
                self._names.add(name)
            else:
                name = OTHER
        its = self._activity.operations.get(name)
        if its is None:
            its = self._activity.operations[name] = Counts()
        return its
