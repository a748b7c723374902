"""Scoreboard: memory that a node shares with its workers, a row for each.

A worker writes its row from handlers of its telemetry, without a lock and
without I/O; the node reads all rows once a second. A row is an array of 64-bit
integers, so that each store is whole, and a change of several is announced
before it is made: its new values go into the row's journal, the sequence number
becomes odd, the values are stored, the number becomes even. Whoever finds an
odd number (the node after a kill, the worker after a time limit hit it just
there) stores the journal's values again, which changes nothing where that was
done, and has a consistent row.

Row: sequence number · journal (length, then index and value of each change) ·
start of the present operation (monotonic ns, 0 if none) · counters, which only
ever grow: busy ns, sums of wait and run in ns, operations by outcome, errors by
category, buckets of wait and run.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from pooltasks import telemetry
from pooltasks.errors import Category
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.histogram import BUCKETS, HIGHEST, Histogram, bucket_of
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

_OUTCOMES = list(Outcome)
_CATEGORIES = list(Category)

_NOWHERE = 0
"""Word that takes what a change leaves out."""
_SEQUENCE = 1
_JOURNAL = 2
_CHANGES = 6
_STARTED = _JOURNAL + 1 + 2 * _CHANGES
_COUNTERS = _STARTED + 1
_BUSY = _COUNTERS
_WAIT_SUM = _BUSY + 1
_RUN_SUM = _WAIT_SUM + 1
_OUTCOME = _RUN_SUM + 1
_CATEGORY = _OUTCOME + len(_OUTCOMES)
_WAIT = _CATEGORY + len(_CATEGORIES)
_RUN = _WAIT + BUCKETS
_WORDS = _RUN + BUCKETS

_OUTCOME_WORD = {outcome: _OUTCOME + place for place, outcome in enumerate(_OUTCOMES)}
_CATEGORY_WORD: Mapping[Category | None, int] = {
    None: _NOWHERE,
    **{category: _CATEGORY + place for place, category in enumerate(_CATEGORIES)},
}
_JOURNAL_START = struct.Struct("=7q")
_JOURNAL_FINISH = struct.Struct("=13q")
_JOURNAL_BYTE = _JOURNAL * 8
_READS = 100


class Row:
    """What one worker tells: written by the worker, read by the node.

    Worker and node hold the same memory; the worker got it by being forked.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _WORDS * 8)
        self._words = memoryview(self._memory).cast("q")

    def attach(self) -> None:
        """Write this row from the telemetry of this process, the worker."""
        telemetry.attach("pooltasks.scoreboard.start", "worker.checkout", self._on_checkout)
        telemetry.attach("pooltasks.scoreboard.finish", "worker.checkin", self._on_checkin)

    def _on_checkout(
        self, _event: str, measurements: Mapping[str, Any], _metadata: Mapping[str, Any], _: Any
    ) -> None:
        self.start(measurements["wait"])

    def _on_checkin(
        self, _event: str, measurements: Mapping[str, Any], metadata: Mapping[str, Any], _: Any
    ) -> None:
        self.finish(metadata["outcome"], metadata["category"], measurements["run"])

    def start(self, wait: float | None) -> None:
        """Begin an operation that waited ``wait`` seconds (None: not known)."""
        words = self._words
        if words[_SEQUENCE] & 1:
            _replay(words)
        if words[_STARTED]:
            # A time limit struck in the microseconds in which the last one was to be counted.
            self.finish(Outcome.FAILURE, Category.TIMEOUT, None)
        now = time.monotonic_ns()
        if wait is None:
            bucket, waits, total = _NOWHERE, 0, words[_WAIT_SUM]
        else:
            bucket = _WAIT + bucket_of(wait)
            waits = words[bucket] + 1
            total = words[_WAIT_SUM] + int(min(wait, HIGHEST) * 1e9)
        _JOURNAL_START.pack_into(
            self._memory, _JOURNAL_BYTE, 3, _STARTED, now, bucket, waits, _WAIT_SUM, total
        )
        words[_SEQUENCE] += 1
        words[_STARTED] = now
        words[bucket] = waits
        words[_WAIT_SUM] = total
        words[_SEQUENCE] += 1

    def finish(self, outcome: Outcome, category: Category | None, run: float | None) -> None:
        """End the operation; ``run`` in seconds, None if it was refused before it ran."""
        words = self._words
        if words[_SEQUENCE] & 1:
            _replay(words)
        # No start: a time limit struck in the microseconds in which it was to be noted.
        started = words[_STARTED]
        busy = words[_BUSY] + (time.monotonic_ns() - started if started else 0)
        at_outcome = _OUTCOME_WORD[outcome]
        outcomes = words[at_outcome] + 1
        at_category = _CATEGORY_WORD[category]
        categories = words[at_category] + 1
        if run is None:
            bucket, runs, total = _NOWHERE, 0, words[_RUN_SUM]
        else:
            bucket = _RUN + bucket_of(run)
            runs = words[bucket] + 1
            total = words[_RUN_SUM] + int(run * 1e9)
        # fmt: off
        _JOURNAL_FINISH.pack_into(
            self._memory, _JOURNAL_BYTE, 6, _STARTED, 0, _BUSY, busy, at_outcome, outcomes,
            at_category, categories, bucket, runs, _RUN_SUM, total,
        )
        # fmt: on
        words[_SEQUENCE] += 1
        words[_STARTED] = 0
        words[_BUSY] = busy
        words[at_outcome] = outcomes
        words[at_category] = categories
        words[bucket] = runs
        words[_RUN_SUM] = total
        words[_SEQUENCE] += 1

    def read(self) -> list[int]:
        """Return all words as they were at one moment."""
        for _ in range(_READS):
            copy = memoryview(self._memory[:]).cast("q")
            if copy[_SEQUENCE] == self._words[_SEQUENCE]:
                break
        # A worker that changed it each time leaves counters a change apart: the
        # next reading has the rest.
        words = copy.tolist()
        if words[_SEQUENCE] & 1:
            _replay(words)
        return words

    def clear(self) -> None:
        """Make the row of a dead worker that of the next one."""
        self._memory[:] = bytes(len(self._memory))


