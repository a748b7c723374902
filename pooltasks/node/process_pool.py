"""The process pool of a node: Celery's, with workers that are warm before they take work."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from billiard.common import human_status
from billiard.pool import EX_OK, EX_RECYCLE, TimeoutHandler
from celery.concurrency import prefork
from celery.concurrency.asynpool import AsynPool
from celery.exceptions import TimeLimitExceeded, WorkerLostError
from celery.utils.log import get_logger

from pooltasks import telemetry
from pooltasks.errors import Category, ConfigurationError, WarmUpError
from pooltasks.node.backoff import StartBackoff
from pooltasks.node.child import EX_WARM_UP_FAILED, REWARM_SIGNAL, WARMED, WARMING, WorkerProcess
from pooltasks.node.sampler import Sampler
from pooltasks.node.scoreboard import Scoreboard
from pooltasks.node.warmup import Plan, WorkerReport, summary

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = get_logger(__name__)

_REAP_AGAIN = 0.002


@dataclass
class WarmUpRound:
    """The last warm-up that was asked for on demand."""

    number: int = 0
    waiting: set[int] = field(default_factory=set)
    reports: list[WorkerReport] = field(default_factory=list)


class TimeLimits(TimeoutHandler):
    """Billiard's; it marks the processes that it kills."""

    def _trywaitkill(self, worker: Any) -> None:
        worker.timed_out = True
        super()._trywaitkill(worker)


class WarmPool(AsynPool):
    """Processes of one node.

    Args:
        processes: How many.
        *args: As billiard's.
        plan: How they warm up.
        scoreboard: Where they tell what they do.
        **kwargs: As billiard's.
    """

    TimeoutHandler = TimeLimits

    def __init__(
        self, processes: int, *args: Any, plan: Plan, scoreboard: Scoreboard, **kwargs: Any
    ) -> None:
        self.plan = plan
        self.scoreboard = scoreboard
        self._forked_at: dict[int, float] = {}
        self._deaths: deque[tuple[float, int]] = deque()
        self.warm: set[int] = set()
        self.warming: set[int] = set()
        self.reports: dict[int, WorkerReport] = {}
        self.round = WarmUpRound()
        self.backoff = StartBackoff()
        self._hub: Any = None
        self._first_fork_at = time.monotonic()
        self._announced = plan.settings.lazy
        super().__init__(processes, *args, **kwargs)
        # A worker's own limit is init_timeout from when it begins its warm-up
        # (on_warming); this one, from the fork, covers waiting for its turn.
        self._proc_alive_timeout = plan.settings.init_timeout * (processes + 1)
        handlers = self._result_handler.state_handlers
        handlers[WARMING] = self.on_warming
        handlers[WARMED] = self.on_warmed

    def _create_worker_process(self, i: int) -> Any:
        row = self.scoreboard.row(i)
        self.Worker = partial(WorkerProcess, plan=self.plan, index=i, row=row)
        process = super()._create_worker_process(i)
        self._forked_at[process.pid] = time.monotonic()
        return process

    def register_with_event_loop(self, hub: Any) -> None:
        """Attach to the loop; called again after each reconnection."""
        self._hub = hub
        super().register_with_event_loop(hub)

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
        self.warming.discard(report.pid)
        if report.pid in self.round.waiting:
            self.round.waiting.discard(report.pid)
            self.round.reports.append(report)
        telemetry.execute(
            "warmup",
            {
                "duration": report.finished_at - report.started_at,
                "commands": len(report.commands),
            },
            {"pool": self.plan.pool, "worker": report.pid, "error": report.error},
        )
        if report.error:
            operation = report.commands[-1].operation
            self._emit_error(Category.INITIALIZATION, operation, WarmUpError(report.error))
            logger.error(
                "pool %s: the warm-up of worker %s failed in %s:\n%s",
                self.plan.pool,
                report.pid,
                operation,
                report.error,
            )

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

    def on_process_alive(self, pid: int) -> None:
        """Give work to a worker from now on."""
        super().on_process_alive(pid)
        process, _ = self._process_by_pid(pid)
        if process is None:  # it ended right after it said so
            return
        self.warm.add(pid)
        self.backoff.succeeded()
        self.scoreboard.serves(process.index)
        now = time.monotonic()
        worker = {"pool": self.plan.pool, "worker": pid}
        telemetry.execute("worker.init", {"duration": now - self._forked_at[pid]}, worker)
        if self._deaths:
            died_at, exitcode = self._deaths.popleft()
            self.scoreboard.recovered()
            telemetry.execute(
                "recovery", {"duration": now - died_at}, {**worker, "exitcode": exitcode}
            )
        if not self._announced and len(self.warm) == self._processes:
            self._announced = True
            merged = summary(self.reports.values())
            logger.info(
                "pool %s: %s of %s workers are warm after %.3f s (%s)",
                self.plan.pool,
                merged["succeeded"],
                self._processes,
                now - self._first_fork_at,
                self.plan.settings.warmup.strategy,
            )

    def _join_exited_workers(self, shutdown: bool = False) -> Any:
        before = {process.pid: process for process in self._pool}
        exitcodes = super()._join_exited_workers(shutdown)
        for pid in before.keys() - {process.pid for process in self._pool}:
            failed = pid not in self.warm or before[pid].exitcode == EX_WARM_UP_FAILED
            self.warm.discard(pid)
            self.warming.discard(pid)
            self.reports.pop(pid, None)
            self.round.waiting.discard(pid)
            self._on_worker_end(before[pid], shutdown=shutdown, was_warm=not failed)
            if failed and not shutdown:
                pause = self.backoff.failed(time.monotonic())
                logger.error(
                    "pool %s: worker %s ended before it was warm; the next starts in %.1f s",
                    self.plan.pool,
                    pid,
                    pause,
                )
        return exitcodes

    def ended(self) -> None:
        """Account for the workers that were there to the end."""
        for process in self._pool:
            self._on_worker_end(process, shutdown=True, was_warm=process.pid in self.warm)

    def _on_worker_end(self, process: Any, *, shutdown: bool, was_warm: bool) -> None:
        """Tell the scoreboard and the telemetry of a worker that is gone."""
        now = time.monotonic()
        pid, exitcode = process.pid, process.exitcode
        timed_out = getattr(process, "timed_out", False)
        expected = (
            shutdown
            or timed_out
            or exitcode in (EX_OK, EX_RECYCLE)
            or getattr(process, "_controlled_termination", False)
        )
        in_the_middle = self.scoreboard.died(process.index, timed_out=timed_out)
        telemetry.execute(
            "worker.terminate",
            {"age": now - self._forked_at.pop(pid, now)},
            {
                "pool": self.plan.pool,
                "worker": pid,
                "exitcode": exitcode,
                "expected": expected,
            },
        )
        if in_the_middle and timed_out:
            self._emit_error(Category.TIMEOUT, None, TimeLimitExceeded())
        elif in_the_middle:
            lost = WorkerLostError(f"worker {pid} ended in an operation: {human_status(exitcode)}")
            self._emit_error(Category.COMMUNICATION, None, lost)
        # Not of a worker that nobody wants back: the pool has been made smaller.
        if was_warm and not expected and len(self._pool) < self._processes:
            self._deaths.append((now, exitcode))

    def _repopulate_pool(self, exitcodes: Iterable[int]) -> None:
        pause = self.backoff.until - time.monotonic()
        if pause > 0:
            if self._hub is not None:
                self._hub.call_later(pause, self.maintain_pool)
            return
        super()._repopulate_pool(exitcodes)

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

    def warm_again(self) -> int:
        """Ask every warm worker to warm up again; return the number of the round."""
        self.round = WarmUpRound(self.round.number + 1, set(self.warm))
        for pid in self.round.waiting:
            os.kill(pid, REWARM_SIGNAL)
        return self.round.number


