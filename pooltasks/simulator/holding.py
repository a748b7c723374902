"""Limits by key in a simulated pool: what may start, and what is held until it may.

The rules are those of the server (``broker/limits.lua``). An operation that may not start is
held, costs no worker and is no backlog. An end lets the next one with its key go on, as does the
time at which the rate allows one; those that go on come before all others.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from random import Random
from typing import TYPE_CHECKING

from pooltasks.broker.limiting import bursts

if TYPE_CHECKING:
    from pooltasks.simulator.conditions import KeyLimits

_ROUNDING = 1e-9


class Holding:
    """The keys of one run, and what is held of each.

    Args:
        limits: The same for each key.
        operations: How many there are.
        seed: Of the keys that they have, each as likely as the others.
    """

    def __init__(self, limits: KeyLimits, operations: int, seed: int) -> None:
        random = Random(f"{seed}:keys")  # noqa: S311  a simulation, no secret
        self.key_of = array("l", (random.randrange(limits.keys) for _ in range(operations)))
        self.count = 0
        """Operations that are held now."""
        self._places = math.inf if limits.concurrency is None else limits.concurrency
        self._every = 0.0 if limits.rate is None else 1.0 / limits.rate
        self._burst = limits.burst or (1 if limits.rate is None else bursts(limits.rate))
        self._running = [0] * limits.keys
        self._spent_until = [0.0] * limits.keys
        self._asks_at = [0.0] * limits.keys
        self._held: list[deque[int]] = [deque() for _ in range(limits.keys)]
        self._has_place: set[int] = set()
        """Operations that have gone on and wait for a worker, or whose worker has died."""
        self._since: dict[int, float] = {}
        self._waited: dict[int, float] = {}

    def waited(self, operation: int) -> float:
        """Return for how many seconds limits held an operation; infinity if they still do."""
        return math.inf if operation in self._since else self._waited.get(operation, 0.0)

    def admits(self, operation: int, now: float) -> bool:
        """Return whether an operation for which there is a worker may start; hold it if not."""
        if operation in self._has_place:
            self._has_place.remove(operation)
            return True
        key = self.key_of[operation]
        if not self._held[key] and self._wait(key, now) == 0.0:
            self._take_place(key, now)
            return True
        self._held[key].append(operation)
        self._since[operation] = now
        self.count += 1
        return False

    def keep_place(self, operation: int) -> None:
        """Note that an operation comes back whose worker has died: its place is its own."""
        self._has_place.add(operation)

    def end(self, operation: int) -> int:
        """Note that an operation has ended; return its key."""
        key = self.key_of[operation]
        self._running[key] -= 1
        return key

    def go_on(self, key: int, now: float) -> tuple[list[int], float | None]:
        """Return the operations of a key that go on, and when to ask again.

        That is seconds of the run; None: at the next end, never, or at a time told before.
        """
        gone = []
        held = self._held[key]
        while held and self._wait(key, now) == 0.0:
            self._take_place(key, now)
            operation = held.popleft()
            self._has_place.add(operation)
            self._waited[operation] = now - self._since.pop(operation)
            self.count -= 1
            gone.append(operation)
        again = now + self._wait(key, now) if held else math.inf
        if again == math.inf or again < self._asks_at[key] + _ROUNDING:
            return gone, None
        self._asks_at[key] = again
        return gone, again

    def _wait(self, key: int, now: float) -> float:
        """Return seconds until a start is allowed; infinity: until an operation ends."""
        if self._running[key] >= self._places:
            return math.inf
        ahead = self._spent_until[key] - (self._burst - 1) * self._every - now
        return ahead if ahead > _ROUNDING else 0.0

    def _take_place(self, key: int, now: float) -> None:
        self._running[key] += 1
        self._spent_until[key] = max(now, self._spent_until[key]) + self._every
