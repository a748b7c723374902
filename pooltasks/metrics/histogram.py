"""Histogram: durations, in buckets that are the same everywhere.

Buckets grow by 4 % from 1 µs to 28 hours, so histograms of workers, nodes and
seconds add up bucket by bucket without loss. A quantile is given as the value
whose relative error is the same at both ends of its bucket, after DDSketch
(Masson, Rim & Lee, VLDB 2019): at most (1.04 − 1) / (1.04 + 1) = 1.96 %.
Interpolating inside the bucket would double that bound: the places of the values
in it are not known.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from bisect import bisect_left
from itertools import accumulate, repeat
from math import log2
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

GROWTH = 1.04
LOWEST = 1e-6
"""Seconds. A shorter duration falls into bucket 0 and is given as half of this."""
HIGHEST = 1e5
"""Seconds. A longer duration falls into the last bucket."""

_OCTAVE = 1 / log2(GROWTH)
"""Buckets in which durations double."""
# A hair more, so that rounding leaves the lower end of a bucket in it.
_FIRST = 1 + 1e-12 - log2(LOWEST) * _OCTAVE
BUCKETS = 2 + math.floor(log2(HIGHEST / LOWEST) * _OCTAVE)


def bucket_of(seconds: float) -> int:
    """Return the bucket of a duration, 0 to ``BUCKETS - 1``."""
    if seconds < LOWEST:
        return 0
    if seconds >= HIGHEST:
        return BUCKETS - 1
    return int(log2(seconds) * _OCTAVE + _FIRST)


def buckets_of(durations: Iterable[float]) -> list[int]:
    """Return the buckets of many durations of at most ``HIGHEST``; see :func:`bucket_of`."""
    return [
        int(log2(seconds) * _OCTAVE + _FIRST) if seconds >= LOWEST else 0 for seconds in durations
    ]


def lower_bound(bucket: int) -> float:
    """Return the shortest duration of a bucket in seconds."""
    return LOWEST * GROWTH ** (bucket - 1) if bucket else 0.0


_ESTIMATES = [LOWEST / 2] + [
    lower_bound(bucket) * 2 * GROWTH / (1 + GROWTH) for bucket in range(1, BUCKETS)
]
"""The duration that is given for the values of each bucket."""
_PREFIX = struct.Struct("<qHB")
_TYPECODES = {array(code).itemsize: code for code in "BHI"}
_LANE = 4
"""Bytes of a count: no pool has four thousand million durations in one bucket in an hour."""


class Histogram:
    """Durations in seconds.

    Args:
        counts: Bucket → how many.
        total: Their sum in seconds.
    """

    __slots__ = ("_counts", "_lanes", "total")

    def __init__(self, counts: Mapping[int, int] | None = None, total: float = 0.0) -> None:
        self._counts: dict[int, int] = dict(counts or {})
        # Counts that were decoded and merged, but not read: 32 bits for each bucket. Adding two
        # such numbers takes a hundredth of the time of adding two dictionaries.
        self._lanes = 0
        self.total = total

    @property
    def counts(self) -> dict[int, int]:
        """Bucket → how many; a change of it changes the histogram."""
        if self._lanes:
            first, lanes = _unpacked(self._lanes)
            self._lanes = 0
            counts = self._counts
            for bucket, count in enumerate(lanes, first):
                if count:
                    counts[bucket] = counts.get(bucket, 0) + count
        return self._counts

    @property
    def is_empty(self) -> bool:
        """Whether it holds no durations."""
        return not self._lanes and not self._counts

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Histogram)
            and self.counts == other.counts
            and math.isclose(self.total, other.total, abs_tol=1e-6)
        )

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"<Histogram of {self.count} values, {self.total:g} s>"

    @classmethod
    def merged(cls, histograms: Iterable[Histogram]) -> Histogram:
        """Return the histogram of all the values of several."""
        whole = cls()
        for histogram in histograms:
            whole.merge(histogram)
        return whole

    def merge(self, other: Histogram) -> None:
        """Count all the values of another."""
        self.total += other.total
        self._lanes += other._lanes
        counts = self._counts
        count_of = counts.get
        for bucket, count in other._counts.items():
            counts[bucket] = count_of(bucket, 0) + count

    def add(self, seconds: float) -> None:
        """Count one duration."""
        bucket = bucket_of(seconds)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.total += seconds

    def since(self, earlier: Histogram) -> Histogram:
        """Return the durations that were counted after ``earlier``, which was a part of this."""
        counts = {
            bucket: count - earlier.counts.get(bucket, 0) for bucket, count in self.counts.items()
        }
        changed = {bucket: count for bucket, count in counts.items() if count}
        return Histogram(changed, self.total - earlier.total)

    @property
    def count(self) -> int:
        """How many durations it holds."""
        seen = sum(self._counts.values())
        return seen + sum(_unpacked(self._lanes)[1]) if self._lanes else seen

    @property
    def squares(self) -> float:
        """Sum of the squares of the durations, in seconds²; within 4 %."""
        return sum(count * _ESTIMATES[bucket] ** 2 for bucket, count in self.counts.items())

    def quantile(self, q: float) -> float | None:
        """Return the shortest duration that a share ``q`` of all do not exceed.

        Of n values it is the one of rank ⌈q·n⌉, as ``numpy.quantile`` gives it
        with ``method="inverted_cdf"``; within 2 % above 1 µs.

        Args:
            q: Ratio, 0–1.

        Returns:
            Seconds; None of an empty histogram.
        """
        return None if self.is_empty else self.quantiles((q,))[0]

    def quantiles(self, ratios: Iterable[float]) -> list[float]:
        """Return several quantiles at once; see :meth:`quantile`.

        Raises:
            IndexError: The histogram is empty.
        """
        if self._counts:
            buckets: Sequence[int] = sorted(self.counts)
            seen = list(accumulate(map(self._counts.__getitem__, buckets)))
        else:
            first, lanes = _unpacked(self._lanes)
            buckets = range(first, first + len(lanes))
            seen = list(accumulate(lanes))
        # 0.99 · 100 is a little above 99 in floating point.
        ranks = [max(1, math.ceil(q * seen[-1] - 1e-9)) for q in ratios]
        return [_ESTIMATES[buckets[bisect_left(seen, rank)]] for rank in ranks]

    def share_above(self, seconds: float) -> float | None:
        """Return the share (0–1) of durations above ``seconds``; None if it is empty.

        Values in the bucket of ``seconds`` itself count as not above.
        """
        if not self.counts:
            return None
        limit = bucket_of(seconds)
        above = sum(count for bucket, count in self.counts.items() if bucket > limit)
        return above / self.count

    def encode(self) -> bytes:
        """Return bytes that :meth:`decode` reads at the speed of C.

        The sum in ns, the first bucket, the width of a count in bytes; the counts
        from the first bucket to the last. Lowest byte first.
        """
        counts = self.counts
        buckets = [bucket for bucket, count in counts.items() if count]
        first = min(buckets, default=0)
        numbers = list(map(counts.get, range(first, max(buckets, default=-1) + 1), repeat(0)))
        largest = max(numbers, default=0)
        width = next(width for width in _TYPECODES if largest < 1 << 8 * width)
        packed = array(_TYPECODES[width], numbers)
        if sys.byteorder == "big":
            packed.byteswap()
        return _PREFIX.pack(round(self.total * 1e9), first, width) + packed.tobytes()

    @classmethod
    def decode(cls, encoded: bytes) -> Histogram:
        """Return the histogram that :meth:`encode` wrote.

        Raises:
            ValueError: :meth:`encode` did not write this.
        """
        numbers = encoded[_PREFIX.size :]
        try:
            total, first, width = _PREFIX.unpack_from(encoded)
        except struct.error:
            total = first = width = 0
        if width not in _TYPECODES or len(numbers) % width:
            raise ValueError(f"not an encoded histogram: {encoded[:40]!r}")
        lanes = bytearray(len(numbers) // width * _LANE)
        for place in range(width):
            lanes[place::_LANE] = numbers[place::width]
        histogram = cls()
        histogram.total = total / 1e9
        histogram._lanes = int.from_bytes(lanes, "little") << 8 * _LANE * first
        return histogram


def _unpacked(number: int) -> tuple[int, array[int]]:
    """Return the first bucket that may have a count, and the counts from there on."""
    first = ((number & -number).bit_length() - 1) // (8 * _LANE)
    number >>= 8 * _LANE * first
    size = -(-number.bit_length() // (8 * _LANE))
    lanes = array(_TYPECODES[_LANE], number.to_bytes(size * _LANE, "little"))
    if sys.byteorder == "big":
        lanes.byteswap()
    return first, lanes