class TaskPool(prefork.TaskPool):
    """Celery's prefork pool made of a :class:`WarmPool`."""

    _pool: WarmPool

    def on_start(self) -> None:
        """Fork the workers, from a parent whose memory is ready to be shared."""
        if not self.forking_enable:
            raise ConfigurationError(
                "A node forks its workers from a warm parent; "
                "worker_pool_start_method must be 'fork'."
            )
        extension = self.app.pooltasks
        settings = extension.settings.pool_settings(extension.pool)
        plan = Plan.of(extension.pool, settings, self.limit)
        self.scoreboard = Scoreboard()
        self.Pool = partial(WarmPool, plan=plan, scoreboard=self.scoreboard)
        self.sampler: Sampler | None = None
        if settings.enable_metrics:
            _, hostname = self.options["initargs"]
            self.sampler = Sampler(self.app, extension.pool, hostname, self.scoreboard, self._sizes)
        # Everything imported so far is shared by all workers for ever: a
        # collection that touches it in one of them would copy the page.
        gc.collect()
        gc.freeze()
        super().on_start()
        self._started_at = time.monotonic()
        telemetry.execute("pool.init", {"size": self.limit}, {"pool": extension.pool})

    def register_with_event_loop(self, loop: Any) -> None:
        """Attach to the loop; called again after each reconnection."""
        super().register_with_event_loop(loop)
        if self.sampler is not None:
            self.sampler.start(loop)

    def on_stop(self) -> None:
        """Let the workers finish, then end them."""
        pool = self._pool
        super().on_stop()
        self._after_stop(pool)

    def on_terminate(self) -> None:
        """End the workers at once."""
        pool = self._pool
        super().on_terminate()
        self._after_stop(pool)

    def _after_stop(self, pool: WarmPool | None) -> None:
        if pool is None:  # it was stopped before
            return
        pool.ended()
        if self.sampler is not None:
            self.sampler.sample(stopped=True)
        telemetry.execute(
            "pool.terminate",
            {"age": time.monotonic() - self._started_at},
            {"pool": self.app.pooltasks.pool},
        )

    def did_start_ok(self) -> bool:
        """Return True: a worker that failed is retried, and never ends the node."""
        self._pool.maintain_pool()
        return True

    def _sizes(self) -> tuple[int, int]:
        if self._pool is None:
            return 0, 0
        return self.num_processes, len(self._pool.warm)

    def warm_and_cold(self) -> tuple[int, int]:
        """Return how many workers take operations and how many do not yet."""
        warm = len(self._pool.warm)
        return warm, max(0, self.num_processes - warm)

    def warm_again(self) -> int:
        """Ask every warm worker to warm up again; return the number of the round."""
        return self._pool.warm_again()

    def warm_up_report(self, number: int | None = None) -> dict[str, Any]:
        """Return the merged report of a round, or of each worker's last warm-up.

        Args:
            number: The round, as :meth:`warm_again` returned it.
        """
        if number is None:
            return {**summary(self._pool.reports.values()), "finished": True}
        current = self._pool.round
        if current.number != number:
            return {**summary(()), "finished": True, "superseded": True}
        return {**summary(current.reports), "finished": not current.waiting}

    def workers(self) -> list[dict[str, Any]]:
        """Return ``pid`` and ``state`` (``warm``, ``warming``) of every worker."""
        return [
            {"pid": process.pid, "state": "warm" if process.pid in self._pool.warm else "warming"}
            for process in self._pool._pool  # noqa: SLF001  billiard's name
        ]
