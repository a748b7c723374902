"""Samples: what one node writes once a second, and how it is stored."""

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

FORMAT = b"v2 "
"""What every stored sample and record begins with. Whatever changes in what is encoded here, in
the meaning of a bucket or in the names of outcomes and categories takes the next number: nodes of
the version before go on writing beside readers of this one, and the other way round."""


@dataclass(frozen=True)
class Resources:
    """What a node's processes take of their host."""

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


@dataclass(frozen=True)
class Sample:
    """What one node writes once every ``interval`` seconds."""

    number: int
    """Of the node's samples, from 0. One that may not have arrived is written
    again with what came after it, under the same number: the last one counts."""
    interval: float
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
    room: int | None = None
    """The most workers that the host has memory and processors for; None: not known."""
    counts: Counts = field(default_factory=Counts)
    """Since the sample before."""
    resources: Resources | None = None

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
            self.room,
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
        overflow, slots, running, stopped, room, resources, numbers = rest
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
            room=room,
            counts=_counts(numbers, histograms),
            resources=None if resources is None else Resources(*resources),
        )


@dataclass(frozen=True)
class OperationRecord:
    """What the workers of one node did, by operation, in a span of time."""

    number: int
    """Of the sample with which it is written; the last one of a number counts."""
    seconds: float
    """Since the last such record of the node."""
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
"""What each operation adds to a record, but for its name and buckets, before it is compressed."""
_COMPRESSED = 0.4
"""What is left of that, as measured."""


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _histograms(counts: Counts) -> list[bytes]:
    return [counts.wait.encode(), counts.run.encode(), counts.latency.encode()]


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
    recoveries, busy, process, outcomes, categories, (wait, run, latency) = numbers
    return Counts(
        outcomes=_counter(outcomes, _OUTCOMES),
        categories=_counter(categories, _CATEGORIES),
        recoveries=recoveries,
        busy=busy,
        process=process,
        wait=Histogram.decode(histograms[:wait]),
        run=Histogram.decode(histograms[wait : wait + run]),
        latency=Histogram.decode(histograms[wait + run : wait + run + latency]),
    )
