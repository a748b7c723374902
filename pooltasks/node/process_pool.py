"""The process pool of a node: Celery's, with workers that are warm before they take work."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from billiard.common import human_status
from billiard.pool import EX_OK, EX_RECYCLE, TimeoutHandler
from celery.exceptions import TimeLimitExceeded, WorkerLostError
from celery.utils.log import get_logger

from pooltasks import telemetry
from pooltasks.errors import Category
from pooltasks.node.backoff import StartBackoff
from pooltasks.node.batches import take_part
from pooltasks.node.child import EX_WARM_UP_FAILED, REWARM_SIGNAL, WARMED, WARMING, WorkerProcess
from pooltasks.node.crashes import Cause, Crashes
from pooltasks.node.descendants import end_descendants
from pooltasks.node.error_reports import ERRED, ErrorReport
from pooltasks.node.pulse import Pulse
from pooltasks.node.replies import PART
from pooltasks.node.rounds import WarmUpRound, tell_of_start
from pooltasks.node.sized_pool import SizedPool
from pooltasks.node.warm_up_events import tell_of_warm_up
from pooltasks.node.warmup import WorkerReport, summary

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pooltasks.node.scoreboard import Scoreboard
    from pooltasks.node.warmup import Plan
    from pooltasks.pool_settings import WarmUp

logger = get_logger(__name__)

_REAP_AGAIN = 0.002


class TimeLimits(TimeoutHandler):
    """Billiard's; it marks the processes that it kills."""

    def on_soft_timeout(self, job: Any) -> None:
        """Interrupt the operation, if it is still the one that its worker runs."""
        process, _ = self._process_by_pid(job._worker_pid)  # noqa: SLF001  billiard's name
        if process:
            process.lane.turn.interrupt(job.number)
        super().on_soft_timeout(job)

    def on_hard_timeout(self, job: Any) -> None:
        """End the operation and its worker, with all that runs there."""
        process, _ = self._process_by_pid(job._worker_pid)  # noqa: SLF001  billiard's name
        if process and not job.ready():
            job.ended_its_worker = True
            # Before it is killed: it may end the operation meanwhile.
            process.timed_out.add(process.lane.turn.slot_of(job.number))
            process.lane.is_closing = True  # else a free slot would tell of it, and die
        super().on_hard_timeout(job)