def _replay(words: Any) -> None:
    """Make the change that the journal announces."""
    for place in range(_JOURNAL + 1, _JOURNAL + 1 + 2 * words[_JOURNAL], 2):
        words[words[place]] = words[place + 1]
    words[_SEQUENCE] += 1


class _Seat:
    """The node's own notes on the worker of one row."""

    def __init__(self) -> None:
        self.row = Row()
        self.last = [0] * _WORDS
        self.busy = 0
        self.warm_since: int | None = None
        """Monotonic ns up to which its process seconds are counted; None while cold."""


class Scoreboard:
    """The rows of a node, and the sums over all its workers, dead ones too.

    A worker's place in its node is its row. Rows are made before the fork that
    needs them and taken over by the replacement.
    """

    def __init__(self) -> None:
        self._seats: dict[int, _Seat] = {}
        self._totals = [0] * _WORDS
        self._process_ns = 0
        self._recoveries = 0
        # While a node stops, its timers run in a thread of their own.
        self._lock = threading.Lock()

    def row(self, index: int) -> Row:
        """Return the row for the worker that is about to be forked for place ``index``."""
        with self._lock:
            return self._seats.setdefault(index, _Seat()).row

    def serves(self, index: int) -> None:
        """Count the process seconds of a worker from now: it takes operations."""
        with self._lock:
            self._seats[index].warm_since = time.monotonic_ns()

    def rests(self, index: int) -> None:
        """Count the process seconds of a worker no more: it is kept in reserve."""
        with self._lock:
            seat = self._seats[index]
            self._collect(seat, time.monotonic_ns())
            seat.warm_since = None

    def recovered(self) -> None:
        """Count a worker that died and was replaced."""
        with self._lock:
            self._recoveries += 1

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
            in_the_middle = bool(self._collect(seat, time.monotonic_ns())[_STARTED])
            if in_the_middle:
                outcome = Outcome.FAILURE if timed_out else Outcome.LOST
                category = Category.TIMEOUT if timed_out else Category.COMMUNICATION
                self._totals[_OUTCOME_WORD[outcome]] += 1
                self._totals[_CATEGORY_WORD[category]] += 1
            seat.row.clear()
            seat.last = [0] * _WORDS
            seat.busy = 0
            seat.warm_since = None
            return in_the_middle

    def collect(self) -> tuple[Reading, int]:
        """Return the sums up to now and the number of workers that have an operation."""
        with self._lock:
            now = time.monotonic_ns()
            busy = sum(bool(self._collect(seat, now)[_STARTED]) for seat in self._seats.values())
            return Reading(self._totals, self._process_ns, self._recoveries), busy

    def _collect(self, seat: _Seat, now: int) -> list[int]:
        words = seat.row.read()
        totals = self._totals
        for place in range(_COUNTERS + 1, _WORDS):
            if words[place] != seat.last[place]:
                totals[place] += words[place] - seat.last[place]
        # The present operation counts up to now.
        busy = words[_BUSY] + (max(0, now - words[_STARTED]) if words[_STARTED] else 0)
        # A worker looks at the clock just before its row says that it has finished.
        busy = max(busy, seat.busy)
        totals[_BUSY] += busy - seat.busy
        if seat.warm_since is not None:
            self._process_ns += now - seat.warm_since
            seat.warm_since = now
        seat.last, seat.busy = words, busy
        return words


class Reading:
    """The sums of a scoreboard at one moment; the difference of two is what went on between."""

    def __init__(self, totals: list[int], process_ns: int, recoveries: int) -> None:
        self._totals = totals.copy()
        self._process_ns = process_ns
        self._recoveries = recoveries

    @classmethod
    def zero(cls) -> Reading:
        """Return the sums of a node that has done nothing yet."""
        return cls([0] * _WORDS, 0, 0)

    def since(self, earlier: Reading) -> Counts:
        """Return what was counted after ``earlier``."""
        changed = {
            place: now - before
            for place, (now, before) in enumerate(zip(self._totals, earlier._totals, strict=True))
            if now != before
        }
        return Counts(
            outcomes=Counter(
                {o: changed[word] for o, word in _OUTCOME_WORD.items() if word in changed}
            ),
            categories=Counter(
                {c: changed[word] for c, word in _CATEGORY_WORD.items() if c and word in changed}
            ),
            recoveries=self._recoveries - earlier._recoveries,
            busy=changed.get(_BUSY, 0) / 1e9,
            process=(self._process_ns - earlier._process_ns) / 1e9,
            wait=_histogram(changed, _WAIT, _WAIT_SUM),
            run=_histogram(changed, _RUN, _RUN_SUM),
        )


def _histogram(changed: Mapping[int, int], first: int, total: int) -> Histogram:
    return Histogram(
        {
            place - first: count
            for place, count in changed.items()
            if first <= place < first + BUCKETS
        },
        changed.get(total, 0) / 1e9,
    )
