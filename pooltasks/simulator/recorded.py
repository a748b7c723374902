"""The real demand on a pool: its own samples, as operations to simulate.

Arrivals are counted exactly, second by second: the operations that started, and the
growth of the backlog. The moment of each arrival in its second and the length of each
run are drawn anew with every seed: uniformly in the second, from the histogram of runs.
A worker's own work around an operation (storing its result above all) is added.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING

from pooltasks.errors import ConfigurationError
from pooltasks.metrics.histogram import Histogram, lower_bound
from pooltasks.optimizer.staffing import tail_factor
from pooltasks.simulator.workloads import STEP, Arrivals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pooltasks.metrics.samples import StoredSample

SHORTEST = 120.0
"""Seconds; the first minute of a run is not measured."""

_SMOOTHING = 5  # seconds to both sides: an oracle knows the rate, not each second's chance


@dataclass(frozen=True)
class Recording:
    """The last seconds of a pool.

    Attributes:
        pool: Its name.
        arrivals: Operations that arrived in each second, oldest first.
        sizes: Slots of the workers that the pool was to have in each of these.
        overflow: Slots of temporary ones that it had beyond these.
        waits: How long operations waited that started in each of these.
        runs: How long operations ran.
        nodes: The most nodes that served at once.
        around: Seconds that workers were busy with one operation beyond its run, on average.
    """

    pool: str
    arrivals: list[int]
    sizes: list[int]
    overflow: list[int]
    waits: list[Histogram]
    runs: Histogram
    around: float
    nodes: int = 1

    @property
    def seconds(self) -> float:
        """Return the length of the trace."""
        return float(len(self.arrivals))

    def late(self, wait: float, since: float) -> float:
        """Return the share (0–1) of the operations that waited longer than ``wait`` seconds.

        Args:
            wait: Seconds.
            since: Seconds at the start that do not count.
        """
        return Histogram.merged(self.waits[int(since) :]).share_above(wait) or 0.0

    def worker_seconds(self, since: float) -> float:
        """Return the slot-seconds that the pool took after its first ``since`` seconds.

        The simulation's workers have one slot each: its worker-seconds are slot-seconds.
        """
        return float(sum(self.sizes[int(since) :]) + sum(self.overflow[int(since) :]))


def record(
    pool: str, samples: Mapping[str, Sequence[StoredSample]], now: float, seconds: float
) -> Recording:
    """Return the last ``seconds`` of a pool, from its nodes' samples.

    Args:
        pool: Its name.
        samples: By node, oldest first (``SampleStore.read``).
        now: The server's time, seconds since the epoch.
        seconds: How far back; less if the pool has not been there for so long.

    Raises:
        ConfigurationError: The samples reach back less than two minutes, or no
            operation has finished in that time.
    """
    times = [one.at for its in samples.values() for one in its]
    end = math.floor(now)
    start = max(math.floor(min(times, default=now)) + 1, math.ceil(end - seconds))
    if end - start < SHORTEST:
        raise ConfigurationError(
            f"The pool {pool!r} has samples of {max(0, end - start)} s; a simulation needs "
            f"{SHORTEST:g} s. Wait a little, or use --workload."
        )
    by_second: dict[int, list[tuple[str, StoredSample]]] = {}
    for node, its in samples.items():
        for one in its:
            by_second.setdefault(math.floor(one.at), []).append((node, one))
    present: dict[str, StoredSample] = {}
    depth = started = arrived = 0
    counts, sizes, overflow, waits = [], [], [], []
    runs = []
    busy = 0.0
    nodes = 1
    for second in range(start - 1, end):
        new = sorted(by_second.get(second, []), key=lambda item: item[1].at)
        for node, one in new:
            present[node] = one
            depth = one.queue.depth
        for node in [node for node, one in present.items() if one.sample.stopped]:
            del present[node]
        waits.append(Histogram.merged(one.sample.counts.wait for _, one in new))
        runs += [one.sample.counts.run for _, one in new]
        busy += sum(one.sample.counts.busy for _, one in new)
        started += waits[-1].count
        reserved = sum(one.sample.reserved for one in present.values())
        # Nodes look at different moments of a second: the sum may go back a little.
        total = max(arrived, started + depth + reserved)
        counts.append(total - arrived)
        arrived = total
        serving = [one.sample for one in present.values() if one.sample.serves]
        sizes.append(sum(its.size * its.slots for its in serving))
        overflow.append(sum(its.overflow * its.slots for its in serving))
        nodes = max(nodes, len(serving))
    whole = Histogram.merged(runs)
    if not whole.count or not sum(counts[1:]):
        raise ConfigurationError(
            f"The pool {pool!r} ran no operation in the last {end - start} s: there is nothing "
            "to replay."
        )
    # The first second only gives the backlog before.
    around = max(0.0, busy - whole.total) / whole.count
    return Recording(pool, counts[1:], sizes[1:], overflow[1:], waits[1:], whole, around, nodes)


@dataclass(frozen=True)
class RecordedService:
    """Service times as a histogram has them, each with ``around`` seconds more."""

    runs: Histogram
    around: float = 0.0

    @property
    def mean(self) -> float:
        """Seconds."""
        return self.runs.total / self.runs.count + self.around

    @property
    def steady_factor(self) -> float:
        """The tail factor to staff with at a steady rate.

        Allen–Cunneen's up to exponential service; beyond, the factor that simulation
        found for lognormal service with ``scv`` 4 (1.6), in proportion.
        """
        middles = [
            (self.around + math.sqrt(lower_bound(bucket) * lower_bound(bucket + 1)), count)
            for bucket, count in self.runs.counts.items()
        ]
        squares = sum(count * middle * middle for middle, count in middles) / self.runs.count
        scv = max(0.0, squares / self.mean**2 - 1.0)
        return tail_factor(min(1.0, scv)) + 0.2 * max(0.0, scv - 1.0)

    def draw(self, random: Random, count: int) -> array[float]:
        """Return ``count`` service times in seconds, spread evenly inside their buckets."""
        buckets = sorted(self.runs.counts)
        weights = list(accumulate(self.runs.counts[bucket] for bucket in buckets))
        drawn = random.choices(buckets, cum_weights=weights, k=count)
        return array(
            "d",
            (
                self.around + random.uniform(lower_bound(bucket), lower_bound(bucket + 1))
                for bucket in drawn
            ),
        )


class RecordedArrivals(Arrivals):
    """Operations of a recording."""

    def steps_up(self, ratio: float = 2.0) -> list[float]:  # noqa: ARG002  Arrivals's
        """Return nothing: chance cannot be told from a step when the true rate is not known."""
        return []


@dataclass(frozen=True)
class Replay:
    """A recording as a workload."""

    recording: Recording

    @property
    def name(self) -> str:
        """The pool's."""
        return self.recording.pool

    def sequence(self, seed: int, seconds: float) -> Arrivals:
        """Return the operations of one run, at most ``seconds`` of them."""
        random = Random(f"{self.name}:{seed}")  # noqa: S311  a simulation, no secret
        counts = self.recording.arrivals[: math.ceil(seconds)]
        times = array("d")
        for second, count in enumerate(counts):
            times.extend(sorted(second + random.random() for _ in range(count)))
        service = RecordedService(self.recording.runs, self.recording.around)
        services = service.draw(random, len(times))
        rates = []
        for second in range(len(counts)):
            around = counts[max(0, second - _SMOOTHING) : second + _SMOOTHING + 1]
            rates += [sum(around) / len(around)] * round(1.0 / STEP)
        return RecordedArrivals(times, services, rates, float(len(counts)), service)
