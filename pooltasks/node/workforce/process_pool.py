"""The process pool of a node: Celery's, with its work in parts that need no process.

It deals with the private interface of Celery's and billiard's pools. It makes, ends and
reaps the processes, opens and closes their pipes, and tells the parts what happens:

* :class:`Dispatch`: what waits, and which worker gets it;
* :class:`Sizing`: which workers serve, rest and end, and how many are forked;
* :class:`WarmUps`: how workers become warm;
* :class:`Deaths`: what is made of those that have ended.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from billiard.pool import RUN, TERMINATE

from pooltasks.node.worker.child import EX_WARM_UP_FAILED, REWARM_SIGNAL, WARMED, WARMING
from pooltasks.node.worker.error_reports import ERRED, ErrorReport
from pooltasks.node.worker.warmup import WorkerReport
from pooltasks.node.workforce.batches import take_part
from pooltasks.node.workforce.deaths import Deaths, End
from pooltasks.node.workforce.dispatch import Dispatch
from pooltasks.node.workforce.equipment import Equipment
from pooltasks.node.workforce.jobs import Lane
from pooltasks.node.workforce.loans import Loans
from pooltasks.node.workforce.replies import PART, Replies
from pooltasks.node.workforce.sizing import Sizing
from pooltasks.node.workforce.timeouts import Deadlines, TimeLimits
from pooltasks.node.workforce.warm_ups import WarmUps
from pooltasks.node.workforce.watched_pool import WatchedPool
from pooltasks.optimizer.overflow import LOOK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pooltasks.broker.results import StoredResult
    from pooltasks.node.scoreboard.scoreboard import Scoreboard
    from pooltasks.node.worker.shortcut import Claims
    from pooltasks.node.worker.warmup import Plan
    from pooltasks.node.workforce.jobs import Job
    from pooltasks.pool_settings import WarmUp


class ProcessPool(WatchedPool):
    """Processes of one node.

    Celery writes a job to any worker whose pipe it knows. The pipe of a worker that rests
    is taken out of that list. Each worker gets pipes of its own and takes them with it: in
    those of a worker that was killed there may be half a message.

    Args:
        processes: How many take operations.
        *args: As billiard's.
        plan: How they warm up, with the settings of the pool.
        scoreboard: Where they tell what they do.
        stores: Whether the workers store results themselves.
        queued: Returns how many operations are in the queue.
        accepts_first: As :class:`Dispatch`'s.
        claims: As :class:`Dispatch`'s.
        on_result: As :class:`Dispatch`'s.
        on_error: Takes what workers tell of errors of operations.
        **kwargs: As billiard's.
    """

    ResultHandler = Replies
    TimeoutHandler = TimeLimits

    def __init__(
        self,
        processes: int,
        *args: Any,
        plan: Plan,
        scoreboard: Scoreboard,
        stores: bool,
        queued: Callable[[], int],
        accepts_first: Callable[[str], bool],
        claims: Claims,
        on_result: Callable[[StoredResult], None],
        on_error: Callable[[ErrorReport], None],
        **kwargs: Any,
    ) -> None:
        self._init_timeout = plan.settings.init_timeout
        self._equipment = Equipment(plan, scoreboard, stores=stores)
        settings = plan.settings
        self._hub: Any = None
        self._looks = False
        self.warm_ups = WarmUps(plan)
        self.deaths = Deaths(plan.pool, scoreboard)
        super().__init__(processes + settings.spares, *args, **kwargs)
        self.sizing = Sizing(
            self._pool,
            self,
            size=processes,
            spares=settings.spares,
            overflow=settings.max_overflow,
            wait=settings.objective.wait_ms / 1000,
            slots=settings.slots,
            queued=queued,
        )
        self._deadlines = Deadlines(self.on_soft_timeout, self.on_hard_timeout)
        self.dispatch = Dispatch(
            self._pool,
            self._fileno_to_inq.values(),
            self._cache,
            self.write_stats,
            strategy=settings.strategy,
            slots=settings.slots,
            accepts_first=accepts_first,
            claims=claims,
            on_written=self._look_later,
            on_result=on_result,
            on_end=self.sizing.on_done,
            deadlines=self._deadlines,
        )
        self.loans = Loans(
            self._pool,
            self._fileno_to_inq.values(),
            self.dispatch,
            on_lost=self._on_lost_by_itself,
            on_end=self.sizing.on_done,
            on_look=self._look_at_size,
        )
        self.recall = self.loans.recall
        self._result_handler.dispatch = self.dispatch
        self._result_handler.of_loans = self.loans.handlers()
        handlers = self._result_handler.state_handlers
        handlers[WARMING] = self.warm_ups.on_warming
        handlers[WARMED] = lambda *plain: self.warm_ups.on_warmed(WorkerReport.of(*plain))
        handlers[PART] = partial(take_part, self.dispatch, on_result)
        handlers[ERRED] = lambda *plain: on_error(ErrorReport.of(*plain))

    # The event loop.

    def _create_write_handlers(self, hub: Any) -> None:
        """Attach the parts to the loop; Celery's own way to the workers is not made."""
        self._hub = hub
        self.hub_remove = hub.remove
        self.on_poll_start = self.dispatch.hand_out
        self._deadlines.start(hub)
        self.warm_ups.start(hub, self)
        self.sizing.start(hub)
        self.dispatch.start(hub)
        self.loans.start(hub)
        self._look_later()

    def _look_later(self) -> None:
        if not self._looks and (self.dispatch.is_watched() or self.sizing.is_watched()):
            self._looks = True
            self._hub.call_later(LOOK, self._look)

    def _look(self) -> None:
        self._looks = False
        if self._state != RUN:
            return
        self.dispatch.look(now := time.monotonic())
        self._look_at_size(now)
        self._look_later()

    def _look_at_size(self, now: float) -> None:
        its = self.dispatch
        self.sizing.look(now, waiting=len(its.waiting), run=its.durations.mean)

    def is_running(self) -> bool:
        """Return whether the pool takes operations."""
        return bool(self._state == RUN)

    # Processes begin.

    def fork(self, number: int) -> None:
        """Start ``number`` workers, or later if the last could not be warmed."""
        pause = self.warm_ups.pause()
        if number and pause > 0:
            self._hub.call_later(pause, self.maintain_pool)
            return
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

    def _create_worker_process(self, i: int) -> Any:
        self.Worker = self._equipment.of(i)
        # A worker's own limit is init_timeout from when it begins its warm-up
        # (WarmUps.on_warming); this one, from the fork, covers waiting for its turn.
        self._proc_alive_timeout = self._init_timeout * (len(self._pool) + 2)
        process = super()._create_worker_process(i)
        process.forked_at = time.monotonic()
        return process

    def WorkerProcess(self, worker: Any) -> Any:  # noqa: N802  billiard's name
        """Make the process of a worker, and its lane."""
        process = super().WorkerProcess(worker)
        process.lane = Lane(turn=worker.turn)
        process.timed_out = set()  # the slots because of which it was killed
        process.pulse = worker.pulse
        process.is_unhealthy = False
        return process

    def on_process_alive(self, pid: int) -> None:
        """Let a worker rest that has become warm; it serves if one is lacking."""
        if self.sizing.is_ending(pid):
            return
        super().on_process_alive(pid)
        process, _ = self._process_by_pid(pid)
        if process is None:  # it ended right after it said so
            return
        sizing = self.sizing
        sizing.on_warm(pid)
        self.warm_ups.on_warm(
            pid, process.forked_at, warm=len(sizing.warm), wanted=sizing.size + sizing.spares
        )
        sizing.settle()

    # Processes serve and rest.

    def serve(self, pid: int) -> None:
        """Give a worker operations from now on."""
        process, _ = self._process_by_pid(pid)
        self._fileno_to_inq[process.inqW_fd] = process
        self._all_inqueues.add(process.inqW_fd)
        self.deaths.on_serving(pid, process.index)

    def rest(self, pid: int) -> None:
        """Give a worker no more operations."""
        process, _ = self._process_by_pid(pid)
        self._fileno_to_inq.pop(process.inqW_fd, None)
        self._all_inqueues.discard(process.inqW_fd)
        self.deaths.on_resting(process.index)

    def _worker_active(self, worker: Any) -> bool:
        return bool(worker.lane.jobs)

    def resize(self, size: int, spares: int | None = None) -> None:
        """Set another size; nobody stands in for the dead of a pool that is enough without."""
        self.sizing.resize(size, spares)
        self._processes = self.sizing.size + self.sizing.spares
        self.deaths.forget(self.sizing.lacking())

    def warm_again(self, order: WarmUp) -> int:
        """Ask every warm worker to run ``order``; return the number of the round."""
        self.loans.recall()
        number = self.warm_ups.begin(order, self.sizing.warm)
        for pid in self.warm_ups.round.waiting:
            os.kill(pid, REWARM_SIGNAL)
        return number

    # Processes end.

    def end(self, pid: int, *, at_once: bool) -> None:
        """Ask a worker to end; with ``at_once`` it is not asked."""
        process, _ = self._process_by_pid(pid)
        process._controlled_termination = True  # noqa: SLF001  billiard's name
        self._signal(pid, signal.SIGKILL if at_once else signal.SIGTERM)

    def kill(self, pid: int) -> None:
        """Kill a worker, if it is still there."""
        self._signal(pid, signal.SIGKILL)

    def kill_unhealthy(self, process: Any) -> None:
        """Kill a worker that hangs; what it ran is lost with it, and it is replaced."""
        process.is_unhealthy = True
        self.kill(process.pid)

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        with suppress(ProcessLookupError):  # it ended by itself
            os.kill(pid, number)

    def is_alive(self, pid: int) -> bool:
        """Return whether there is a worker of this process id, and it has not ended."""
        process, _ = self._process_by_pid(pid)
        return process is not None and bool(process._is_alive())  # noqa: SLF001  billiard's name

    def terminate_job(self, pid: int, sig: int | None = None) -> None:
        """End the worker of an operation that is revoked."""
        super().terminate_job(pid, sig)
        for process in self._pool:
            if process.pid == pid:
                # Not all that it runs: each knows whether it is the one.
                process._job_terminated = False  # noqa: SLF001  billiard's name

    # Processes are reaped.

    def process_flush_queues(self, proc: Any) -> None:
        """Read the last messages of a worker that ended, and note the operations it was running."""
        self._result_handler.drain(proc)
        self.dispatch.accept_begun(proc)

    def on_job_process_down(self, job: Job, pid_gone: int) -> None:
        """Give away a job that a dead worker had not begun, once the worker is reaped."""
        if job._write_to not in self._pool:  # noqa: SLF001  billiard's name
            super().on_job_process_down(job, pid_gone)

    def _put_back(self, job: Job) -> None:
        self.dispatch.put_back(job)

    def on_job_process_lost(self, job: Job, pid: int, exitcode: int) -> None:
        """End an operation whose worker is gone: as revoked, or as lost."""
        if self.dispatch.lose(job, exitcode, with_node=self._state == TERMINATE):
            super().on_job_process_lost(job, pid, exitcode)

    def _on_lost_by_itself(self, job: Job, process: Any) -> None:
        """End an operation that a dead worker had reserved itself."""
        if self.dispatch.lose(job, process.exitcode, with_node=self._state == TERMINATE):
            self.mark_as_worker_lost(job, process.exitcode)

    def on_inqueue_close(self, fd: int, proc: Any) -> None:
        """Forget the pipe to a worker that is gone, unless another has its number by now."""
        if self._fileno_to_inq.get(fd) is proc:
            del self._fileno_to_inq[fd]
            self._all_inqueues.discard(fd)

    def _join_exited_workers(self, shutdown: bool = False) -> Any:
        before = {process.pid: process for process in self._pool}
        with self.loans.deaths():
            exitcodes = super()._join_exited_workers(shutdown)
            gone = before.keys() - {process.pid for process in self._pool}
            for pid in gone:
                self._on_gone(before[pid], shutdown=shutdown)
                self.loans.on_gone(before[pid])
        for pid in gone:
            self.sizing.on_gone(pid)
            process = before[pid]
            if not process.dead and not shutdown:
                process.dead = True
                self.destroy_queues((process.inq, process.outq, process.synq), process)
        return exitcodes

    def _on_gone(self, process: Any, *, shutdown: bool) -> None:
        pid, sizing = process.pid, self.sizing
        end = End.of(process, shutdown=shutdown)
        failed = not end.was_asked and (pid not in sizing.warm or end.exitcode == EX_WARM_UP_FAILED)
        self.warm_ups.on_gone(pid, shutdown=shutdown)
        served = pid in sizing.serving and not failed
        self.deaths.on_end(end, served=served, lacking=sizing.lacking())
        if failed and not shutdown:
            self.warm_ups.on_failed(pid)

    def _repopulate_pool(self, _exitcodes: Iterable[int]) -> None:
        self.sizing.settle()

    # The pool ends.

    def flush(self) -> None:
        """Forget the operations that no worker has begun: other nodes run them."""
        if self._state != TERMINATE:
            self.loans.recall()
            self.dispatch.forget_what_has_not_begun()
            self.maintain_pool()

    def close(self) -> None:
        """Take no more work, and end the workers that warm up: nothing waits for them.

        They hold no operation that has begun, and no timer ends them any more.
        """
        self.loans.recall()
        self.dispatch.hand_out()
        super().close()
        self.sizing.stop()
        self.dispatch.close()
        for process in self._pool:
            if process.pid not in self.sizing.warm or process.pid in self.warm_ups.warming:
                # SIGKILL: right after its fork a worker still ignores SIGTERM.
                self.kill(process.pid)

    def terminate(self) -> None:
        """End the workers at once."""
        self.loans.recall()
        self.sizing.stop()
        self.dispatch.stop()
        super().terminate()

    @staticmethod
    def _stop_task_handler(task_handler: Any) -> None:
        """Finish the writes that have begun, and tell the workers that no more comes."""
        for process in task_handler.pool:
            with suppress(OSError):  # the worker is gone
                os.set_blocking(process.inqW_fd, True)
                process.lane.send(process.inqW_fd)
                process.inq.put(None)

    def ended(self) -> None:
        """Account for the workers that were there to the end."""
        for process in self._pool:
            self.deaths.on_end(End.of(process, shutdown=True))
