"""Rates from files: loads that were recorded elsewhere, rescaled to the load that is tried.

The load is rescaled, not the time: a row lasts as long as its file says. A run begins
anywhere in the file, inside a row too: the rows' ends have nothing to do with the ticks
of a policy. Ticks that fell on the rows' ends would see each change a whole tick late.
"""

from __future__ import annotations

import csv
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, TypeVar

from pooltasks.errors import ConfigurationError
from pooltasks.simulator.workloads import STEP

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

    from pooltasks.simulator.workloads import Rates


_Value = TypeVar("_Value")

MINUTE = 60.0


def trace(path: Path, mean_rate: float = 100.0, row: float | None = None) -> Rates:
    """Return the rates of a CSV file, rescaled to ``mean_rate`` operations a second.

    Args:
        path: A header line, then rows whose second column is a count.
        mean_rate: Operations a second that the used part is scaled to. The seed
            chooses where it begins.
        row: Seconds that one row lasts. None: the median time between the dates and times
            (ISO 8601) of the first column; a minute if it has no dates.

    Raises:
        ConfigurationError: The file cannot be read or holds no counts, or its rows
            last less than the simulator can tell apart.
    """
    return _windows(path, _read_counts(path), mean_rate, row or _spacing(path))


def events(path: Path, mean_rate: float = 100.0, bucket: float = MINUTE) -> Rates:
    """Return the rates of a CSV file with a row for each operation, rescaled as a trace's.

    Args:
        path: A header line, then rows whose first column is the arrival of an
            operation: seconds, or a date and time (ISO 8601).
        mean_rate: As of a trace.
        bucket: Seconds over which operations are counted.

    Raises:
        ConfigurationError: The file cannot be read or holds no times.
    """
    times = _read(path, 0, _seconds, "when an operation arrived in the first column of each row")
    first = min(times)
    counts = [0.0] * (1 + int((max(times) - first) // bucket))
    for time in times:
        counts[int((time - first) // bucket)] += 1.0
    return _windows(path, counts, mean_rate, bucket)


def _seconds(text: str) -> float:
    """Return the seconds of a number, or of a date and time."""
    with suppress(ValueError):
        return float(text)
    return _date(text)


def _date(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def _windows(path: Path, counts: list[float], mean_rate: float, bucket: float) -> Rates:
    """Return rates that choose a part of ``counts`` and bring it to the mean rate."""
    each = round(bucket / STEP)
    if each < 1:
        raise ConfigurationError(
            f"{path} has rows of {bucket:g} s; the simulator knows a rate for {STEP:g} s at least."
        )

    def rates(seconds: float, random: Random) -> list[float]:
        need, there = round(seconds / STEP), each * len(counts)
        for _attempt in range(100):
            start = random.randrange(max(1, there - need + 1))
            values = [counts[step % there // each] for step in range(start, start + need)]
            if total := sum(values):
                break
        else:
            raise ConfigurationError(f"{path} has no arrivals in its windows of {seconds:g} s.")
        scale = mean_rate * need / total
        return [value * scale for value in values]

    return rates


def _spacing(path: Path) -> float:
    """Return the seconds between two rows, by the dates of the first column."""
    stamps = _read(path, 0, str, "a count in the second column of each row")
    try:
        times = [_date(stamp) for stamp in stamps]
    except ValueError:
        return MINUTE
    gaps = [after - before for before, after in pairwise(times)]
    return median(gaps) if gaps else MINUTE


def _read(path: Path, column: int, value: Callable[[str], _Value], needed: str) -> list[_Value]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        values = [value(row[column]) for row in rows]
    except (OSError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise ConfigurationError(
            f"{path} cannot be read as a trace: {error}. It needs a header line and {needed}."
        ) from error
    if not values:
        raise ConfigurationError(f"{path} is no trace: it has no rows below its first line.")
    return values


def _read_counts(path: Path) -> list[float]:
    counts = _read(path, 1, float, "a count in the second column of each row")
    if not any(counts) or min(counts) < 0:
        raise ConfigurationError(f"{path} is no trace: its counts are all 0, or some negative.")
    return counts
