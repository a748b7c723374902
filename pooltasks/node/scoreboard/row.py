"""Row: memory in which one worker tells its node what it does.

A worker writes its row without a lock and without I/O; the node reads all rows
once a second. An operation is first a *note*, which costs two stores of a few
words: one when it starts, one when it ends. When all notes are taken, the
worker adds them up in its *tables*, where they need no room of their own.

A row is made of 64-bit words, so that each store is whole. A note counts once
its words are written, by the number of *stages*: a start and an end are one
each, so an odd number says that the last note's operation is running. Adding
notes up changes many words, and is announced before it is made: the new values
go into the row's journal, the sequence number becomes odd, the values are
stored and the notes freed, the number becomes even. After a kill of the worker, a
node that finds an odd number stores the journal's values again. That changes
nothing where it was done.

Head: sequence number · number of tables that have a name · whether there is work without
a name · stages · notes · journal (length, then place and value of each change).

A table for each operation, the first for those that have none: counters which
only ever grow: busy ns, sums of wait, run and latency in ns, times by outcome,
errors by category, buckets of wait, run and latency. A table is given to an
operation when it runs for the first time; its name stands at the end of the
memory. Memory of tables that nobody uses is never touched, by the node neither, and so
costs nothing: a worker may have hundreds of slots. Of those that it has read the node
keeps compressed copies.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from array import array
from functools import cached_property
from typing import TYPE_CHECKING

from pooltasks.errors import Category
from pooltasks.metrics.counts import OTHER
from pooltasks.metrics.histogram import BUCKETS
from pooltasks.node.scoreboard.notes import (
    BUSY,
    CATEGORIES,
    CATEGORY,
    END,
    NOTE_BYTES,
    OUTCOME,
    OUTCOMES,
    START,
    TABLE,
    TABLE_SHIFT,
    WAIT,
    WAIT_SUM,
    add_all,
    add_difference,
    amounts,
    count,
    ended,
    set_durations,
)
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pooltasks.metrics.counts import Counts

MOST_OPERATIONS = 32
"""Operations that are counted by name; the rest is counted together."""
NOTES = 512
"""Operations after which a worker adds up."""
_NAME_BYTES = 256

# Words of the head; the journal has room for all words that so many notes can change.
_SEQUENCE, _NAMED, _HAS_OTHERS, _STAGES, _FIRST_NOTE = range(5)
_JOURNAL = _FIRST_NOTE + NOTES * NOTE_BYTES // 8
_TABLES = _JOURNAL + 1 + 2 * NOTES * 9

_NAMES = (_TABLES + TABLE * (1 + MOST_OPERATIONS)) * 8
_BYTES = _NAMES + _NAME_BYTES * MOST_OPERATIONS

_NOTES_BYTE = _FIRST_NOTE * 8
_END_BYTE = _NOTES_BYTE + START.size
_FULL = 2 * NOTES
_pack_start, _pack_end = START.pack_into, END.pack_into
_READS = 100
_TIMED_OUT = ended(Outcome.FAILURE, Category.TIMEOUT)


class Row:
    """The row of one worker: written by the worker, read by the node.

    Worker and node hold the same memory; the worker got it by being forked.
    One operation runs at a time: a worker that runs several needs a row for each.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _BYTES)
        self._words = memoryview(self._memory)[:_NAMES].cast("q")
        self._tables: dict[str, int] = {}
        self._table = 0
        self.started = 0.0
        """Monotonic seconds at which the last operation began, for the worker itself."""

    def start(self, operation: str, wait: float | None, now: float) -> None:
        """Begin an operation.

        Args:
            operation: Its name.
            wait: Seconds; None if that is not known.
            now: Monotonic seconds.
        """
        words = self._words
        stages = words[_STAGES]
        if stages & 1:
            # A time limit struck in the microseconds in which the last one was to be noted.
            self.finish(operation, _TIMED_OUT, None, None, now)
            stages = words[_STAGES]
        if stages == _FULL or not stages:
            self._add_up()
            stages = 0
        self._table = table = self._tables.get(operation) or self._new_table(operation)
        self.started = now
        at = _NOTES_BYTE + (stages >> 1) * NOTE_BYTES
        _pack_start(self._memory, at, table, -1.0 if wait is None else wait, now)
        words[_STAGES] = stages + 1

    def finish(
        self,
        operation: str,
        end: int,
        run: float | None,
        latency: float | None,
        now: float,
    ) -> None:
        """End the operation.

        Args:
            operation: Its name.
            end: How it ended, see :func:`~pooltasks.node.scoreboard.notes.ended`.
            run: Seconds; None if it was refused before it ran.
            latency: Seconds from publishing until its caller has the result;
                None if that is not known, or there is none.
            now: Monotonic seconds.
        """
        words = self._words
        stages = words[_STAGES]
        if not stages & 1:
            # A time limit struck in the microseconds in which its start was to be noted.
            self.start(operation, None, now)
            stages = words[_STAGES]
        _pack_end(
            self._memory,
            _END_BYTE + (stages >> 1) * NOTE_BYTES,
            self._table << TABLE_SHIFT | end,
            -1.0 if run is None else run,
            now - self.started,
            -1.0 if latency is None else latency,
        )
        words[_STAGES] = stages + 1

    def _add_up(self) -> None:
        """Move the notes to the tables; finish that if a time limit struck here before."""
        words = self._words
        if not words[_SEQUENCE] & 1:
            if not words[_STAGES]:
                return
            more = amounts(self._memory[_NOTES_BYTE : _NOTES_BYTE + NOTES * NOTE_BYTES])
            journal = [len(more)]
            for place, amount in more.items():
                journal += (place, words[place] + amount)
            words[_JOURNAL : _JOURNAL + len(journal)] = memoryview(array("q", journal))
            words[_SEQUENCE] += 1
        for at in range(_JOURNAL + 1, _JOURNAL + 1 + 2 * words[_JOURNAL], 2):
            words[words[at]] = words[at + 1]
        words[_STAGES] = 0
        words[_SEQUENCE] += 1

    def _new_table(self, operation: str) -> int:
        """Return the table of an operation that runs here for the first time."""
        words = self._words
        number = words[_NAMED]
        name = operation.encode()
        if number == MOST_OPERATIONS or len(name) >= _NAME_BYTES:
            number = 0
            words[_HAS_OTHERS] = 1
        else:
            first = _NAMES + number * _NAME_BYTES
            self._memory[first : first + len(name) + 1] = bytes([len(name)]) + name
            number = words[_NAMED] = number + 1  # after the name: the node may look at any time
        self._tables[operation] = table = _TABLES + number * TABLE
        return table

    def read(self, earlier: Reading | None = None) -> Reading:
        """Return a copy of the row as it was at one moment.

        Args:
            earlier: The last reading of the same worker; it saves reading the same words again.

        Raises:
            RuntimeError: Each time that it was looked at, the worker was just adding up,
                which it does once in hundreds of operations.
        """
        words = self._words
        for _ in range(_READS):
            sequence, stages = words[_SEQUENCE], words[_STAGES]
            named = words[_NAMED]  # later: an operation has its name before it has a note
            journal = words[_JOURNAL:_TABLES].tolist() if sequence & 1 else []
            notes = self._notes(0, stages)
            fresh = None if earlier is None else self._fresh(earlier, sequence, notes)
            is_same = earlier is not None and sequence == earlier.sequence
            tables = [] if is_same or not sequence else self._all_tables(named)
            if words[_SEQUENCE] == sequence:
                break
        else:
            raise RuntimeError("a worker's row never stood still")
        if journal:
            notes, fresh, stages = b"", None, 0
            if not is_same:
                _replay(journal, tables)
        names = earlier.names if earlier is not None else [OTHER]
        return Reading(
            sequence=sequence,
            stages=stages,
            notes=notes,
            fresh=fresh,
            tables=None if is_same else tables,
            names=[*names, *map(self._name, range(len(names) - 1, named))],
            earlier=earlier,
        )

    def _fresh(self, earlier: Reading, sequence: int, notes: bytes) -> bytes | None:
        """Return the notes that ``earlier`` did not know to have ended; None if they are gone."""
        if sequence == earlier.sequence:
            return notes[earlier.ended * NOTE_BYTES :]
        if sequence != earlier.sequence + 2:
            return None
        # They were added up once, and remain until others are written over them.
        rest = self._notes(earlier.ended, _FULL)
        return rest + notes if self._words[_STAGES] >> 1 < earlier.ended else None

    def _notes(self, first: int, stages: int) -> bytes:
        end = stages + 1 >> 1
        return self._memory[_NOTES_BYTE + first * NOTE_BYTES : _NOTES_BYTE + end * NOTE_BYTES]

    def _all_tables(self, named: int) -> list[bytes]:
        """Return copies of the tables in use; of the first, if nobody uses it, nothing."""
        numbers = range(1 + named)
        has_others = self._words[_HAS_OTHERS]
        return [self._table_bytes(each) if each or has_others else b"" for each in numbers]

    def _table_bytes(self, number: int) -> bytes:
        return self._memory[(_TABLES + number * TABLE) * 8 : (_TABLES + (number + 1) * TABLE) * 8]

    def _name(self, number: int) -> str:
        first = _NAMES + number * _NAME_BYTES
        length: int = self._memory[first]
        return str(self._memory[first + 1 : first + 1 + length], "utf-8")

    def clear(self) -> None:
        """Empty the row of a dead worker for the next one."""
        words = self._words
        end = (_TABLES + (1 + words[_NAMED]) * TABLE if words[_SEQUENCE] else _JOURNAL) * 8
        self._memory[:end] = bytes(end)
        self._tables.clear()


