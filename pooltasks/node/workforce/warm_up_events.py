"""A node's report of a worker's warm-up: the event, and the failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery.utils.log import get_logger

from pooltasks import telemetry
from pooltasks.errors import Category, WarmUpError

if TYPE_CHECKING:
    from pooltasks.node.worker.warmup import WorkerReport

logger = get_logger(__name__)


def tell_of_warm_up(pool: str, report: WorkerReport) -> None:
    """Emit ``warmup``; if it failed, log the traceback and emit ``error`` too."""
    telemetry.execute(
        "warmup",
        {
            "duration": report.finished_at - report.started_at,
            "commands": len(report.commands),
        },
        {"pool": pool, "worker": report.pid, "error": report.error},
    )
    if not report.error:
        return
    operation = report.commands[-1].operation
    telemetry.execute(
        "error",
        {"count": 1},
        {
            "pool": pool,
            "category": Category.INITIALIZATION,
            "operation": operation,
            "exception": WarmUpError(report.error),
        },
    )
    logger.error(
        "pool %s: the warm-up of worker %s failed in %s:\n%s",
        pool,
        report.pid,
        operation,
        report.error,
    )
