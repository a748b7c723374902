"""Recent samples in memory, so that each is fetched and decoded once."""

from __future__ import annotations

import math
import time
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from pooltasks.metrics.counts import Counts
from pooltasks.metrics.samples import Reading, SampleStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis

    from pooltasks.metrics.samples import QueueState, StoredSample
    from pooltasks.pool_settings import Objective

_OVERLAP = 2.0
"""Seconds that are fetched again: each of two answers may have taken half a second."""
_REVISED_STEPS = 2
"""Complete steps that are made anew: a late sample may have changed them."""


class RecentSamples(SampleStore):
    """The samples of one pool as of the last :meth:`fetch`.

    For one thread.

    Args:
        client: As for :class:`SampleStore`.
        pool: The pool's name.
        lists: The lists of its queue.
        objective: As for :class:`SampleStore`.
    """

    def __init__(
        self, client: redis.Redis, pool: str, lists: Sequence[str], objective: Objective
    ) -> None:
        super().__init__(client, pool, lists, objective)
        self._queue: QueueState
        self._nodes: dict[str, list[StoredSample]] = {}
        self._unreadable: dict[str, float] = {}
        self._span = 0.0
        """Seconds before the last fetch whose samples are all here."""
        self._fetched_at = 0.0

    def fetch(self, seconds: float) -> None:
        """Fetch new samples, and the last ``seconds`` if they are not here.

        Raises:
            redis.RedisError: The server does not answer.
        """
        asked_at = time.monotonic()
        if seconds > self._span:
            self._queue, self._nodes, self._unreadable = super().read(seconds)
            self._span = seconds
        else:
            since = asked_at - self._fetched_at + _OVERLAP
            self._queue, fresh, unreadable = super().read(since)
            self._unreadable |= unreadable
            for name, its in fresh.items():
                _append(self._nodes.setdefault(name, []), its)
            self._forget(self._queue.at - self._span)
        self._fetched_at = asked_at

    def read(self, seconds: float) -> Reading:
        """As :meth:`SampleStore.read`, at the moment of the last fetch.

        Raises:
            redis.RedisError: The time reaches beyond the fetched samples, and the server
                does not answer.
        """
        if seconds > self._span:
            self.fetch(seconds)
        first = self._queue.at - seconds
        return Reading(
            self._queue,
            {
                name: its[start:]
                for name, its in self._nodes.items()
                if (start := bisect_right(its, first, key=_at)) < len(its)
            },
            {name: at for name, at in self._unreadable.items() if at > first},
        )

    def _forget(self, before: float) -> None:
        for name, its in list(self._nodes.items()):
            del its[: bisect_right(its, before, key=_at)]
            if not its:
                del self._nodes[name]
        self._unreadable = {name: at for name, at in self._unreadable.items() if at > before}


class RunningCounts:
    """The counts of a window's samples: one that enters is added, one that leaves is subtracted.

    Adding up an hour of four nodes takes a quarter of a second; an update adds one
    sample of each node. For one thread.
    """

    def __init__(self) -> None:
        self._counts = Counts()
        self._present: Mapping[str, Sequence[StoredSample]] = {}

    def update(self, samples: Mapping[str, Sequence[StoredSample]]) -> Counts:
        """Return the counts of a window's samples; they differ little from the last ones.

        Args:
            samples: Of each node, oldest first.
        """
        entering: list[Counts] = []
        leaving: list[Counts] = []
        for name in {*self._present, *samples}:
            before, now = self._present.get(name, ()), samples.get(name, ())
            gone = bisect_left(before, now[0].at, key=_at) if now else len(before)
            kept = min(len(before) - gone, len(now))
            while kept and _identity(before[gone + kept - 1]) != _identity(now[kept - 1]):
                kept -= 1
            leaving += [one.sample.counts for one in (*before[:gone], *before[gone + kept :])]
            entering += [one.sample.counts for one in now[kept:]]
        self._counts = Counts.merged([self._counts, *entering]).since(Counts.merged(leaving))
        self._present = samples
        return self._counts


class RecentThroughput:
    """Finished operations a second in steps, of which only the newest are made anew.

    For one thread.

    Args:
        seconds: How far back.
        step: Seconds.
    """

    def __init__(self, seconds: int, step: int) -> None:
        self._steps = seconds // step
        self._step = step
        self._finished: dict[int, int] = {}
        self._end = 0

    def update(
        self, samples: Mapping[str, Sequence[StoredSample]], now: float
    ) -> list[float | None]:
        """Return the complete steps, oldest first; None where nothing is known.

        Args:
            samples: Of each node, oldest first.
            now: Server time.
        """
        end = math.floor(now / self._step)
        first = end - self._steps
        anew = max(first, self._end - _REVISED_STEPS)
        finished = {number: it for number, it in self._finished.items() if first <= number < anew}
        for its in samples.values():
            for one in its[bisect_left(its, float(anew * self._step), key=_at) :]:
                number = math.floor(one.at / self._step)
                finished[number] = finished.get(number, 0) + one.sample.counts.finished
        self._finished, self._end = finished, end
        return [
            finished[number] / self._step if number in finished else None
            for number in range(first, end)
        ]


def _append(kept: list[StoredSample], fresh: Sequence[StoredSample]) -> None:
    """Put the fresh samples after the kept ones, in place of those that they repeat."""
    numbers = {one.sample.number for one in fresh}
    while kept and (kept[-1].at >= fresh[0].at or kept[-1].sample.number in numbers):
        kept.pop()
    kept.extend(fresh)


def _at(one: StoredSample) -> float:
    return one.at


def _identity(one: StoredSample) -> tuple[float, int]:
    return one.at, one.sample.number
