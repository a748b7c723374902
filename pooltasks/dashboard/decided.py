"""The optimizer's recent decisions, read once and kept while somebody looks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pooltasks.metrics.collector import LEASE
from pooltasks.metrics.decisions import DecisionStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    import redis

    from pooltasks.metrics.decisions import PoolDecision

_OVERLAP = 5.0
"""Seconds that are fetched again: decisions may arrive while an answer is on its way."""
_MOST = 100
"""Changes that are shown."""


class RecentDecisions:
    """The decisions on one pool, for one thread. Sizes are given in workers.

    Args:
        client: A client of the server.
        pool: The pool's name.
        slots: Of a worker.
        interval: Seconds between decisions.
    """

    def __init__(self, client: redis.Redis, pool: str, slots: int, interval: float = 1.0) -> None:
        self._store = DecisionStore(client, pool)
        self._slots = slots
        self._lease = LEASE * max(1.0, interval)
        self._decisions: dict[float, PoolDecision] = {}
        self._span = 0.0
        self._fetched_at = 0.0
        self._paused: float | None = None

    def fetch(self, seconds: float, now: float) -> None:
        """Fetch the new decisions of the last ``seconds``.

        Args:
            seconds: How far back.
            now: Server time.

        Raises:
            redis.RedisError: The server does not answer.
        """
        seconds = max(seconds, self._lease)
        known = seconds <= self._span
        fresh = self._store.since(self._fetched_at - _OVERLAP if known else now - seconds)
        self._decisions.update((decision.at, decision) for decision in fresh)
        self._paused = self._store.paused()
        self._span = max(self._span, seconds)
        self._fetched_at = now
        if fresh:
            oldest = fresh[-1].at - self._span
            self._decisions = {at: one for at, one in self._decisions.items() if at > oldest}

    def latest(self) -> PoolDecision | None:
        """Return the last decision; None if there is none."""
        return self._decisions[max(self._decisions)] if self._decisions else None

    def state(self, now: float) -> dict[str, Any]:
        """Return the last decision and whether the optimizer acts.

        Args:
            now: Server time.
        """
        last = self.latest()
        age = max(0.0, now - last.at) if last else None
        return {
            "decides": age is not None and age < self._lease,
            "paused": self._paused,
            "target": self._workers(last.target) if last else None,
            "hosts": last.hosts if last else None,
            "policy": last.policy if last else None,
            "reason": last.reason if last else None,
            "age": age,
        }

    def changes(self, now: float, window: float) -> list[dict[str, Any]]:
        """Return the decisions to have another size, the latest first.

        A paused optimizer wants the same again and again; that is told once.
        """
        told: list[PoolDecision] = []
        for _, one in sorted(self._decisions.items()):
            if one.told and not (told and _repeats(one, told[-1])):
                told.append(one)
        return [
            {
                "at": one.at,
                "from": self._workers(one.before),
                "to": self._workers(one.target),
                "reason": one.reason,
                "acting": one.acting,
            }
            for one in reversed(told)
            if one.at > now - window
        ][:_MOST]

    def targets(self, times: Iterable[float], step: int) -> list[int | None]:
        """Return the last target of each step; None where there was no decision."""
        by_step = {math.floor(at / step) * step: one for at, one in self._decisions.items()}
        return [
            self._workers(by_step[at].target) if (at := int(time)) in by_step else None
            for time in times
        ]

    def _workers(self, slots: int | None) -> int | None:
        return None if slots is None else math.ceil(slots / self._slots)


def _repeats(one: PoolDecision, before: PoolDecision) -> bool:
    """Return whether a paused optimizer wanted the same size before."""
    sizes = (before.before, before.target)
    return not one.acting and not before.acting and (one.before, one.target) == sizes
