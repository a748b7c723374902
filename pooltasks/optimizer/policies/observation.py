"""The interface of a policy: its observations, its decisions and its methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from pooltasks.counted import counted


@dataclass(frozen=True)
class Limits:
    """The fewest and the most slots that a policy may ask for."""

    minimum: int
    maximum: int

    def clamp(self, slots: int) -> int:
        """Return ``slots`` inside the limits."""
        return min(self.maximum, max(self.minimum, slots))


@dataclass(frozen=True)
class Observation:
    """A pool's numbers at one tick. Counts are of the period since the last tick.

    Attributes:
        now: Seconds on any clock that never goes back.
        seconds: Length of the period.
        arrivals: Operations published.
        waiting: Operations that wait now, with those that are reserved and not started, but
            without those that draining nodes have reserved.
        started: Operations started.
        late: Of these, how many waited longer than the objective allows.
        wait_sum: Sum of their waits, seconds.
        completed: Operations completed.
        service_sum: Sum of their service times, seconds.
        service_squares: Sum of the squares of their service times, seconds².
        busy: Mean number of busy slots.
        size: Slots the pool was last told to have.
        warm: Slots that can take work now.
        failed: Operations that failed, errors of their callers left out.
        announced: Arrivals beyond those seen, which an application said to expect.
        complete: Whether every live node's sample is in these counts. A missing
            sample comes with a later observation.
        lossy: Whether a node has died: what it did after its last sample is in no counts.
    """

    now: float
    seconds: float
    arrivals: int
    waiting: int
    started: int
    late: int
    wait_sum: float
    completed: int
    service_sum: float
    service_squares: float
    busy: float
    size: int
    warm: int
    complete: bool = True
    failed: int = 0
    announced: int = 0
    lossy: bool = False


@dataclass(frozen=True)
class Decision:
    """The number of slots that the pool is to have, and the reason.

    Attributes:
        target: Slots.
        reason: One sentence, with figures.
        lasting: Slots that are needed for longer than it takes to start a host, even
            beyond the limits; None if the policy does not say.
        inputs: The numbers behind it, by name.
        overflow: Slots of temporary workers that all nodes together may have beyond the
            target; None: as in their settings.
    """

    target: int
    reason: str
    inputs: dict[str, float] = field(default_factory=dict)
    lasting: int | None = None
    overflow: int | None = None


def resized(before: int, target: int) -> str:
    """Return how a reason begins: ``Keep 1 slot``, or ``From 1 to 2 slots``."""
    verb = "Keep" if target == before else f"From {before} to"
    return f"{verb} {counted(target, 'slot')}"


class Policy(Protocol):
    """Decides a pool's size once a tick. Deterministic: time arrives in the observation."""

    def observe(self, observation: Observation) -> Decision:
        """Return the decision for this tick. Called once a tick, in order."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Return all state as JSON values, so that a restart forgets nothing."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`snapshot` of the same policy returned."""
        ...
