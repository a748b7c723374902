"""Warm-up: a worker runs the pool's commands on itself before it takes work.

The node decides who may warm up when, by permits; the worker runs the commands
and sends a :class:`WorkerReport`; the node merges them into a :func:`summary`.
"""

from __future__ import annotations

import fcntl
import math
import os
import tempfile
import time
import traceback
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pooltasks import coroutines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from celery import Celery

    from pooltasks.settings import PoolSettings, WarmUpCommand


@dataclass(frozen=True)
class CommandReport:
    """One command in one worker. ``error`` is its traceback, None if it succeeded."""

    operation: str
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class WorkerReport:
    """One warm-up of one worker. Times are seconds since the epoch."""

    pid: int
    started_at: float
    finished_at: float
    commands: tuple[CommandReport, ...]

    @property
    def error(self) -> str | None:
        """Traceback of the command that failed, None if none did."""
        return next((command.error for command in self.commands if command.error), None)


class Permits:
    """Who of a node's workers may warm up at the same time.

    A permit is a lock on one byte of an anonymous file, which the kernel gives
    back when its holder dies, however it dies.

    Args:
        strategy: ``parallel``, ``sequential`` or ``staged``.
        workers: Number of workers of the node at its start.
    """

    def __init__(self, strategy: str, workers: int) -> None:
        self.count = {
            "parallel": None,
            "sequential": 1,
            "staged": max(1, math.ceil(workers / 3)),
        }[strategy]
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the node

    @contextmanager
    def one(self, index: int) -> Iterator[None]:
        """Hold a permit; wait for it if need be.

        Args:
            index: The worker's place in its node, from 0: neighbours take turns.
        """
        if self.count is None:
            yield
            return
        place = index % self.count
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, place)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)


@dataclass(frozen=True)
class Plan:
    """How the workers of one node warm up."""

    pool: str
    settings: PoolSettings
    permits: Permits

    @classmethod
    def of(cls, pool: str, settings: PoolSettings, workers: int) -> Plan:
        """Make the plan of a node that starts with ``workers`` workers."""
        return cls(pool, settings, Permits(settings.warmup.strategy, workers))


def run_commands(celery_app: Celery, commands: Sequence[WarmUpCommand]) -> WorkerReport:
    """Run ``commands`` in this process, in order, until one fails."""
    started_at = time.time()
    reports = []
    for command in commands:
        start = time.perf_counter()
        error = None
        try:
            task = celery_app.tasks[command.operation]
            coroutines.run(task, task(*command.args, **command.kwargs))
        except Exception:  # noqa: BLE001  whatever it raises is what the report is for
            error = traceback.format_exc()
        reports.append(CommandReport(command.operation, time.perf_counter() - start, error))
        if error:
            break
    return WorkerReport(os.getpid(), started_at, time.time(), tuple(reports))


def summary(reports: Iterable[WorkerReport]) -> dict[str, Any]:
    """Merge the reports of workers.

    Returns:
        ``workers``, ``succeeded``; ``success_rate`` (ratio 0–1, None without
        workers); ``seconds`` from the first start to the last end;
        ``commands``: for each operation ``average_seconds``,
        ``maximum_seconds`` and ``failures``; ``timeline``: for each worker
        ``pid``, ``started_at``, ``finished_at`` (epoch seconds) and ``error``
        (a traceback or None).
    """
    reports = sorted(reports, key=lambda report: report.started_at)
    succeeded = sum(report.error is None for report in reports)
    durations: dict[str, list[float]] = defaultdict(list)
    failures: dict[str, int] = defaultdict(int)
    for report in reports:
        for command in report.commands:
            durations[command.operation].append(command.seconds)
            failures[command.operation] += command.error is not None
    return {
        "workers": len(reports),
        "succeeded": succeeded,
        "success_rate": succeeded / len(reports) if reports else None,
        "seconds": (
            max(r.finished_at for r in reports) - reports[0].started_at if reports else 0.0
        ),
        "commands": {
            operation: {
                "average_seconds": sum(its) / len(its),
                "maximum_seconds": max(its),
                "failures": failures[operation],
            }
            for operation, its in durations.items()
        },
        "timeline": [
            {
                "pid": report.pid,
                "started_at": report.started_at,
                "finished_at": report.finished_at,
                "error": report.error,
            }
            for report in reports
        ],
    }
