"""Notes: what a worker writes of an operation, and what that changes in its tables.

A table holds what was counted of one operation, in 64-bit words that only ever
grow: busy ns, sums of wait, run and latency in ns, times by outcome, errors by
category, buckets of wait, run and latency. A place is the number of a word.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from operator import add
from typing import TYPE_CHECKING

from pooltasks.errors import Category
from pooltasks.metrics.histogram import BUCKETS, buckets_of
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

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
"""First half of a note: table, wait, monotonic seconds of the start."""
END = struct.Struct("=qqddd")
"""Second half: words of the outcome and of the category in a table (0: no error), run, busy,
latency. All times in seconds, and -1 if not known."""
NOTE = struct.Struct(START.format + END.format[1:])

OUTCOME_WORD = {outcome: OUTCOME + place for place, outcome in enumerate(OUTCOMES)}
CATEGORY_WORD: Mapping[Category | None, int] = {
    None: 0,
    **{category: CATEGORY + place for place, category in enumerate(CATEGORIES)},
}
_CHUNK, _LINE = 64 * 8, 16 * 8
"""Bytes that are compared at a time, at first and where they differ."""


def amounts(notes: bytes) -> Counter[int]:
    """Return by how much notes, whose operations have ended, change which words of a row."""
    sums: Counter[int] = Counter()
    if not notes:
        return sums
    tables, waits, _, outcomes, categories, runs, busy, latencies = zip(
        *NOTE.iter_unpack(notes), strict=True
    )
    sums.update(map(add, tables, outcomes))
    if any(categories):
        sums.update(
            table + category for table, category in zip(tables, categories, strict=True) if category
        )
    _add_seconds(sums, BUSY, tables, busy)
    add_durations(sums, WAIT_SUM, WAIT, tables, waits)
    add_durations(sums, RUN_SUM, RUN, tables, runs)
    add_durations(sums, LATENCY_SUM, LATENCY, tables, latencies)
    return sums


def add_durations(
    sums: Counter[int], total: int, first: int, tables: Sequence[int], durations: Sequence[float]
) -> None:
    """Add durations to the sum and the buckets of their tables; those below 0 are not known."""
    if min(durations) < 0:
        known = [it for it in zip(tables, durations, strict=True) if it[1] >= 0]
        if not known:
            return
        tables, durations = [it[0] for it in known], [it[1] for it in known]
    sums.update(map(add, tables, [first + bucket for bucket in buckets_of(durations)]))
    _add_seconds(sums, total, tables, durations)


def _add_seconds(
    sums: Counter[int], word: int, tables: Sequence[int], durations: Sequence[float]
) -> None:
    # Each is rounded: whoever adds them up in other parts gets the same.
    rounded = [int(seconds * 1e9) for seconds in durations]
    if tables.count(tables[0]) == len(tables):
        sums[tables[0] + word] += sum(rounded)
        return
    whole = dict.fromkeys(tables, 0)
    for table, nanoseconds in zip(tables, rounded, strict=True):
        whole[table] += nanoseconds
    for table, nanoseconds in whole.items():
        sums[table + word] += nanoseconds


def count(
    notes: bytes, *, is_running: bool, known_waits: int, counts_of: Callable[[int], Counts]
) -> float:
    """Add what notes say to the counts of their operations.

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
    tables, waits, _, outcomes, categories, runs, busy, latencies = zip(
        *NOTE.iter_unpack(notes), strict=True
    )
    targets = _Targets(counts_of)
    if known_waits:
        waits = (*[-1.0] * known_waits, *waits[known_waits:])
    if is_running:
        if waits[-1] >= 0:
            targets[tables[-1]][0].wait.add(waits[-1])
        tables = tables[:-1]  # which ends all that goes along them, here and below
    # One loop, with what it needs in local names: it is a good part of what a node does.
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
    _count_ends(targets, zip(tables, outcomes, categories, strict=False))
    return math.fsum(busy[: len(tables)])


def _count_ends(targets: _Targets, ends: Iterable[tuple[int, int, int]]) -> None:
    """Count how operations ended: table, word of the outcome, word of the category."""
    for (table, outcome, category), times in Counter(ends).items():
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
    """Add by how much two copies of the table at word ``first`` of a row differ."""
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
