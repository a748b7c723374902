"""Dispatch: operations on their way from a node to its workers and back.

A worker gets several short operations in one write, so that it never waits for its
node between two; how many follows from how long operations of that name took lately.
It says in shared memory which one it has begun (:mod:`pooltasks.node.turn`), and sends
one message when it is done. When one takes longer than expected, the operations that
wait behind it are taken back and go to other workers.
"""

from __future__ import annotations

import errno
import os
import pickle
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from billiard.pool import RUN, TERMINATE
from celery.concurrency.asynpool import AsynPool

from pooltasks.broker.results import StoredResult
from pooltasks.node import recalling
from pooltasks.node.jobs import Blame, Job, Lane
from pooltasks.node.outcome import UNTOLD, Ending
from pooltasks.node.replies import Replies
from pooltasks.node.sharing import AHEAD, MOST, least_loaded, share_out
from pooltasks.optimizer.overflow import LOOK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pooltasks.node.jobs import Call, Owner
    from pooltasks.node.shortcut import Claims

JOBS = 66
"""Message to a worker: operations to run, in their order."""

_STUCK = 0.1
"""Seconds after which a worker with several slots should have begun what was written to it."""
_FORGET = 0.97
"""Factor by which a duration fades with each operation that was shorter."""


class DispatchPool(AsynPool):
    """Celery's process pool with its own way to the workers and back.

    Args:
        processes: How many workers.
        *args: As billiard's.
        strategy: Which idle worker is next: ``lifo`` the one used last, whose
            caches are warm, ``fifo`` the one that has rested longest.
        accepts_first: Returns whether the task of this name is acknowledged
            before it runs.
        claims: Says which operations a worker may complete itself.
        on_result: Takes the result that a worker made for the caller.
        slots: How many operations a worker runs at once.
        **kwargs: As billiard's.
    """

    ResultHandler = Replies

    def __init__(
        self,
        processes: int,
        *args: Any,
        strategy: str,
        accepts_first: Callable[[str], bool],
        claims: Claims,
        on_result: Callable[[StoredResult], None],
        slots: int,
        **kwargs: Any,
    ) -> None:
        self._strategy, self.slots = strategy, slots
        self._accepts_first, self._claims, self._on_result = accepts_first, claims, on_result
        self._hub: Any = None
        self._uses, self._looks = 0, False
        self._durations: dict[str, float] = {}
        self._recent = float("inf")
        super().__init__(processes, *args, **kwargs)
        self._result_handler.pool = self

    def WorkerProcess(self, worker: Any) -> Any:  # noqa: N802  billiard's name
        """Make the process of a worker, and its lane."""
        process = super().WorkerProcess(worker)
        process.lane = Lane(turn=worker.turn)
        process.timed_out = set()  # the slots because of which it was killed
        return process

    @property
    def jobs(self) -> dict[int, Job]:
        """The jobs that have not ended, by their keys."""
        cache: dict[int, Job] = self._cache
        return cache

    def depth(self) -> int:
        """Return how many operations a slot may have at a time, if they stay as short as now."""
        if self.slots > 1:
            return 1
        return max(1, min(MOST, int(2 * AHEAD / max(self._recent, 1e-9))))

    def is_running(self) -> bool:
        """Return whether the pool takes operations."""
        return bool(self._state == RUN)

    def is_idle(self, process: Any) -> bool:
        """Return whether a worker is done with every operation that was written to it."""
        return not process.lane.jobs

    def _worker_active(self, worker: Any) -> bool:
        return not self.is_idle(worker)

    def submit(
        self,
        call: Call,
        owner: Owner,
        *,
        limits: tuple[float | None, float | None],
        correlation_id: str | None,
    ) -> Job | None:
        """Have a worker run ``call``.

        Args:
            call: The operation to run.
            owner: Hears how it ends.
            limits: Soft and hard time limit in seconds.
            correlation_id: The operation's id.

        Returns:
            None if the pool takes nothing more.
        """
        if self._state != RUN:
            return None
        job = Job(self, call, owner, limits=limits, correlation_id=correlation_id)
        if job.is_failure():
            self.outbound_buffer.appendleft(job)  # somebody has waited for it already
        else:
            self.outbound_buffer.append(job)
        if len(self.outbound_buffer) == 1 and self._rests():
            self.on_poll_start()
        return job

    def _rests(self) -> bool:
        """Return whether a slot has nothing to do; it need not wait for the loop's next turn."""
        return any(len(process.lane.jobs) < self.slots for process in self._fileno_to_inq.values())

    def _create_write_handlers(self, hub: Any) -> None:
        self._hub = hub
        self.hub_remove = hub.remove
        for process in self._pool:
            if process.lane.unsent is not None:
                hub.add_writer(process.inqW_fd, self._write, process)
        self._look_later()

    def on_poll_start(self) -> None:
        """Write waiting operations to workers that have room; called at each turn of the loop."""
        waiting = self.outbound_buffer
        if not waiting:
            return
        open_to = [
            process for process in self._fileno_to_inq.values() if process.lane.unsent is None
        ]
        if self.slots > 1:
            self._fill(process for process in open_to if not process.lane.is_stuck())
            return
        idle = sorted(
            (process for process in open_to if not process.lane.jobs),
            key=lambda process: process.lane.used,
            reverse=self._strategy == "fifo",
        )
        # The others have enough for now: few long writes cost less than many short ones.
        hungry = [process for process in open_to if process.lane.load <= AHEAD / 2]
        batches: dict[int, tuple[Any, list[Job]]] = {}
        while waiting:
            job = waiting[0]
            job.estimate = self._durations.get(job.name, float("inf"))
            process = idle.pop() if idle else least_loaded(hungry, job.estimate)
            if process is None:
                break
            waiting.popleft()
            process.lane.add(job)
            job.write_to(process)
            batches.setdefault(process.pid, (process, []))[1].append(job)
        self._send(batches.values())

    def _fill(self, open_to: Iterable[Any]) -> None:
        """Write waiting operations to the free slots."""
        batches: dict[int, tuple[Any, list[Job]]] = {}
        fifo = self._strategy == "fifo"
        for process, job in share_out(self.outbound_buffer, open_to, self.slots, fifo=fifo):
            process.lane.add(job)
            job.write_to(process)
            batches.setdefault(process.pid, (process, []))[1].append(job)
        self._send(batches.values())

    def _send(self, batches: Iterable[tuple[Any, list[Job]]]) -> None:
        for process, jobs in batches:
            self._uses += 1
            process.lane.used = self._uses
            self.write_stats[process.index] += len(jobs)
            is_alone = self.slots == len(process.lane.jobs) == 1 and not self.outbound_buffer
            process.lane.unsent = memoryview(self._frame(jobs, is_alone))
            self._write(process)
        self._look_later()

    def _frame(self, jobs: list[Job], is_alone: bool) -> bytes:
        operations = []
        for job in jobs:
            accepts_first = not job.is_failure() and self._accepts_first(job.name)
            claim = self._claims.of(job) if is_alone and not accepts_first else None
            call = job.call
            operations.append(
                (
                    *(job.number, job.key, accepts_first, claim and tuple(claim)),
                    *(int(call.kind), call.wants_traceback, call.payload),
                )
            )
        payload = pickle.dumps((JOBS, operations), pickle.HIGHEST_PROTOCOL)
        return struct.pack("!i", len(payload)) + payload

    def _write(self, process: Any) -> None:
        lane, fd = process.lane, process.inqW_fd
        try:
            lane.send(fd)
        except BlockingIOError:
            self._hub.add_writer(fd, self._write, process)
            return
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EBADF):  # its death ends the operation
                raise
        lane.unsent = None
        if fd in self._hub.writers:  # removing what is not there costs a failed call to the kernel
            self._hub.remove_writer(fd)

    def on_done(  # noqa: PLR0917  what a worker sends
        self,
        process: Any,
        number: int,
        ending: tuple[Any, ...],
        stored: tuple[Any, ...] | None,
        seconds: float,
        is_completed: bool,
    ) -> None:
        """Take a worker's report of an operation that is done.

        Args:
            process: The worker.
            number: The operation's place among those that were written to the worker.
            ending: How it ended.
            stored: The result that its caller gets.
            seconds: How long it kept the worker busy.
            is_completed: Whether the worker has stored and acknowledged it.
        """
        self.restart_state.R = 0
        process.lane.done += 1
        job = process.lane.take(number)
        if job is None or not job.is_wanted():
            return  # it was given up: ended by its time limit, or reserved anew
        # How long it takes to tell of a failure says nothing about the operation.
        name = "" if job.is_failure() else job.name
        self._durations[name] = max(seconds, self._durations.get(name, 0.0) * _FORGET)
        self._recent = max(seconds, min(self._recent, 2 * AHEAD) * _FORGET)
        ended = Ending(*ending)
        result = None if stored is None else StoredResult(*stored)
        if result is not None and not job.owner.buries(ended):
            self._on_result(result)
        if is_completed:
            self._claims.completed(job)
        job.accept(process.pid, time.monotonic() - seconds)
        job.end(ended, result)
        self.on_job_ready(job.key, None, None, process.inqW_fd)

    def on_skipped(self, process: Any, number: int) -> None:
        """Give an operation to another worker: this one had been told to leave it."""
        job = process.lane.take(number)
        if job is not None:
            self._put_back(job)

    def _put_back(self, job: Job) -> None:
        if not job.is_wanted() or job.accepted():
            return
        if job.is_revoked():
            job.end_revoked()
        else:
            job.write_to(None)
            self.outbound_buffer.appendleft(job)

    def is_watched(self) -> bool:
        """Return whether there is something to look at."""
        return any(process.lane.jobs for process in self._pool)

    def on_look(self, now: float) -> None:
        """Called at each look, after operations that wait too long were taken back."""

    def _look_later(self) -> None:
        if not self._looks and self.is_watched():
            self._looks = True
            self._hub.call_later(LOOK, self._look)

    def _look(self) -> None:
        """Look at the workers: start time limits, take back operations that wait too long."""
        self._looks = False
        if self._state != RUN:
            return
        now = time.monotonic()
        for process in self._pool:
            self.accept_begun(process)
            self._take_back(process.lane, now)
        self.on_look(now)
        self._look_later()

    def accept_begun(self, process: Any) -> None:
        """Note which operations a worker is running."""
        for number, since in process.lane.turn.running().items():
            job = process.lane.jobs.get(number)
            if job is not None:
                job.accept(process.pid, since)

    def _take_back(self, lane: Lane, now: float) -> None:
        number = lane.turn.last()
        if not lane.jobs or (self.slots == 1 and not lane.is_long(number, now)):
            return
        last = next(reversed(lane.jobs))
        if self.slots > 1 and (last <= number or now - lane.written_at < _STUCK):
            return
        if last > lane.turn.recalled():
            lane.turn.recall(last)  # the next look takes back the operations not begun by then
            return
        for later in [other for other in lane.jobs if other > number]:
            job = lane.take(later)
            if job is not None:
                self._put_back(job)

    def process_flush_queues(self, proc: Any) -> None:
        """Read the last messages of a worker that ended, and note the operations it was running."""
        self._result_handler.drain(proc)
        self.accept_begun(proc)

    def terminate_job(self, pid: int, sig: int | None = None) -> None:
        """End the worker of an operation that is revoked."""
        super().terminate_job(pid, sig)
        for process in self._pool:
            if process.pid == pid:
                # Not all that it runs: each knows whether it is the one.
                process._job_terminated = False  # noqa: SLF001  billiard's name

    def on_job_process_down(self, job: Job, pid_gone: int) -> None:
        """Give away a job that a dead worker had not begun, once the worker is reaped."""
        if job._write_to not in self._pool:  # noqa: SLF001  billiard's name
            super().on_job_process_down(job, pid_gone)

    def on_job_process_lost(self, job: Job, pid: int, exitcode: int) -> None:
        """End an operation whose worker is gone: as revoked, or as lost."""
        if job.is_terminated():
            job.end_terminated(exitcode)
            return
        if self._state == TERMINATE:
            job.blame = Blame.INNOCENT  # its node ends, and its workers with it
        else:
            job.lose()
        super().on_job_process_lost(job, pid, exitcode)

    def on_inqueue_close(self, fd: int, proc: Any) -> None:
        """Forget the pipe to a worker that is gone, unless another has its number by now."""
        if self._fileno_to_inq.get(fd) is proc:
            del self._fileno_to_inq[fd]
            self._all_inqueues.discard(fd)

    def recall(self) -> None:
        """Have no worker begin any more of the operations that were written to it."""
        recalling.recall(self._pool)

    def flush(self) -> None:
        """Forget the operations that no worker has begun: other nodes run them."""
        if self._state != TERMINATE:
            self.recall()
            recalling.forget_what_has_not_begun(self, self._pool)
            self.maintain_pool()

    def is_decided(self) -> bool:
        """Return whether it is known of every operation whether a worker has begun it."""
        return not recalling.undecided(self._pool)

    def close(self) -> None:
        """Take no more work; a failure that no worker can tell of any more is the node's."""
        self.on_poll_start()
        super().close()
        for job in [job for job in self.outbound_buffer if job.is_failure()]:
            self.outbound_buffer.remove(job)
            job.end(UNTOLD, None)

    @staticmethod
    def _stop_task_handler(task_handler: Any) -> None:
        """Finish the writes that have begun, and tell the workers that no more comes."""
        for process in task_handler.pool:
            with suppress(OSError):  # the worker is gone
                os.set_blocking(process.inqW_fd, True)
                process.lane.send(process.inqW_fd)
                process.inq.put(None)
