"""Samples: what one node writes once a second while anything goes on, and how it is stored."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pooltasks.errors import Category
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.histogram import Histogram
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = b"v5 "
"""The beginning of every stored sample and record. A change of the encoding, of the meaning of a
bucket or of the names of outcomes and categories takes the next number: nodes of the version
before go on writing beside readers of this one, and the other way round."""


@dataclass(frozen=True)
class Resources:
    """The resources that a node's processes use."""

    node_cpu: float
    """CPU seconds of the parent process since the sample before."""
    workers_cpu: float
    """CPU seconds of its workers since the sample before."""
    node_rss: int
    """Bytes of memory of the parent process, those it shares with its workers too."""
    workers_rss: int
    """The same of its workers, added up; so what they share is counted several times."""
    pss: int | None
    """Bytes of all of them, what they share counted once; None until each was looked at."""


QUIET_SECONDS = 6.0
"""Seconds between two samples of a node on which nothing goes on for long, unless its pool's are
further apart."""


@dataclass(frozen=True)
class Sample:
    """A sample, as one node writes it."""

    number: int
    """Number of the sample among those of its node, from 0. One that may not have arrived is
    written again with what came after it, under the same number: the last one counts."""
    interval: float
    """Counts since the sample before."""
    size: int
    """Workers that there should be, without spares and overflow."""
    warm: int
    """Workers that are given operations."""
    busy: int
    """Workers that have an operation."""
    reserved: int
    """Operations that the node took from the queue and no worker has started."""
    reserved_age: float
    """Seconds for which the oldest of those has waited; 0 if there are none."""
    warming: int = 0
    """Workers that are not warm yet, those that will be spares too."""
    spares: int = 0
    """Warm workers beyond the size that are given no operations."""
    overflow: int = 0
    """Temporary workers beyond the size, among the warm."""
    slots: int = 1
    """Operations that a worker runs at once."""
    running: int = 0
    """Operations that workers have."""
    stopped: bool = False
    """Whether it is the node's last."""
    draining: bool = False
    """Whether the node was told to reserve nothing more."""
    stopping: bool = False
    """Whether it reserves nothing more because it is about to end."""
    version: str = ""
    """The version of the code that it runs; '' if it has none."""
    room: int | None = None
    """The most workers that the host has memory and processors for; None: not known."""
    counts: Counts = field(default_factory=Counts)
    """Counts since the sample before."""
    resources: Resources | None = None

    @property
    def serves(self) -> bool:
        """Whether its workers are capacity of the pool; else they finish what they have."""
        return not (self.draining or self.stopping or self.stopped)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing went on and nothing changes: the node may leave the next sample out.

        Its next one then has the longer interval.
        """
        return not (
            self.stopped
            or self.busy
            or self.running
            or self.reserved
            or self.warming
            or self.overflow
            or self.warm != self.size
            or self.counts.outcomes
            or self.counts.recoveries
        )

    @property
    def next_within(self) -> float:
        """Seconds within which the node's next sample is due: a quiet node writes ever fewer."""
        if not self.is_quiet:
            return self.interval
        return max(self.interval, min(2 * self.interval, QUIET_SECONDS))

    def patience(self, intervals: float) -> float:
        """Return the seconds without another sample after which that many are missing.

        Args:
            intervals: Of a second at least; those that a quiet node leaves out are not missing.
        """
        missing = intervals * max(1.0, self.interval)
        return min(missing, self.next_within + intervals) if self.is_quiet else missing

    @property
    def capacity(self) -> int:
        """Operations that its workers can run at once."""
        return self.warm * self.slots

    def encode(self) -> bytes:
        """Return a line of JSON, then the histograms."""
        its = self.resources
        histograms = _histograms(self.counts)
        head = [
            self.number,
            self.interval,
            self.size,
            self.warm,
            self.busy,
            self.reserved,
            round(self.reserved_age, 3),
            self.warming,
            self.spares,
            self.overflow,
            self.slots,
            self.running,
            int(self.stopped),
            int(self.draining),
            int(self.stopping),
            self.room,
            self.version,
            None
            if its is None
            else [
                round(its.node_cpu, 3),
                round(its.workers_cpu, 3),
                its.node_rss,
                its.workers_rss,
                its.pss,
            ],
            _numbers(self.counts, histograms),
        ]
        return b"".join((_json(head), b"\n", *histograms))

    @classmethod
    def decode(cls, encoded: bytes) -> Sample:
        """Return the sample that :meth:`encode` wrote."""
        head, _, histograms = encoded.partition(b"\n")
        number, interval, size, warm, busy, reserved, age, warming, spares, *rest = json.loads(head)
        overflow, slots, running, stopped, draining, stopping, room, version, *others = rest
        resources, numbers = others
        return cls(
            number,
            interval,
            size,
            warm,
            busy,
            reserved,
            age,
            warming,
            spares,
            overflow,
            slots,
            running,
            stopped=bool(stopped),
            draining=bool(draining),
            stopping=bool(stopping),
            room=room,
            version=version,
            counts=_counts(numbers, histograms),
            resources=None if resources is None else Resources(*resources),
        )


