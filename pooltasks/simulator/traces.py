"""Rates from files: what was recorded elsewhere, rescaled to the load that is tried."""

from __future__ import annotations

import csv
import math
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pooltasks.errors import ConfigurationError
from pooltasks.simulator.workloads import STEP

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

    from pooltasks.simulator.workloads import Rates


def trace(path: Path, mean_rate: float = 100.0, bucket: float = 60.0) -> Rates:
    """Return the rates of a CSV file, rescaled to ``mean_rate`` operations a second.

    Args:
        path: A header line, then rows whose second column is a count per bucket.
        mean_rate: Operations a second that the used window is scaled to.
        bucket: Seconds that one row lasts in the simulation. A window of the
            needed length starts at a row that the seed chooses.

    Raises:
        ConfigurationError: The file cannot be read or holds no counts.
    """
    counts = _read_counts(path)
    return _windows(path, counts, mean_rate, bucket)


def events(path: Path, mean_rate: float = 100.0, bucket: float = 60.0) -> Rates:
    """Return the rates of a CSV file with a row for each operation, rescaled as a trace's.

    Args:
        path: A header line, then rows whose first column is when an operation
            arrived: seconds, or a date and time (ISO 8601).
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
    """Return the seconds that a number or a date and time says."""
    with suppress(ValueError):
        return float(text)
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def _windows(path: Path, counts: list[float], mean_rate: float, bucket: float) -> Rates:
    """Return how a part of ``counts`` is chosen, and brought to the mean rate."""

    def rates(seconds: float, random: Random) -> list[float]:
        need = math.ceil(seconds / bucket)
        window: list[float] = []
        for _attempt in range(100):
            start = random.randrange(max(1, len(counts) - need))
            window = counts[start : start + need]
            if sum(window) > 0:
                break
        else:
            raise ConfigurationError(f"{path} has no arrivals in its windows of {seconds:g} s.")
        scale = mean_rate * len(window) / sum(window)
        values = [count * scale for count in window for _ in range(round(bucket / STEP))]
        steps = round(seconds / STEP)
        return (values * math.ceil(steps / len(values)))[:steps]

    return rates


def _read(path: Path, column: int, number: Callable[[str], float], needed: str) -> list[float]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        numbers = [number(row[column]) for row in rows]
    except (OSError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise ConfigurationError(
            f"{path} cannot be read as a trace: {error}. It needs a header line and {needed}."
        ) from error
    if not numbers:
        raise ConfigurationError(f"{path} is no trace: it has no rows below its first line.")
    return numbers


def _read_counts(path: Path) -> list[float]:
    counts = _read(path, 1, float, "a count in the second column of each row")
    if not any(counts) or min(counts) < 0:
        raise ConfigurationError(f"{path} is no trace: its counts are all 0, or some negative.")
    return counts
