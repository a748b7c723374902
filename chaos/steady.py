"""A steady trickle of operations, of which each node has a few at any moment."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from kombu.exceptions import OperationalError

if TYPE_CHECKING:
    import random

    from chaos.cluster import Cluster
    from chaos.runs import Runs

_EVERY = 0.03
_LONG_EVERY = 25
_LONGEST = 1.5


class Accepted(NamedTuple):
    """An operation that was accepted."""

    at: float
    """Seconds since the epoch."""
    seconds: float
    """How long it takes."""


class Steady:
    """Publishes until it is closed.

    Args:
        cluster: The deployment.
        chance: Says how long operations take.
    """

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self._work = cluster.application(cluster.url).tasks["chaos.operations.work"]
        self._chance = chance
        self.accepted: dict[str, Accepted] = {}
        self.refused = 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._ends.wait(_EVERY):
            number += 1
            seconds = self._chance.uniform(0.3, _LONGEST) if number % _LONG_EVERY == 0 else 0.0
            try:
                result = self._work.delay("finish", seconds)
            except OperationalError:
                self.refused += 1
            else:
                self.accepted[result.id] = Accepted(time.time(), seconds)

    def waits(self, runs: Runs) -> list[float]:
        """Return how long each operation waited for its first start, in seconds."""
        return runs.waits({identifier: its.at for identifier, its in self.accepted.items()})
