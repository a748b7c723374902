"""Recalling: a node takes back the operations that its workers have not begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pooltasks.node.dispatch import DispatchPool


def recall(workers: Iterable[Any]) -> None:
    """Have no worker begin any more of the operations that were written to it."""
    for process in workers:
        process.lane.turn.recall(process.lane.written)


def undecided(workers: Iterable[Any]) -> set[int]:
    """Return the keys of jobs that a worker has begun or left out; it has not said which."""
    return {
        job.key
        for process in workers
        for number, job in process.lane.jobs.items()
        if number <= process.lane.turn.last() and not job.accepted() and not job.is_failure()
    }


def forget_what_has_not_begun(pool: DispatchPool, workers: Iterable[Any]) -> None:
    """Forget every operation that no worker has begun: other nodes run it."""
    for process in workers:
        pool.accept_begun(process)
    open_ones = undecided(workers)
    for job in list(pool.jobs.values()):
        if job.call.is_acknowledged or job.accepted() or job.is_failure():
            continue  # nobody else has it
        if job.key not in open_ones:
            job.discard()
    # A failure is told once: its message is the node's until that is done.
    staying = [job for job in pool.outbound_buffer if job.is_failure() or job.call.is_acknowledged]
    pool.outbound_buffer.clear()
    pool.outbound_buffer.extend(staying)
