"""Row: memory in which one worker tells its node what it does.

A worker writes its row from handlers of its telemetry, without a lock and
without I/O; the node reads all rows once a second. A row is an array of 64-bit
integers, so that each store is whole, and a change of several is announced
before it is made: its new values go into the row's journal, the sequence number
becomes odd, the values are stored, the number becomes even. Whoever finds an
odd number (the node after a kill, the worker after a time limit hit it just
there) stores the journal's values again, which changes nothing where that was
done, and has a consistent row.

Head: sequence number · journal (length, then index and value of each change) ·
start of the present operation (monotonic ns, 0 if none) and its table · number
of tables that have a name.

A table for each operation, the first for those that have none: counters which
only ever grow: busy ns, sums of wait, run and latency in ns, times by outcome,
errors by category, buckets of wait, run and latency. A table is given to an
operation when it runs for the first time; its name stands at the end of the
memory. Memory of tables that nobody uses is never touched and so costs nothing.
"""

from __future__ import annotations

import mmap
import struct
import time
from typing import TYPE_CHECKING, Any

from pooltasks import telemetry
from pooltasks.errors import Category
from pooltasks.metrics.counts import OTHER
from pooltasks.metrics.histogram import BUCKETS, HIGHEST, bucket_of
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pooltasks.metrics.counts import Counts
    from pooltasks.metrics.histogram import Histogram

MOST_OPERATIONS = 32
"""Operations that are counted by name; the rest is counted together."""
_NAME_BYTES = 256

_OUTCOMES = list(Outcome)
_CATEGORIES = list(Category)

_NOWHERE = 0
"""Word that takes what a change leaves out."""
_SEQUENCE = 1
_JOURNAL = 2
_CHANGES = 8
_STARTED = _JOURNAL + 1 + 2 * _CHANGES
_PRESENT = _STARTED + 1
_NAMED = _PRESENT + 1
_HEAD = _NAMED + 1

# Within a table.
_BUSY = 0
_WAIT_SUM, _RUN_SUM, _LATENCY_SUM = 1, 2, 3
_OUTCOME = 4
_CATEGORY = _OUTCOME + len(_OUTCOMES)
_WAIT = _CATEGORY + len(_CATEGORIES)
_RUN = _WAIT + BUCKETS
_LATENCY = _RUN + BUCKETS
_TABLE = _LATENCY + BUCKETS

_NAMES = (_HEAD + _TABLE * (1 + MOST_OPERATIONS)) * 8
_BYTES = _NAMES + _NAME_BYTES * MOST_OPERATIONS

_OUTCOME_WORD = {outcome: _OUTCOME + place for place, outcome in enumerate(_OUTCOMES)}
_CATEGORY_WORD = {category: _CATEGORY + place for place, category in enumerate(_CATEGORIES)}
_JOURNAL_START = struct.Struct("=9q")
_JOURNAL_FINISH = struct.Struct("=17q")
_JOURNAL_BYTE = _JOURNAL * 8
_READS = 100
_CHUNK, _LINE = 64 * 8, 16 * 8
"""Bytes that are compared at a time, at first and where they differ."""


