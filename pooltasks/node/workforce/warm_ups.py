"""Warm-ups: what a node knows and tells of the warm-ups of its workers.

A worker that does not become warm in time is killed. After one that could not be warmed
the next is forked with a pause.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from celery.utils.log import get_logger

from pooltasks import telemetry
from pooltasks.node.worker.warmup import summary
from pooltasks.node.workforce.backoff import StartBackoff
from pooltasks.node.workforce.rounds import WarmUpRound, tell_of_start
from pooltasks.node.workforce.warm_up_events import tell_of_warm_up

if TYPE_CHECKING:
    from collections.abc import Collection

    from pooltasks.node.worker.warmup import Plan, WorkerReport
    from pooltasks.pool_settings import WarmUp

logger = get_logger(__name__)


class Processes(Protocol):
    """The worker processes that warm up."""

    def is_alive(self, pid: int) -> bool:
        """Return whether there is a worker of this process id, and it has not ended."""

    def kill(self, pid: int) -> None:
        """Kill a worker, if it is still there."""


class WarmUps:
    """The warm-ups of a node's workers; made before the first of them is forked.

    Args:
        plan: How they warm up.
    """

    def __init__(self, plan: Plan) -> None:
        self.warming: set[int] = set()
        """Workers that warm up at this moment, for the first time or again."""
        self.reports: dict[int, WorkerReport] = {}
        """The last report of each worker."""
        self.failed_report: WorkerReport | None = None
        """The report of the last warm-up that failed; None once another has succeeded since. Its
        worker is gone, and the report of the worker with it."""
        self.round = WarmUpRound()
        self._plan = plan
        self._backoff = StartBackoff()
        self._began = time.monotonic()
        self._announced = plan.settings.lazy
        self._failed_starts = 0
        """Workers that ended before they were warm, until all are warm for the first time."""
        self._hub: Any = None
        self._processes: Processes

    def start(self, hub: Any, processes: Processes) -> None:
        """Attach to an event loop: from now on workers that do not become warm are killed."""
        self._hub, self._processes = hub, processes

    def on_warming(self, pid: int) -> None:
        """Start the clock of a worker that begins its warm-up."""
        self.reports.pop(pid, None)
        self.warming.add(pid)
        self._hub.call_later(self._plan.settings.init_timeout, self._kill_if_cold, pid)

    def _kill_if_cold(self, pid: int) -> None:
        if pid in self.reports or not self._processes.is_alive(pid):
            return
        logger.error(
            "pool %s: worker %s was not warm within init_timeout (%g s) and is killed",
            self._plan.pool,
            pid,
            self._plan.settings.init_timeout,
        )
        self._processes.kill(pid)

    def on_warmed(self, report: WorkerReport) -> None:
        """Keep a worker's report; say what failed."""
        self.reports[report.pid] = report
        self.failed_report = report if report.error else None
        self.warming.discard(report.pid)
        has_ended = self.round.hear(report)
        tell_of_warm_up(self._plan.pool, report)
        if has_ended:
            self.round.tell(self._plan)

    def on_warm(self, pid: int, forked_at: float, *, warm: int, wanted: int) -> None:
        """Tell of a worker that has become warm, and when all of them are for the first time.

        Args:
            pid: The worker.
            forked_at: When, in monotonic seconds.
            warm: How many workers are warm, with this one.
            wanted: How many are to be.
        """
        self._backoff.succeeded()
        now = time.monotonic()
        pool = self._plan.pool
        worker = {"pool": pool, "worker": pid}
        telemetry.execute("worker.init", {"duration": now - forked_at}, worker)
        if self._announced or warm != wanted:
            return
        self._announced = True
        merged = summary(self.reports.values())
        seconds = now - self._began
        logger.info(
            "pool %s: %s of %s workers are warm after %.3f s (%s)",
            pool,
            merged["succeeded"],
            wanted,
            seconds,
            self._plan.settings.warmup.strategy,
        )
        tell_of_start(self._plan, seconds, warm, self._failed_starts)

    def on_gone(self, pid: int, *, shutdown: bool) -> None:
        """Forget a worker that is no more; the round goes on without it."""
        self.warming.discard(pid)
        self.reports.pop(pid, None)
        if self.round.miss(pid) and not shutdown:
            self.round.tell(self._plan)

    def on_failed(self, pid: int) -> None:
        """Have the next worker wait: this one ended before it was warm."""
        self._failed_starts += not self._announced
        pause = self._backoff.failed(time.monotonic())
        logger.error(
            "pool %s: worker %s ended before it was warm; the next starts in %.1f s",
            self._plan.pool,
            pid,
            pause,
        )

    def pause(self) -> float:
        """Return the seconds until a worker may be forked; none if that is not above 0."""
        return self._backoff.until - time.monotonic()

    def begin(self, order: WarmUp, workers: Collection[int]) -> int:
        """Begin a round, in which these workers run ``order``; return its number."""
        self._plan.orders.give(order)
        self.round = WarmUpRound.of(self.round.number + 1, {*workers}, order.strategy)
        return self.round.number

    def report(self, number: int | None = None) -> dict[str, Any]:
        """Return the merged report of a round, or of each worker's last warm-up.

        The latter has ``last_failure`` too: what failed in the last warm-up, in a line; None
        once one has succeeded since.

        Args:
            number: The round, as :meth:`begin` returned it.
        """
        if number is None:
            failed = self.failed_report
            return {
                **summary(self.reports.values()),
                "finished": True,
                "last_failure": failed.failure if failed else None,
            }
        if self.round.number != number:
            return {**summary(()), "finished": True, "superseded": True}
        return {**summary(self.round.reports), "finished": not self.round.waiting}
