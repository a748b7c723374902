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


class Producer:
    """A thread that publishes until it is closed; a subclass says when and what.

    Args:
        cluster: The deployment.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._work = cluster.application(cluster.url).tasks["chaos.operations.work"]
        self.accepted: dict[str, Accepted] = {}
        self.refused = 0
        self.ends = threading.Event()
        """Set when it is to publish no more."""
        self.thread = threading.Thread(target=self.run)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ends.set()
        self.thread.join()

    def run(self) -> None:
        """Publish until ``ends`` is set; for the thread only."""
        raise NotImplementedError

    def publish(self, seconds: float) -> None:
        """Publish an operation that takes some seconds; note whether it was accepted."""
        try:
            result = self._work.delay("finish", seconds)
        except OperationalError:
            self.refused += 1
        else:
            self.accepted[result.id] = Accepted(time.time(), seconds)

    def waits(self, runs: Runs) -> list[float]:
        """Return how long each operation waited for its first start, in seconds."""
        return runs.waits({identifier: its.at for identifier, its in self.accepted.items()})


class Steady(Producer):
    """Publishes a trickle.

    Args:
        cluster: The deployment.
        chance: Says how long operations take.
    """

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        super().__init__(cluster)
        self._chance = chance

    def run(self) -> None:
        """Publish short operations, and now and then a long one."""
        number = 0
        while not self.ends.wait(_EVERY):
            number += 1
            is_long = number % _LONG_EVERY == 0
            self.publish(self._chance.uniform(0.3, _LONGEST) if is_long else 0.0)