class Row:
    """What one worker tells: written by the worker, read by the node.

    Worker and node hold the same memory; the worker got it by being forked.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _BYTES)
        self._words = memoryview(self._memory)[:_NAMES].cast("q")
        self._tables: dict[str, int] = {}

    def attach(self) -> None:
        """Write this row from the telemetry of this process, the worker."""
        telemetry.attach("pooltasks.scoreboard.start", "worker.checkout", self._on_checkout)
        telemetry.attach("pooltasks.scoreboard.finish", "worker.checkin", self._on_checkin)

    def _on_checkout(
        self, _event: str, measurements: Mapping[str, Any], metadata: Mapping[str, Any], _: Any
    ) -> None:
        self.start(metadata["operation"], measurements["wait"])

    def _on_checkin(
        self, _event: str, measurements: Mapping[str, Any], metadata: Mapping[str, Any], _: Any
    ) -> None:
        self.finish(
            metadata["operation"],
            metadata["outcome"],
            metadata["category"],
            measurements["run"],
            measurements["latency"],
        )

    def start(self, operation: str, wait: float | None) -> None:
        """Begin an operation that waited ``wait`` seconds (None: not known)."""
        words = self._words
        if words[_SEQUENCE] & 1:
            _replay(words, words)
        if words[_STARTED]:
            # A time limit struck in the microseconds in which the last one was to be counted.
            self._finish(words[_PRESENT], Outcome.FAILURE, Category.TIMEOUT, None, None)
        table = self._tables.get(operation) or self._table(operation)
        now = time.monotonic_ns()
        at_sum = table + _WAIT_SUM
        total = words[at_sum]
        if wait is None:
            bucket, waits = _NOWHERE, 0
        else:
            bucket = table + _WAIT + bucket_of(wait)
            waits = words[bucket] + 1
            total += int(min(wait, HIGHEST) * 1e9)
        # fmt: off
        _JOURNAL_START.pack_into(
            self._memory, _JOURNAL_BYTE, 4, _STARTED, now, _PRESENT, table,
            bucket, waits, at_sum, total,
        )
        # fmt: on
        words[_SEQUENCE] += 1
        words[_STARTED] = now
        words[_PRESENT] = table
        words[bucket] = waits
        words[at_sum] = total
        words[_SEQUENCE] += 1

    def finish(
        self,
        operation: str,
        outcome: Outcome,
        category: Category | None,
        run: float | None,
        latency: float | None,
    ) -> None:
        """End the operation.

        Args:
            operation: Its name.
            outcome: How it ended.
            category: Of its error, None without one.
            run: Seconds; None if it was refused before it ran.
            latency: Seconds from publishing until its caller has the result;
                None if that is not known, or there is none.
        """
        table = self._tables.get(operation) or self._table(operation)
        self._finish(table, outcome, category, run, latency)

    def _finish(
        self,
        table: int,
        outcome: Outcome,
        category: Category | None,
        run: float | None,
        latency: float | None,
    ) -> None:
        words = self._words
        if words[_SEQUENCE] & 1:
            _replay(words, words)
        # No start: a time limit struck in the microseconds in which it was to be noted.
        started = words[_STARTED]
        at_busy = table + _BUSY
        busy = words[at_busy] + (time.monotonic_ns() - started if started else 0)
        at_outcome = table + _OUTCOME_WORD[outcome]
        outcomes = words[at_outcome] + 1
        at_category, categories = _NOWHERE, 0
        if category is not None:
            at_category = table + _CATEGORY_WORD[category]
            categories = words[at_category] + 1
        at_runs, runs = _NOWHERE, 0
        at_run, run_sum = table + _RUN_SUM, words[table + _RUN_SUM]
        if run is not None:
            at_runs = table + _RUN + bucket_of(run)
            runs = words[at_runs] + 1
            run_sum += int(run * 1e9)
        at_latencies, latencies = _NOWHERE, 0
        at_latency, latency_sum = table + _LATENCY_SUM, words[table + _LATENCY_SUM]
        if latency is not None:
            at_latencies = table + _LATENCY + bucket_of(latency)
            latencies = words[at_latencies] + 1
            latency_sum += int(min(latency, HIGHEST) * 1e9)
        # fmt: off
        _JOURNAL_FINISH.pack_into(
            self._memory, _JOURNAL_BYTE, 8, _STARTED, 0, at_busy, busy,
            at_outcome, outcomes, at_category, categories, at_runs, runs, at_run, run_sum,
            at_latencies, latencies, at_latency, latency_sum,
        )
        # fmt: on
        words[_SEQUENCE] += 1
        words[_STARTED] = 0
        words[at_busy] = busy
        words[at_outcome] = outcomes
        words[at_category] = categories
        words[at_runs] = runs
        words[at_run] = run_sum
        words[at_latencies] = latencies
        words[at_latency] = latency_sum
        words[_SEQUENCE] += 1

    def _table(self, operation: str) -> int:
        """Return the table of an operation that runs here for the first time."""
        words = self._words
        number = words[_NAMED]
        name = operation.encode()
        if number == MOST_OPERATIONS or len(name) >= _NAME_BYTES:
            number = 0
        else:
            first = _NAMES + number * _NAME_BYTES
            self._memory[first : first + len(name) + 1] = bytes([len(name)]) + name
            number = words[_NAMED] = number + 1  # after the name: the node may look at any time
        self._tables[operation] = table = _HEAD + number * _TABLE
        return table

    def read(self) -> Reading:
        """Return what stands here as it was at one moment."""
        for _ in range(_READS):
            head = memoryview(bytearray(self._memory[: _HEAD * 8])).cast("q")
            tables = [
                self._memory[(_HEAD + number * _TABLE) * 8 : (_HEAD + (number + 1) * _TABLE) * 8]
                for number in range(1 + head[_NAMED])
            ]
            if head[_SEQUENCE] == self._words[_SEQUENCE]:
                break
        # A worker that changed it each time leaves counters a change apart: the
        # next reading has the rest.
        reading = Reading(head, tables, [OTHER, *map(self._name, range(head[_NAMED]))])
        if head[_SEQUENCE] & 1:
            _replay(head, reading)
        return reading

    def _name(self, number: int) -> str:
        first = _NAMES + number * _NAME_BYTES
        length: int = self._memory[first]
        return str(self._memory[first + 1 : first + 1 + length], "utf-8")

    def clear(self) -> None:
        """Make the row of a dead worker that of the next one."""
        end = (_HEAD + (1 + self._words[_NAMED]) * _TABLE) * 8
        self._memory[:end] = bytes(end)
        self._tables.clear()


class Reading:
    """A copy of a row.

    Args:
        head: Its head.
        tables: The tables that have a name, after the one for all others.
        names: Of the operations of these tables.
    """

    def __init__(self, head: Any, tables: list[bytes], names: list[str]) -> None:
        self._head = head
        self.tables = tables
        self.names = names

    def __setitem__(self, place: int, value: int) -> None:
        """Store a value of the journal."""
        if place < _HEAD:
            self._head[place] = value
            return
        number, word = divmod(place - _HEAD, _TABLE)
        table = bytearray(self.tables[number])
        struct.pack_into("=q", table, word * 8, value)
        self.tables[number] = bytes(table)

    @property
    def started(self) -> int:
        """Monotonic ns at which the present operation began, 0 if there is none."""
        started: int = self._head[_STARTED]
        return started

    @property
    def operation(self) -> str:
        """Name of the present operation."""
        number: int = (self._head[_PRESENT] - _HEAD) // _TABLE
        return self.names[number]

    def add_since(self, earlier: Reading | None, counts_of: Callable[[str], Counts]) -> float:
        """Add what each operation did after ``earlier`` to its counts.

        Args:
            earlier: A reading of the same worker; None: since it began.
            counts_of: Returns the counts of an operation.

        Returns:
            The busy seconds of the operations that have finished.
        """
        busy = 0.0
        for number, table in enumerate(self.tables):
            before = _EMPTY
            if earlier is not None and number < len(earlier.tables):
                before = earlier.tables[number]
            if table != before:
                busy += _add_difference(table, before, counts_of(self.names[number]))
        return busy


_EMPTY = bytes(_TABLE * 8)


def _add_difference(table: bytes, before: bytes, counts: Counts) -> float:
    """Add what was counted between two copies of a table; return the busy seconds of it."""
    now, then = memoryview(table).cast("q"), memoryview(before).cast("q")
    for first in range(0, len(table), _CHUNK):
        if table[first : first + _CHUNK] == before[first : first + _CHUNK]:
            continue
        for line in range(first, min(first + _CHUNK, len(table)), _LINE):
            if table[line : line + _LINE] == before[line : line + _LINE]:
                continue
            for place in range(line // 8, min(line + _LINE, len(table)) // 8):
                change = now[place] - then[place]
                if change:
                    _add(counts, place, change)
    return (now[_BUSY] - then[_BUSY]) / 1e9


def _add(counts: Counts, place: int, change: int) -> None:
    """Add to ``counts`` the change of one word of a table."""
    if place >= _LATENCY:
        _add_to(counts.latency, place - _LATENCY, change)
    elif place >= _RUN:
        _add_to(counts.run, place - _RUN, change)
    elif place >= _WAIT:
        _add_to(counts.wait, place - _WAIT, change)
    elif place >= _CATEGORY:
        counts.categories[_CATEGORIES[place - _CATEGORY]] += change
    elif place >= _OUTCOME:
        counts.outcomes[_OUTCOMES[place - _OUTCOME]] += change
    elif place == _BUSY:
        counts.busy += change / 1e9
    else:
        histogram = (counts.wait, counts.run, counts.latency)[place - _WAIT_SUM]
        histogram.total += change / 1e9


def _add_to(histogram: Histogram, bucket: int, change: int) -> None:
    histogram.counts[bucket] = histogram.counts.get(bucket, 0) + change


def _replay(words: Any, target: Any) -> None:
    """Make the change that the journal announces in ``target``."""
    for place in range(_JOURNAL + 1, _JOURNAL + 1 + 2 * words[_JOURNAL], 2):
        target[words[place]] = words[place + 1]
    words[_SEQUENCE] += 1
