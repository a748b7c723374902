"""Resizing: which of a node's workers serve, rest and end, and how many are forked.

A pure decision: the pool asks for it whenever a worker becomes warm, ends or
finishes, and when somebody sets another size. A worker that rests is warm and
gets no operation: it is a spare, or about to end. So a busy worker never has to
be interrupted: a pool that is to shrink lets the first that finish rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


@dataclass(frozen=True)
class Staff:
    """The workers of a node by what they do, each the oldest first; by process id.

    Attributes:
        serving: Those that are given operations.
        resting: Those that are warm and are given none.
        cold: Those that are not warm yet.
        busy: Those that have an operation, or to which one has been written.
        lent: Those that wait at the server themselves, and may get an operation at any time.
        outgoing: Those that are to be replaced, and go on until that is done.
    """

    serving: Sequence[int]
    resting: Sequence[int] = ()
    cold: Sequence[int] = ()
    busy: Collection[int] = frozenset()
    lent: Collection[int] = frozenset()
    outgoing: Collection[int] = frozenset()


@dataclass(frozen=True)
class Moves:
    """The steps of a change of size, in this order."""

    release: list[int] = field(default_factory=list)
    """Resting workers that serve from now on."""
    rest: list[int] = field(default_factory=list)
    """Serving workers, none of them busy, that are given no more operations."""
    end: list[int] = field(default_factory=list)
    """Workers without an operation that end."""
    fork: int = 0
    """How many workers are missing."""


def moves(staff: Staff, size: int, spares: int) -> Moves:
    """Return moves that bring ``staff`` nearer to ``size`` serving and ``spares`` resting workers.

    Serving comes first: a spare takes over before a worker is forked. The youngest
    workers go first: the cold ones, which nobody misses, then those that rest.
    Outgoing workers do not count towards either number. They go on until there are
    enough others that are warm.
    """
    outgoing, busy = staff.outgoing, {*staff.busy, *staff.lent}
    # False before True: workers that stay take over first, and go last.
    resting = sorted(staff.resting, key=outgoing.__contains__)
    lacking = max(0, size - len(staff.serving))
    release, resting = resting[:lacking], resting[lacking:]
    surplus = max(0, len(staff.serving) - size)
    idle = [worker for worker in reversed(staff.serving) if worker not in busy]
    idle.sort(key=outgoing.__contains__, reverse=True)
    rest = idle[:surplus]
    staying = [*staff.serving, *staff.resting, *staff.cold]
    staying = [worker for worker in staying if worker not in outgoing]
    replaced = len(staying) - len(staff.cold) >= size + spares
    if replaced and not surplus:
        # Each outgoing worker that is idle changes places with one that stays.
        going = [worker for worker in idle if worker in outgoing]
        coming = [worker for worker in resting if worker not in outgoing][: len(going)]
        rest += going[: len(coming)]
        release += coming
        resting = [worker for worker in resting if worker not in coming]
    resting += reversed(rest)
    excess = max(0, len(staying) - size - spares)
    # A resting worker may still finish an operation that it got before.
    endable = [worker for worker in reversed(resting) if worker not in busy]
    end = [*reversed(staff.cold), *(worker for worker in endable if worker not in outgoing)]
    end = end[:excess]
    if replaced:
        end += [worker for worker in endable if worker in outgoing]
    return Moves(release, rest, end, max(0, size + spares - len(staying)))