@dataclass(frozen=True)
class OperationRecord:
    """The work of one node's workers, by operation, in a span of time."""

    number: int
    """Number of the sample with which it is written; the last one of a number counts."""
    seconds: float
    """Seconds since the last such record of the node."""
    counts: Mapping[str, Counts]

    def encode(self) -> bytes:
        """Return a line of JSON, then the histograms, both compressed."""
        histograms = {name: _histograms(counts) for name, counts in self.counts.items()}
        numbers = {name: _numbers(its, histograms[name]) for name, its in self.counts.items()}
        head = [self.number, round(self.seconds, 3), numbers]
        parts = (part for its in histograms.values() for part in its)
        return zlib.compress(b"".join((_json(head), b"\n", *parts)), level=1)

    @classmethod
    def decode(cls, encoded: bytes) -> OperationRecord:
        """Return the record that :meth:`encode` wrote."""
        head, _, histograms = zlib.decompress(encoded).partition(b"\n")
        number, seconds, operations = json.loads(head)
        counts = {}
        for name, numbers in operations.items():
            counts[name] = _counts(numbers, histograms)
            histograms = histograms[sum(numbers[-1]) :]
        return cls(number, seconds, counts)


def operation_bytes(counts: Mapping[str, Counts]) -> int:
    """Return about how many bytes a record of ``counts`` takes."""
    whole = sum(
        _OPERATION_BYTES
        + len(name)
        + 2 * (len(its.wait.counts) + len(its.run.counts) + len(its.latency.counts))
        for name, its in counts.items()
    )
    return int(whole * _COMPRESSED)


_OPERATION_BYTES = 100
"""Bytes of an operation in a record, without its name and buckets, before compression."""
_COMPRESSED = 0.4
"""Share of them that is left after compression, as measured."""


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _histograms(counts: Counts) -> list[bytes]:
    its = (counts.wait, counts.run, counts.latency, counts.recovery, counts.limited)
    return [histogram.encode() for histogram in its]


def _numbers(counts: Counts, histograms: list[bytes]) -> list[Any]:
    return [
        counts.recoveries,
        round(counts.busy, 6),
        round(counts.process, 6),
        counts.outcomes,
        counts.categories,
        [len(part) for part in histograms],
    ]


_Name = TypeVar("_Name")
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_CATEGORIES = {category.value: category for category in Category}


def _counter(counts: Mapping[str, int], names: Mapping[str, _Name]) -> Counter[_Name]:
    counter: Counter[_Name] = Counter()
    for name, count in counts.items():  # Counter's own ways take several times as long
        counter[names[name]] = count
    return counter


def _counts(numbers: list[Any], histograms: bytes) -> Counts:
    recoveries, busy, process, outcomes, categories, lengths = numbers
    parts, end = [], 0
    for length in lengths:
        parts.append(Histogram.decode(histograms[end : end + length]))
        end += length
    wait, run, latency, recovery, limited = parts
    return Counts(
        outcomes=_counter(outcomes, _OUTCOMES),
        categories=_counter(categories, _CATEGORIES),
        recoveries=recoveries,
        recovery=recovery,
        busy=busy,
        process=process,
        wait=wait,
        run=run,
        latency=latency,
        limited=limited,
    )
