"""Recent samples in memory, so that each is fetched and decoded once."""

from __future__ import annotations

import time
from bisect import bisect_right
from typing import TYPE_CHECKING

from pooltasks.metrics.samples import SampleStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from pooltasks.metrics.samples import QueueState, StoredSample
    from pooltasks.settings import Objective

_OVERLAP = 5.0
"""Seconds that are fetched again: what arrived while the last answer was on its way."""


class RecentSamples(SampleStore):
    """The samples of one pool, of which only new ones are fetched.

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
        self._nodes: dict[str, list[StoredSample]] = {}
        self._span = 0.0
        """Seconds before the last fetch of which everything is here."""
        self._fetched_at = 0.0

    def read(self, seconds: float) -> tuple[QueueState, dict[str, list[StoredSample]]]:
        """As :meth:`SampleStore.read`.

        Raises:
            redis.RedisError: The server does not answer.
        """
        asked_at = time.monotonic()
        if seconds > self._span:
            queue, self._nodes = super().read(seconds)
            self._span = seconds
        else:
            queue, fresh = super().read(asked_at - self._fetched_at + _OVERLAP)
            for name, its in fresh.items():
                _append(self._nodes.setdefault(name, []), its)
            self._forget(queue.at - self._span)
        self._fetched_at = asked_at
        return queue, {
            name: its[first:]
            for name, its in self._nodes.items()
            if (first := bisect_right(its, queue.at - seconds, key=_at)) < len(its)
        }

    def _forget(self, before: float) -> None:
        for name, its in list(self._nodes.items()):
            del its[: bisect_right(its, before, key=_at)]
            if not its:
                del self._nodes[name]


def _append(kept: list[StoredSample], fresh: Sequence[StoredSample]) -> None:
    """Put the fresh samples after the kept ones, in place of those that they repeat."""
    numbers = {one.sample.number for one in fresh}
    while kept and (kept[-1].at >= fresh[0].at or kept[-1].sample.number in numbers):
        kept.pop()
    kept.extend(fresh)


def _at(one: StoredSample) -> float:
    return one.at