def _replay(journal: list[int], tables: list[bytes]) -> None:
    """Make the change that the journal announces in copies of the tables."""
    changed: dict[int, bytearray] = {}
    for at in range(1, 1 + 2 * journal[0], 2):
        number, word = divmod(journal[at] - _TABLES, TABLE)
        if number not in changed:
            changed[number] = bytearray(tables[number])
        struct.pack_into("=q", changed[number], word * 8, journal[at + 1])
    for number, table in changed.items():
        tables[number] = bytes(table)


class Reading:
    """A copy of a row.

    Args:
        sequence: Its sequence number.
        stages: How many stages its notes have.
        notes: Its notes, that of the present operation too.
        fresh: Those that ``earlier`` did not know to have ended; None if they are gone, or
            there was no reading before: then copies of the tables are compared.
        tables: The first tables, those of operations that have been added up; None: they are
            as they were.
        names: Of the operations of all tables.
        earlier: The reading before, if there was one.
    """

    def __init__(
        self,
        *,
        sequence: int,
        stages: int,
        notes: bytes,
        fresh: bytes | None,
        tables: list[bytes] | None,
        names: list[str],
        earlier: Reading | None,
    ) -> None:
        self.sequence = sequence
        self.ended = stages >> 1
        """Notes whose operation has ended."""
        self.names = names
        self._notes = notes
        self._present, self._wait = _TABLES, -1.0
        self.started: float | None = None
        """Monotonic seconds at which the present operation began, None if there is none."""
        if stages & 1:
            at = self.ended * NOTE_BYTES
            self._present, self._wait, self.started = START.unpack_from(notes, at)
        self._fresh = fresh
        # The wait of an operation is counted when it starts: of the first fresh one it was.
        self._known_waits = int(earlier is not None and earlier.started is not None)
        self._changes = {} if fresh is not None else self._changes_since(earlier, tables or ())
        self.compressed: list[bytes] = []
        """The tables, as they are kept until the next reading."""
        if tables is not None:
            self.compressed = [zlib.compress(table, 1) for table in tables]
        elif earlier is not None:
            self.compressed = earlier.compressed

    @cached_property
    def noted(self) -> dict[int, int]:
        """The change of each word of ``tables`` by the notes."""
        sums = amounts(self._notes[: self.ended * NOTE_BYTES])
        present: dict[int, int] = {}
        set_durations(present, self._present + WAIT_SUM, self._present + WAIT, [self._wait])
        add_all(sums, present)
        return sums

    def _changes_since(self, earlier: Reading | None, tables: Sequence[bytes]) -> dict[int, int]:
        """Return the change of each word of the tables, with the notes added up."""
        changes = dict(self.noted)
        before: list[bytes] = []
        if earlier is not None:
            before = [zlib.decompress(table) for table in earlier.compressed]
            add_all(changes, earlier.noted, -1)
        for number, table in enumerate(tables):
            known = before[number] if number < len(before) else b""
            add_difference(changes, _TABLES + number * TABLE, table, known or bytes(len(table)))
        return changes

    @property
    def operation(self) -> str:
        """Name of the present operation."""
        return self.names[(self._present - _TABLES) // TABLE]

    def add_to(self, counts_of: Callable[[str], Counts]) -> float:
        """Add the work of each operation since the last reading to its counts.

        Args:
            counts_of: Returns the counts of an operation.

        Returns:
            The busy seconds of the operations that have finished.
        """
        if self._fresh is not None:
            return count(
                self._fresh,
                is_running=self.started is not None,
                known_waits=self._known_waits,
                counts_of=lambda table: counts_of(self.names[(table - _TABLES) // TABLE]),
            )
        targets: dict[int, tuple[Counts, list[dict[int, int]]]] = {}
        busy = 0
        for place, change in self._changes.items():
            if not change:
                continue
            number, word = divmod(place - _TABLES, TABLE)
            if number not in targets:
                counts = counts_of(self.names[number])
                its = (counts.wait, counts.run, counts.latency)
                targets[number] = counts, [histogram.counts for histogram in its]
            counts, buckets = targets[number]
            if word >= WAIT:
                which, bucket = divmod(word - WAIT, BUCKETS)
                histogram = buckets[which]
                histogram[bucket] = histogram.get(bucket, 0) + change
            elif word >= CATEGORY:
                counts.categories[CATEGORIES[word - CATEGORY]] += change
            elif word >= OUTCOME:
                counts.outcomes[OUTCOMES[word - OUTCOME]] += change
            elif word == BUSY:
                counts.busy += change / 1e9
                busy += change
            else:
                its = (counts.wait, counts.run, counts.latency)
                its[word - WAIT_SUM].total += change / 1e9
        return busy / 1e9
