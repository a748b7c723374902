"""Health: the problems of a worker, and for how long it has had them.

A worker that is busy with a long operation looks much like one that hangs. A worker
counts as responsive if it shows one of two signs: its pulse, which beats as long
as any thread gets the interpreter, or its processor time, which grows while C code
that keeps the interpreter computes. A worker with neither waits inside C code with
the interpreter locked; nothing in that process can go on, not even the handler of
a time limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_COMPUTES = 0.05
"""Share of the time since the last check from which a worker counts as computing. A
thread that waits for the interpreter uses less than a hundredth by asking for it."""
_GRACE = 5.0
"""Seconds after its hard limit at which an operation counts as overdue."""


class Problem(StrEnum):
    """A problem of a worker."""

    UNRESPONSIVE = "unresponsive"
    """Neither its pulse nor its processor time has moved."""
    STALLED = "stalled"
    """It has not taken up an operation that was written to it before the last check."""
    OVERDUE = "overdue"
    """Its operation runs although its hard limit is over."""
    MEMORY = "memory"
    """It uses more than ``memory_limit_mb``."""


@dataclass(frozen=True)
class Vitals:
    """The measurements of a worker at one moment.

    Attributes:
        beats: Of its pulse.
        cpu: Processor time it has used, in seconds.
        memory: Its resident memory in bytes.
        unaccepted: Number of the operation that was written to it and that it
            has not begun; None if there is none, or it is busy with another.
        overdue: Seconds since the hard limit of its operation; negative before.
    """

    beats: int
    cpu: float
    memory: int
    unaccepted: int | None = None
    overdue: float | None = None


@dataclass(frozen=True)
class Check:
    """One look at one worker.

    Attributes:
        at: When, in monotonic seconds.
        vitals: The measurements.
        problems: The problems, and how many checks in a row have found each.
    """

    at: float
    vitals: Vitals
    problems: Mapping[Problem, int]

    @property
    def failures(self) -> int:
        """For how many checks in a row the worker has had its longest-standing problem."""
        return max(self.problems.values(), default=0)

    def hangs(self, allowed: int) -> bool:
        """Return whether ``allowed`` checks in a row show that it will never finish."""
        return any(
            times >= allowed
            for problem, times in self.problems.items()
            if problem is not Problem.MEMORY
        )


def check(
    before: Check | None, vitals: Vitals, at: float, *, interval: float, memory_limit: float | None
) -> Check:
    """Judge a worker by its vitals now and at the last check.

    Args:
        before: The last check of this worker; None at its first.
        vitals: The measurements of now.
        at: Now, in monotonic seconds.
        interval: Seconds between two checks, as they should be.
        memory_limit: In bytes; None for no limit.
    """
    problems = []
    if memory_limit is not None and vitals.memory > memory_limit:
        problems.append(Problem.MEMORY)
    if vitals.overdue is not None and vitals.overdue > _GRACE:
        problems.append(Problem.OVERDUE)
    if before is not None:
        elapsed = at - before.at
        # A check that is late proves nothing: the node, or the whole host, stood still.
        in_time = elapsed < 2 * interval
        moved = vitals.beats != before.vitals.beats
        computed = vitals.cpu - before.vitals.cpu >= _COMPUTES * elapsed
        if in_time and not moved and not computed:
            problems.append(Problem.UNRESPONSIVE)
        stalled = vitals.unaccepted is not None and vitals.unaccepted == before.vitals.unaccepted
        if in_time and stalled:
            problems.append(Problem.STALLED)
    had: Mapping[Problem, int] = before.problems if before is not None else {}
    return Check(at, vitals, {problem: had.get(problem, 0) + 1 for problem in problems})


def beat_interval(check_interval: float) -> float:
    """Return how often a pulse has to beat, in seconds, for checks that far apart."""
    return min(5.0, check_interval / 4)
