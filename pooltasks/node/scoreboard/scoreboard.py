"""Scoreboard: the work of a node's workers, added up from the rows that they write.

The node reads all rows once a second, and a dead worker's row before its
replacement gets it. :mod:`pooltasks.node.scoreboard.row` tells how a row is written.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pooltasks.errors import Category
from pooltasks.metrics.counts import OTHER, Counts
from pooltasks.node.scoreboard.row import MOST_OPERATIONS, Row
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Collection

    from pooltasks.node.scoreboard.row import Reading


@dataclass
class Activity:
    """The work of a node's workers in a span of time."""

    counts: Counts = field(default_factory=Counts)
    operations: dict[str, Counts] = field(default_factory=dict)
    """The same by operation, at most :data:`MOST_OPERATIONS` and the rest as ``other``:
    without process seconds, and with the busy seconds of those that have finished."""


class _Seat:
    """The node's own notes on one slot of a worker, and its row."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.last: Reading | None = None
        self.finished_busy = 0.0
        self.busy = 0.0
        """Busy seconds that are counted, those of the present operation too."""
        self.warm_since: float | None = None
        """Monotonic seconds up to which its process seconds are counted; None while cold."""


class Scoreboard:
    """The rows of a node, and the work since the last look, that of dead workers too.

    A worker has a row for each of its slots, found by its place in its node. Rows are
    made before the fork that needs them and taken over by the replacement.
    """

    def __init__(self) -> None:
        self._workers: dict[int, dict[int, _Seat]] = {}
        self._activity = Activity()
        self._names: set[str] = set()
        # While a node stops, its timers run in a thread of their own.
        self._lock = threading.Lock()

    def row(self, index: int, slot: int = 0) -> Row:
        """Return the row of a slot of the worker that is about to be forked for place ``index``."""
        with self._lock:
            seats = self._workers.setdefault(index, {})
            if slot not in seats:
                seats[slot] = _Seat(Row())
            return seats[slot].row

    def serves(self, index: int) -> None:
        """Count the seconds of a worker's slots from now: it takes operations."""
        with self._lock:
            now = time.monotonic()
            for seat in self._workers[index].values():
                seat.warm_since = now

    def rests(self, index: int) -> None:
        """Count the seconds of a worker's slots no more: it is given nothing."""
        with self._lock:
            now = time.monotonic()
            for seat in self._workers[index].values():
                self._collect(seat, now)
                seat.warm_since = None

    def recovered(self, duration: float) -> None:
        """Count a worker that died and was replaced.

        Args:
            duration: Seconds from its death until the replacement takes operations.
        """
        with self._lock:
            self._activity.counts.recoveries += 1
            self._activity.counts.recovery.add(duration)

    def died(self, index: int, *, timed_out: Collection[int | None] = ()) -> tuple[int, int]:
        """Add up the work of a dead worker and free its rows.

        Args:
            index: Its place.
            timed_out: Slots whose operations ignored their time limits, so that it was
                killed. These have failed; the others are lost.

        Returns:
            How many operations are lost and how many have failed with it.
        """
        with self._lock:
            now = time.monotonic()
            ended = Counter[bool]()
            for slot, seat in self._workers[index].items():
                reading = self._collect(seat, now)
                if reading.started is not None:
                    failed = slot in timed_out
                    ended[failed] += 1
                    its = self._counts_of(reading.operation)
                    its.outcomes[Outcome.FAILURE if failed else Outcome.LOST] += 1
                    its.categories[Category.TIMEOUT if failed else Category.COMMUNICATION] += 1
                seat.row.clear()
                self._workers[index][slot] = _Seat(seat.row)
            return ended[False], ended[True]

    def collect(self) -> tuple[Activity, int, int]:
        """Return the work since the last look, and how many workers and slots are busy."""
        with self._lock:
            now = time.monotonic()
            running = [
                sum(self._collect(seat, now).started is not None for seat in seats.values())
                for seats in self._workers.values()
            ]
            activity, self._activity = self._activity, Activity()
            for counts in activity.operations.values():
                # The busy seconds of the whole were counted as they passed.
                activity.counts.add(counts, busy=False)
            return activity, sum(map(bool, running)), sum(running)

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
