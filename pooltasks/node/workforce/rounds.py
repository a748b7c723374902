"""Rounds: the workers of a node warm up together, at its start and when somebody asks for it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pooltasks import telemetry

if TYPE_CHECKING:
    from pooltasks.node.worker.warmup import Plan, WorkerReport


@dataclass
class WarmUpRound:
    """The last warm-up that was asked for on demand; number 0 is none."""

    number: int = 0
    waiting: set[int] = field(default_factory=set)
    """Process ids of the workers that have not reported."""
    reports: list[WorkerReport] = field(default_factory=list)
    workers: int = 0
    """How many workers were asked."""
    strategy: str = "parallel"
    began: float = field(default_factory=time.monotonic)
    """Begin of the round, in monotonic seconds."""

    @classmethod
    def of(cls, number: int, pids: set[int], strategy: str) -> WarmUpRound:
        """Begin a round of these workers."""
        return cls(number, set(pids), workers=len(pids), strategy=strategy)

    def hear(self, report: WorkerReport) -> bool:
        """Take the report of a worker; return whether the round has ended with it."""
        if report.pid in self.waiting:
            self.reports.append(report)
        return self.miss(report.pid)

    def miss(self, pid: int) -> bool:
        """Wait no longer for a worker; return whether the round has ended with it."""
        is_last = self.waiting == {pid}
        self.waiting.discard(pid)
        return is_last

    def tell(self, plan: Plan) -> None:
        """Emit ``pool.warmup``; a worker that did not report counts as a failure."""
        succeeded = sum(report.error is None for report in self.reports)
        seconds = time.monotonic() - self.began
        rate = succeeded / self.workers
        _tell(plan.pool, self.strategy, self.number, seconds, self.workers, rate)


def tell_of_start(plan: Plan, seconds: float, workers: int, failures: int) -> None:
    """Emit ``pool.warmup`` of a node's start.

    Args:
        plan: How the workers warm up.
        seconds: From the first fork until all workers were warm.
        workers: How many are warm, at least 1.
        failures: How many workers ended before they were warm.
    """
    rate = workers / (workers + failures)
    _tell(plan.pool, plan.settings.warmup.strategy, 0, seconds, workers, rate)


def _tell(  # noqa: PLR0917  the fields of the event
    pool: str, strategy: str, number: int, seconds: float, workers: int, success_rate: float
) -> None:
    telemetry.execute(
        "pool.warmup",
        {"duration": seconds, "workers": workers, "success_rate": success_rate},
        {"pool": pool, "strategy": strategy, "round": number},
    )
