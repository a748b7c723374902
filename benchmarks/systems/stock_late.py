"""Stock Celery with ``task_acks_late``: for operations that a crash must not lose."""

from __future__ import annotations

from benchmarks.system import PROCESSES, program
from benchmarks.systems.stock import Stock, app

app.conf.task_acks_late = True
app.conf.task_reject_on_worker_lost = True


class StockLate(Stock):
    """Celery; acknowledges after it ran an operation."""

    workers = (
        [
            program("celery"),
            *("-A", "benchmarks.systems.stock_late", "worker"),
            *("-c", str(PROCESSES), "-l", "warning"),
        ],
    )


SYSTEM = StockLate
