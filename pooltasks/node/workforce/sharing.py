"""Sharing: which worker gets the next operation.

A worker with one slot gets short operations ahead of time, and very short ones share a
worker even while others are idle: to wake one costs more. A worker with several
slots has at most as many operations as slots; the next operation goes to the worker
that has the fewest. An operation that was running when a worker with several died
may be the reason: it gets a worker of its own, so that no other operation dies with
it, nor it with another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable

    from pooltasks.node.workforce.jobs import Job

AHEAD = 0.005
"""Seconds of work that a worker with one slot may have waiting, beyond one operation."""
AHEAD_OF_TURNS = 0.001
"""The same where keys take turns: what a worker has goes before all that comes later."""
TOGETHER = 0.001
"""Seconds of very short operations that a worker gets before an idle one is woken."""
MOST = 64
"""Operations that a worker with one slot may have."""


def fits(worker: Any, least: float) -> bool:
    """Return whether an operation fits into a worker that is idle, or runs very short ones.

    Args:
        worker: A process with one slot.
        least: Seconds that the operation takes at the least.
    """
    return not worker.lane.jobs or worker.lane.least + least <= TOGETHER


def least_loaded(workers: Iterable[Any], estimate: float, most: float) -> Any:
    """Return the worker with the least work that has room for one operation more, or None.

    Args:
        workers: Processes with one slot that can be written to.
        estimate: Seconds that the operation is expected to take.
        most: Seconds of work that a worker may have.
    """
    with_room = (worker for worker in workers if len(worker.lane.jobs) < MOST)
    worker = min(with_room, key=lambda worker: worker.lane.load, default=None)
    return None if worker is None or worker.lane.load + estimate > most else worker


def share_out(
    waiting: deque[Job], workers: Iterable[Any], slots: int, *, fifo: bool
) -> list[tuple[Any, Job]]:
    """Take operations from ``waiting`` for workers with room; return the pairs of both.

    An operation that has to be alone and finds no idle worker stays, and the
    worker that has the fewest gets nothing more meanwhile: its turn comes.

    Args:
        waiting: Operations, those that go first at the left.
        workers: Processes that can be written to.
        slots: How many operations a worker runs at once.
        fifo: Whether, of equal workers, the one that has rested longest goes first.
    """
    sign = 1 if fifo else -1
    open_to = {
        worker.pid: worker
        for worker in workers
        if not any(job.is_suspect() for job in worker.lane.jobs.values())
    }
    loads = {pid: len(worker.lane.jobs) for pid, worker in open_to.items()}

    def rank(pid: int) -> tuple[int, int]:
        return loads[pid], sign * open_to[pid].lane.used

    shares = []
    staying: list[Job] = []
    while waiting and loads:
        pid = min(loads, key=rank)
        if loads[pid] >= slots:
            break
        job = waiting.popleft()
        if not job.is_suspect():
            loads[pid] += 1
            shares.append((open_to[pid], job))
            continue
        if loads[pid]:
            staying.append(job)
        else:
            shares.append((open_to[pid], job))
        del loads[pid]
    waiting.extendleft(reversed(staying))
    return shares
