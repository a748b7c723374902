"""Notes: a worker's record of an operation, and the changes that it makes in its tables.

A table holds the counts of one operation, in 64-bit words that only ever
grow: busy ns, sums of wait, run and latency in ns, times by outcome, errors by
category, buckets of wait, run and latency. A place is the number of a word.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections import Counter
from typing import TYPE_CHECKING

from pooltasks.errors import Category
from pooltasks.metrics.histogram import BUCKETS, HIGHEST, buckets_of
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pooltasks.metrics.counts import Counts

OUTCOMES = list(Outcome)
CATEGORIES = list(Category)

# Within a table.
BUSY = 0
WAIT_SUM, RUN_SUM, LATENCY_SUM = 1, 2, 3
OUTCOME = 4
CATEGORY = OUTCOME + len(OUTCOMES)
WAIT = CATEGORY + len(CATEGORIES)
RUN = WAIT + BUCKETS
LATENCY = RUN + BUCKETS
TABLE = LATENCY + BUCKETS

START = struct.Struct("=qdd")
"""First part of a note: table, wait, monotonic seconds of the start."""
END = struct.Struct("=qddd")
"""Second part: how it ended (its table and :func:`ended`), run, busy, latency.
All times are in seconds, and -1 if not known."""
NOTE = struct.Struct(START.format + END.format[1:])
NOTE_BYTES = NOTE.size

_WORDS = NOTE_BYTES // 8
_TABLE, _WAIT, _STARTED, _ENDED, _RUN, _BUSY, _LATENCY = range(_WORDS)

_OUTCOME_END = {outcome: OUTCOME + place << 8 for place, outcome in enumerate(OUTCOMES)}
_CATEGORY_END: Mapping[Category | None, int] = {
    None: 0,
    **{category: CATEGORY + place for place, category in enumerate(CATEGORIES)},
}
TABLE_SHIFT = 16
"""Bits of :func:`ended` below the table in a note."""


def ended(outcome: Outcome, category: Category | None = None) -> int:
    """Return how an operation ended as a number: the words of both in its table."""
    return _OUTCOME_END[outcome] | _CATEGORY_END[category]


_CHUNK, _LINE = 64 * 8, 16 * 8
"""Bytes that are compared at a time, at first and where they differ."""


def amounts(notes: bytes) -> dict[int, int]:
    """Return the change of each word of a row by notes of operations that have ended."""
    sums: dict[int, int] = {}
    if not notes:
        return sums
    integers, seconds = array("q", notes), array("d", notes)
    for table, outcome, category, times in _ends(integers[_ENDED::_WORDS]):
        sums[table + outcome] = sums.get(table + outcome, 0) + times
        if category:
            sums[table + category] = sums.get(table + category, 0) + times
    columns = [seconds[word::_WORDS].tolist() for word in (_BUSY, _WAIT, _RUN, _LATENCY)]
    for table, its in _by_table(integers[_TABLE::_WORDS].tolist(), columns):
        busy, waits, runs, latencies = its
        sums[table + BUSY] = round(sum(busy) * 1e9)
        set_durations(sums, table + WAIT_SUM, table + WAIT, waits)
        set_durations(sums, table + RUN_SUM, table + RUN, runs)
        set_durations(sums, table + LATENCY_SUM, table + LATENCY, latencies)
    return sums


def set_durations(sums: dict[int, int], total: int, first: int, durations: Sequence[float]) -> None:
    """Store durations as a sum and in buckets, of which the first has the place ``first``.

    Those below 0 are not known, and not counted.
    """
    if min(durations) < 0:
        durations = [seconds for seconds in durations if seconds >= 0]
    durations = _capped(durations)
    for bucket, times in Counter(buckets_of(durations)).items():
        sums[first + bucket] = times
    # The same durations in the same order make the same sum, in the worker and in the node.
    sums[total] = round(sum(durations) * 1e9)


def _capped(durations: Sequence[float]) -> Sequence[float]:
    """Return the durations, cut to the longest that a histogram holds."""
    if max(durations, default=0.0) <= HIGHEST:
        return durations
    return [min(seconds, HIGHEST) for seconds in durations]


def _by_table(
    tables: list[int], columns: list[list[float]]
) -> Iterator[tuple[int, list[list[float]]]]:
    """Return each table with its part of the columns, which go along ``tables``."""
    if tables.count(tables[0]) == len(tables):
        yield tables[0], columns
        return
    order = sorted(range(len(tables)), key=tables.__getitem__)
    columns = [list(map(column.__getitem__, order)) for column in columns]
    end = 0
    for table, times in sorted(Counter(tables).items()):
        begin, end = end, end + times
        yield table, [column[begin:end] for column in columns]


def _ends(ends: Iterable[int]) -> Iterator[tuple[int, int, int, int]]:
    """Count how operations ended: table, words in it of the outcome and category, times."""
    for ended, times in Counter(ends).items():
        yield ended >> TABLE_SHIFT, ended >> 8 & 0xFF, ended & 0xFF, times


def count(
    notes: bytes, *, is_running: bool, known_waits: int, counts_of: Callable[[int], Counts]
) -> float:
    """Add notes to the counts of their operations.

    Args:
        notes: All but the last have ended.
        is_running: Whether the last has not.
        known_waits: The first so many waits have been counted.
        counts_of: Returns the counts of a table.

    Returns:
        The busy seconds of those that have ended.
    """
    if not notes:
        return 0.0
    tables, its_waits, _, ends, its_runs, busy, its_latencies = zip(
        *NOTE.iter_unpack(notes), strict=True
    )
    waits, runs, latencies = map(_capped, (its_waits, its_runs, its_latencies))
    targets = _Targets(counts_of)
    if known_waits:
        waits = (*[-1.0] * known_waits, *waits[known_waits:])
    if is_running:
        if waits[-1] >= 0:
            targets[tables[-1]][0].wait.add(waits[-1])
        tables = tables[:-1]  # the columns beside it end with it, here and below
    # One loop with local names: it is a good part of a node's work.
    for table, its_busy, wait, wait_bucket, run, run_bucket, latency, latency_bucket in zip(
        tables,
        busy,
        waits,
        buckets_of(waits),
        runs,
        buckets_of(runs),
        latencies,
        buckets_of(latencies),
        strict=False,
    ):
        counts, in_wait, in_run, in_latency = targets[table]
        counts.busy += its_busy
        if wait >= 0:
            in_wait[wait_bucket] = in_wait.get(wait_bucket, 0) + 1
            counts.wait.total += wait
        if run >= 0:
            in_run[run_bucket] = in_run.get(run_bucket, 0) + 1
            counts.run.total += run
        if latency >= 0:
            in_latency[latency_bucket] = in_latency.get(latency_bucket, 0) + 1
            counts.latency.total += latency
    _count_ends(targets, ends[: len(tables)])
    return math.fsum(busy[: len(tables)])


def _count_ends(targets: _Targets, ends: Iterable[int]) -> None:
    for table, outcome, category, times in _ends(ends):
        counts, *_ = targets[table]
        counts.outcomes[OUTCOMES[outcome - OUTCOME]] += times
        if category:
            counts.categories[CATEGORIES[category - CATEGORY]] += times


class _Targets(dict[int, tuple["Counts", dict[int, int], dict[int, int], dict[int, int]]]):
    """The counts of tables, and the buckets of wait, run and latency among them."""

    def __init__(self, counts_of: Callable[[int], Counts]) -> None:
        super().__init__()
        self._counts_of = counts_of

    def __missing__(
        self, table: int
    ) -> tuple[Counts, dict[int, int], dict[int, int], dict[int, int]]:
        its = self._counts_of(table)
        found = self[table] = its, its.wait.counts, its.run.counts, its.latency.counts
        return found


def add_all(sums: dict[int, int], more: Mapping[int, int], sign: int = 1) -> None:
    """Add other sums, or take them away with the sign -1."""
    for place, amount in more.items():
        sums[place] = sums.get(place, 0) + sign * amount


def add_difference(changes: dict[int, int], first: int, table: bytes, before: bytes) -> None:
    """Add the difference of two copies of the table at word ``first`` of a row."""
    if table == before:
        return
    now, then = memoryview(table).cast("q"), memoryview(before).cast("q")
    for chunk in range(0, len(table), _CHUNK):
        if table[chunk : chunk + _CHUNK] == before[chunk : chunk + _CHUNK]:
            continue
        for line in range(chunk, min(chunk + _CHUNK, len(table)), _LINE):
            if table[line : line + _LINE] == before[line : line + _LINE]:
                continue
            for place in range(line // 8, min(line + _LINE, len(table)) // 8):
                change = now[place] - then[place]
                if change:
                    changes[first + place] = changes.get(first + place, 0) + change
