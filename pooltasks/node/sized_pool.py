"""A pool of processes with an exact size: missing workers are forked, surplus ones end."""

from __future__ import annotations

import math
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from billiard.pool import RUN

from pooltasks.node.dispatch import DispatchPool
from pooltasks.node.resizing import Staff, moves
from pooltasks.optimizer.overflow import Overflow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

_AGAIN = 0.05
"""Seconds after which a spare is replaced, so that operations that wait for the spare that
took over go first; and after which a pool that could not settle looks again."""
_END_AT_LATEST = 5.0
"""Seconds after which a worker that does not end when it is asked to is killed."""


class SizedPool(DispatchPool):
    """Celery's pool, with workers that serve and workers that rest.

    Celery writes a job to any worker whose pipe it knows; one that rests is
    warm, and its pipe is taken out of that list until it is needed. So a spare
    takes over, and an idle worker stops taking jobs, at once and in one step.

    Each worker gets pipes of its own and takes them with it: in those of a
    worker that was killed there may be half a message.

    Args:
        processes: How many workers serve.
        *args: As billiard's.
        spares: How many more are kept warm.
        overflow: How many temporary ones there may be.
        queued: Returns how many operations are in the queue.
        **kwargs: As :class:`DispatchPool`'s.
    """

    def __init__(
        self,
        processes: int,
        *args: Any,
        spares: int,
        overflow: int,
        queued: Callable[[], int],
        **kwargs: Any,
    ) -> None:
        self.size = processes
        self.spares = spares
        self.overflow = Overflow(overflow)
        self._queued = queued
        self.room: int | None = None
        """The most workers that the host has room for; None if that is not known."""
        self.warm: set[int] = set()
        """Workers that have reported that they can take operations, spares too."""
        self.serving: set[int] = set()
        """Workers that are given operations; the others rest."""
        self.outgoing: set[int] = set()
        """Workers that are to be replaced, and go on until that is done."""
        self._ending: set[int] = set()
        self._timer: Any = None
        self.coming = 0
        """Workers that are forked in the next rounds of the event loop."""
        super().__init__(processes + spares, *args, **kwargs)

    def resize(self, size: int, spares: int | None = None) -> None:
        """Have ``size`` workers serve and ``spares`` rest (None: as many as before).

        Missing workers are forked before this returns; a surplus worker ends as soon
        as it has no operation.
        """
        self.overflow.take_over(max(0, size - self.size))
        self.size = size
        self.spares = self.spares if spares is None else spares
        self._processes = self.size + self.spares
        self.settle()

    @property
    def wanted(self) -> int:
        """How many workers are to serve now, temporary ones too."""
        return self.size + self.overflow.count

    def occupied(self) -> set[int]:
        """Return the workers that have an operation, or to which one has been written."""
        return {process.pid for process in self._pool if not self.is_idle(process)}

    def workers(self) -> list[Any]:
        """Return the processes that are warm and to stay so, the oldest first."""
        return [process for process in self._pool if process.pid in self.warm]

    def staff(self) -> Staff:
        """Return the workers by what they do."""
        workers = [process.pid for process in self._pool if process.pid not in self._ending]
        return Staff(
            serving=[pid for pid in workers if pid in self.serving],
            resting=[pid for pid in workers if pid in self.warm and pid not in self.serving],
            cold=[pid for pid in workers if pid not in self.warm],
            busy=self.occupied(),
            outgoing=self.outgoing,
        )

    def settle(self, *, behind: bool = False) -> None:
        """Bring the workers to the size that is wanted, as far as that can be done now.

        Args:
            behind: Whether to fork spares too. Otherwise they follow a moment later.
        """
        if self._state != RUN:
            return
        staff = self.staff()
        to_do = moves(staff, self.wanted, self.spares)
        for pid in to_do.release:
            self._serve(pid)
        for pid in to_do.rest:
            self._rest(pid)
        for pid in to_do.end:
            self.end(pid)
        lacking = self.wanted - len(self.serving) - len(staff.cold)
        now = to_do.fork if behind or self._hub is None else min(to_do.fork, max(0, lacking))
        self._fork_one_by_one(now, behind=behind)
        # Not every operation that leaves a worker has a result: some are taken back.
        unsettled = len(self.serving) > self.wanted or self.outgoing or {*staff.busy} - self.serving
        if (now < to_do.fork or unsettled) and self._timer is None:
            self._timer = self._hub.call_later(_AGAIN, self._settle_again)

    def is_watched(self) -> bool:
        """Return whether there is something to look at: operations, or temporary workers."""
        return super().is_watched() or self.overflow.count > 0

    def on_look(self, now: float) -> None:
        """Have another temporary worker if one is lacking, or fewer if they have been idle."""
        if not self.overflow.most and not self.overflow.count:
            return
        full = [process.pid for process in self._pool if len(process.lane.jobs) >= self.slots]
        if self.overflow.look(
            now,
            self.size,
            serving=len(self.serving),
            busy=len(self.serving.intersection(full)),
            waiting=self._workers_for(len(self.outbound_buffer)),
            queued=lambda: self._workers_for(self._queued()),
            room=self.room,
        ):
            self.settle()

    def _workers_for(self, operations: int) -> int:
        return math.ceil(operations / self.slots)

    def _settle_again(self) -> None:
        self._timer = None
        self.settle(behind=True)

    def _fork_one_by_one(self, number: int, *, behind: bool) -> None:
        """Fork one worker now and the others in the next rounds of the event loop.

        A fork takes milliseconds, of many at once nearly a second, in which no
        operation is dispatched: just when some wait for the workers to come.
        """
        if self._hub is None:
            self.fork(number)
            return
        before = len(self._pool)
        self.fork(min(number, 1))
        self.coming = number - 1 if len(self._pool) > before else 0
        if self.coming:
            self._hub.call_soon(self._fork_another, self.coming, behind)

    def _fork_another(self, coming: int, behind: bool) -> None:
        if coming == self.coming:  # otherwise somebody has settled since
            self.settle(behind=behind)

    def replace(self, pid: int) -> None:
        """End a worker as soon as another is warm in its place and it has no operation."""
        self.outgoing.add(pid)
        self.settle(behind=True)

    def fork(self, number: int) -> None:
        """Start ``number`` workers."""
        for _ in range(number):
            self._create_worker_process(self._avail_index())

    def _avail_index(self) -> int:
        taken = {process.index for process in self._pool}
        return next(index for index in range(len(taken) + 1) if index not in taken)

    def get_process_queues(self) -> Any:
        """Return pipes for a new worker."""
        unused = next((queues for queues, owner in self._queues.items() if owner is None), None)
        if unused is None:
            unused = self.create_process_queues()
            self._queues[unused] = None
        return unused

    def _repopulate_pool(self, _exitcodes: Iterable[int]) -> None:
        self.settle()

    def _serve(self, pid: int) -> None:
        process, _ = self._process_by_pid(pid)
        self.serving.add(pid)
        self._fileno_to_inq[process.inqW_fd] = process
        self._all_inqueues.add(process.inqW_fd)
        self.on_serving(process)

    def _rest(self, pid: int) -> None:
        process, _ = self._process_by_pid(pid)
        pipe = process.inqW_fd
        self.serving.discard(pid)
        self._fileno_to_inq.pop(pipe, None)
        self._all_inqueues.discard(pipe)
        self.on_resting(process)

    def on_serving(self, process: Any) -> None:
        """Called when a worker begins to be given operations."""

    def on_resting(self, process: Any) -> None:
        """Called when a worker is given no more operations."""

    def end(self, pid: int) -> None:
        """End a worker that has no operation."""
        process, _ = self._process_by_pid(pid)
        process._controlled_termination = True  # noqa: SLF001  billiard's name
        self._ending.add(pid)
        # Right after its fork a worker still ignores SIGTERM.
        self._signal(pid, signal.SIGTERM if pid in self.warm else signal.SIGKILL)
        self._forget(pid)
        self._hub.call_later(_END_AT_LATEST, self._kill_if_ending, pid)

    def _kill_if_ending(self, pid: int) -> None:
        if pid in self._ending:
            self._signal(pid, signal.SIGKILL)

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        with suppress(ProcessLookupError):  # it ended by itself
            os.kill(pid, number)

    def _forget(self, pid: int) -> None:
        self.warm.discard(pid)
        self.serving.discard(pid)
        self.outgoing.discard(pid)

    def on_process_alive(self, pid: int) -> None:
        """Let a worker rest that has become warm; it serves if one is lacking."""
        if pid in self._ending:
            return
        super().on_process_alive(pid)
        process, _ = self._process_by_pid(pid)
        if process is None:  # it ended right after it said so
            return
        self.warm.add(pid)
        self._rest(pid)
        self.on_warm(process)
        self.settle()

    def on_warm(self, process: Any) -> None:
        """Called when a worker has become warm, before it serves."""

    def on_job_ready(self, job: int, i: int | None, obj: Any, inqW_fd: int) -> None:  # noqa: N803  billiard's
        """Let a worker rest that has finished, if there are more than enough."""
        super().on_job_ready(job, i, obj, inqW_fd)
        if len(self.serving) > self.wanted or self.outgoing:
            process = self._fileno_to_inq.get(inqW_fd)
            if process is not None and self._may_rest(process.pid):
                # Now, before another job is written to it; the others when this turn is done.
                self._rest(process.pid)
                self._hub.call_soon(self.settle)

    def _may_rest(self, pid: int) -> bool:
        if len(self.serving) > self.wanted:
            return True
        return pid in self.outgoing and bool(self.warm - self.serving - self.outgoing)

    def _join_exited_workers(self, shutdown: bool = False) -> Any:
        before = {process.pid: process for process in self._pool}
        exitcodes = super()._join_exited_workers(shutdown)
        gone = before.keys() - {process.pid for process in self._pool}
        self.on_gone([before[pid] for pid in gone], shutdown=shutdown)
        for pid in gone:
            self._forget(pid)
            self._ending.discard(pid)
            process = before[pid]
            if not process.dead and not shutdown:
                process.dead = True
                self.destroy_queues((process.inq, process.outq, process.synq), process)
        return exitcodes

    def on_gone(self, processes: Collection[Any], *, shutdown: bool) -> None:
        """Called when workers have been reaped, before they are forgotten."""