class WarmPool(SizedPool):
    """Processes of one node.

    Args:
        processes: How many take operations.
        *args: As billiard's.
        plan: How they warm up.
        scoreboard: Where they tell what they do.
        stores: Whether the workers store results themselves.
        on_error: Takes what workers tell of errors of operations.
        **kwargs: As :class:`SizedPool`'s.
    """

    TimeoutHandler = TimeLimits

    def __init__(
        self,
        processes: int,
        *args: Any,
        plan: Plan,
        scoreboard: Scoreboard,
        stores: bool,
        on_error: Callable[[ErrorReport], None],
        **kwargs: Any,
    ) -> None:
        self.plan = plan
        self.scoreboard = scoreboard
        self._stores = stores
        self._forked_at: dict[int, float] = {}
        self._deaths: deque[tuple[float, int, Cause]] = deque()
        self.crashes = Crashes()
        self._pulses: dict[int, Pulse] = {}
        self.warming: set[int] = set()
        self.reports: dict[int, WorkerReport] = {}
        self.failed_report: WorkerReport | None = None
        """The report of the last warm-up that failed; None once another has succeeded since. Its
        worker is gone, and the report of the worker with it."""
        self.round = WarmUpRound()
        self.backoff = StartBackoff()
        self._first_fork_at = time.monotonic()
        self._announced = plan.settings.lazy
        self._failed_starts = 0
        """Workers that ended before they were warm, until all are warm for the first time."""
        super().__init__(processes, *args, **kwargs)
        handlers = self._result_handler.state_handlers
        handlers[WARMING] = self.on_warming
        handlers[WARMED] = lambda *plain: self.on_warmed(WorkerReport.of(*plain))
        handlers[PART] = partial(take_part, self, self._on_result)
        handlers[ERRED] = lambda *plain: on_error(ErrorReport.of(*plain))

    def _create_worker_process(self, i: int) -> Any:
        rows = [self.scoreboard.row(i, slot) for slot in range(self.slots)]
        pulse = self._pulses.setdefault(i, Pulse())
        self.Worker = partial(
            WorkerProcess, plan=self.plan, index=i, rows=rows, pulse=pulse, stores=self._stores
        )
        # A worker's own limit is init_timeout from when it begins its warm-up
        # (on_warming); this one, from the fork, covers waiting for its turn.
        self._proc_alive_timeout = self.plan.settings.init_timeout * (len(self._pool) + 2)
        process = super()._create_worker_process(i)
        self._forked_at[process.pid] = time.monotonic()
        return process

    def age(self, pid: int) -> float:
        """Return the seconds since a worker was forked."""
        return time.monotonic() - self._forked_at[pid]

    def _track_child_process(self, proc: Any, hub: Any) -> None:
        """Have the loop notice a worker's end, whatever processes it has started.

        Celery waits for the end of a pipe that the worker keeps open; a process
        that the worker has started may keep it open for ever.
        """
        if not hasattr(proc, "_sentinel_poll"):
            # Not on every system; or the worker was reaped already. Then the pipe tells.
            with suppress(AttributeError, OSError):
                proc._sentinel_poll = os.pidfd_open(proc.pid)  # noqa: SLF001  Celery's name
        super()._track_child_process(proc, hub)

    def _event_process_exit(self, hub: Any, proc: Any, again: float = _REAP_AGAIN) -> None:
        """Reap a worker whose sentinel says that it ends.

        The kernel closes a process's files some moments before it can be waited
        for. Celery looks once, and would see such a death 5 s later.
        """
        super()._event_process_exit(hub, proc)
        if proc in self._pool:
            hub.call_later(again, self._event_process_exit, hub, proc, min(1.0, 2 * again))

    def on_warming(self, pid: int) -> None:
        """Start the clock of a worker that begins its warm-up."""
        self.reports.pop(pid, None)
        self.warming.add(pid)
        self._hub.call_later(self.plan.settings.init_timeout, self._kill_if_cold, pid)

    def _kill_if_cold(self, pid: int) -> None:
        process, _ = self._process_by_pid(pid)
        if process is None or pid in self.reports or not process._is_alive():  # noqa: SLF001  billiard's name
            return
        logger.error(
            "pool %s: worker %s was not warm within init_timeout (%g s) and is killed",
            self.plan.pool,
            pid,
            self.plan.settings.init_timeout,
        )
        os.kill(pid, signal.SIGKILL)

    def on_warmed(self, report: WorkerReport) -> None:
        """Keep a worker's report; say what failed."""
        self.reports[report.pid] = report
        self.failed_report = report if report.error else None
        self.warming.discard(report.pid)
        has_ended = self.round.hear(report)
        tell_of_warm_up(self.plan.pool, report)
        if has_ended:
            self.round.tell(self.plan)

    def _emit_error(
        self, category: Category, operation: str | None, exception: BaseException
    ) -> None:
        telemetry.execute(
            "error",
            {"count": 1},
            {
                "pool": self.plan.pool,
                "category": category,
                "operation": operation,
                "exception": exception,
            },
        )

    def on_warm(self, process: Any) -> None:
        """Tell of a worker that has become warm."""
        self.backoff.succeeded()
        now = time.monotonic()
        pid = process.pid
        worker = {"pool": self.plan.pool, "worker": pid}
        telemetry.execute("worker.init", {"duration": now - self._forked_at[pid]}, worker)
        if not self._announced and len(self.warm) == self.size + self.spares:
            self._announced = True
            merged = summary(self.reports.values())
            seconds = now - self._first_fork_at
            logger.info(
                "pool %s: %s of %s workers are warm after %.3f s (%s)",
                self.plan.pool,
                merged["succeeded"],
                self.size + self.spares,
                seconds,
                self.plan.settings.warmup.strategy,
            )
            tell_of_start(self.plan, seconds, len(self.warm), self._failed_starts)

    def on_serving(self, process: Any) -> None:
        """Count a worker's time from now; say so if it stands in for one that died."""
        self.scoreboard.serves(process.index)
        if self._deaths:
            died_at, exitcode, cause = self._deaths.popleft()
            duration = time.monotonic() - died_at
            self.scoreboard.recovered(duration)
            telemetry.execute(
                "recovery",
                {"duration": duration},
                {
                    "pool": self.plan.pool,
                    "worker": process.pid,
                    "exitcode": exitcode,
                    "cause": cause,
                },
            )

    def on_resting(self, process: Any) -> None:
        """Count a worker's time no more."""
        self.scoreboard.rests(process.index)

    def on_gone(self, processes: Collection[Any], *, shutdown: bool) -> None:
        """Account for workers that are gone, and wait before the next if one was never warm."""
        for process in processes:
            pid = process.pid
            ended = getattr(process, "_controlled_termination", False)
            failed = not ended and (pid not in self.warm or process.exitcode == EX_WARM_UP_FAILED)
            self.warming.discard(pid)
            self.reports.pop(pid, None)
            if self.round.miss(pid) and not shutdown:
                self.round.tell(self.plan)
            served = pid in self.serving and not failed
            self._on_worker_end(process, shutdown=shutdown, served=served)
            if failed and not shutdown:
                self._failed_starts += not self._announced
                pause = self.backoff.failed(time.monotonic())
                logger.error(
                    "pool %s: worker %s ended before it was warm; the next starts in %.1f s",
                    self.plan.pool,
                    pid,
                    pause,
                )

    def ended(self) -> None:
        """Account for the workers that were there to the end."""
        for process in self._pool:
            self._on_worker_end(process, shutdown=True, served=False)

    def _on_worker_end(self, process: Any, *, shutdown: bool, served: bool) -> None:
        """Tell the scoreboard and the telemetry of a worker that is gone."""
        now = time.monotonic()
        pid, exitcode = process.pid, process.exitcode
        end_descendants(pid)
        timed_out = process.timed_out
        expected = (
            shutdown
            or timed_out
            or exitcode in (EX_OK, EX_RECYCLE)
            or getattr(process, "_controlled_termination", False)
        )
        cause = None if expected else self._cause(process)
        lost, failed = self.scoreboard.died(process.index, timed_out=timed_out)
        telemetry.execute(
            "worker.terminate",
            {"age": now - self._forked_at.pop(pid, now)},
            {
                "pool": self.plan.pool,
                "worker": pid,
                "exitcode": exitcode,
                "expected": expected,
                "cause": cause,
            },
        )
        for _ in range(failed):
            self._emit_error(Category.TIMEOUT, None, TimeLimitExceeded())
        for _ in range(lost):
            error = WorkerLostError(f"worker {pid} ended in an operation: {human_status(exitcode)}")
            self._emit_error(Category.COMMUNICATION, None, error)
        if served and cause is not None:
            self._deaths.append((now, exitcode, cause))
            self._forget_deaths()

    def kill_unhealthy(self, process: Any) -> None:
        """Kill a worker that hangs; what it ran is lost with it, and it is replaced."""
        process.unhealthy = True
        self._signal(process.pid, signal.SIGKILL)

    def beats(self, process: Any) -> int:
        """Return how often the pulse of a worker has beaten."""
        return self._pulses[process.index].beats

    def _cause(self, process: Any) -> Cause:
        if getattr(process, "unhealthy", False):
            return Cause.UNHEALTHY
        return self.crashes.cause(process.exitcode)

    def resize(self, size: int, spares: int | None = None) -> None:
        """Set another size; nobody stands in for the dead of a pool that is enough without."""
        super().resize(size, spares)
        self._forget_deaths()

    def _forget_deaths(self) -> None:
        alive = sum(process.pid in self.serving for process in self._pool)
        while len(self._deaths) > max(0, self.wanted - alive):
            self._deaths.popleft()

    def fork(self, number: int) -> None:
        """Start ``number`` workers, or later if the last could not be warmed."""
        pause = self.backoff.until - time.monotonic()
        if number and pause > 0:
            self._hub.call_later(pause, self.maintain_pool)
        else:
            super().fork(number)

    def close(self) -> None:
        """Take no more work, and end the workers that warm up: nothing waits for them.

        They hold no operation that has begun, and no timer ends them any more.
        """
        super().close()
        for process in self._pool:
            if process.pid not in self.warm or process.pid in self.warming:
                with suppress(ProcessLookupError):  # it ended by itself
                    # SIGKILL: right after its fork a worker still ignores SIGTERM.
                    os.kill(process.pid, signal.SIGKILL)

    def warm_again(self, order: WarmUp) -> int:
        """Ask every warm worker to run ``order``; return the number of the round."""
        self.plan.orders.give(order)
        self.round = WarmUpRound.of(self.round.number + 1, self.warm, order.strategy)
        for pid in self.round.waiting:
            os.kill(pid, REWARM_SIGNAL)
        return self.round.number
