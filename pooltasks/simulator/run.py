"""The results of one simulated run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Sequence

    from pooltasks.simulator.conditions import Conditions
    from pooltasks.simulator.workloads import Arrivals


@dataclass(frozen=True)
class Run:
    """The results of one run, from the end of its ``warm_in`` on.

    Attributes:
        waits: Seconds, one for each operation in order of arrival; −1 for one that
            never started. Of the whole run.
        operations: How many were measured; those that limits held to the end are not.
        late: How many of these waited longer than the objective, or never started. The time for
            which limits held them is none of that.
        worker_seconds: Of all workers that existed, warming and retiring ones too.
        resizes: Decisions that changed the size.
        lost: Operations that were neither completed nor in the pool at the end.
        sizes: (time, size) at each change, of the whole run.
        events: Events that were simulated, of the whole run.
    """

    waits: array[float]
    operations: int
    late: int
    worker_seconds: float
    resizes: int
    lost: int
    sizes: list[tuple[float, int]]
    events: int

    @property
    def violations(self) -> float:
        """Share of late operations, 0–1."""
        return self.late / self.operations if self.operations else 0.0


def late_of(
    arrivals: Arrivals,
    waits: Sequence[float],
    held: Callable[[int], float],
    conditions: Conditions,
) -> tuple[int, int]:
    """Return how many operations are measured, and how many of these were late.

    Args:
        arrivals: The operations.
        waits: Seconds of each; −1 if it never started.
        held: Returns for how many of them limits held an operation, by its number.
        conditions: Of the run.
    """
    operations = late = 0
    for operation, (published, waited) in enumerate(zip(arrivals.times, waits, strict=True)):
        if published < conditions.warm_in:
            continue
        allowed = conditions.wait + held(operation)
        if waited < 0.0 and arrivals.seconds - published <= allowed:
            continue  # the run ended before it could be late
        operations += 1
        late += waited < 0.0 or waited > allowed
    return operations, late
