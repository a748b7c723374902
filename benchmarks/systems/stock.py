"""Stock Celery: its Redis transport and backend, the prefork pool, default settings."""

from __future__ import annotations

from typing import Any

from celery import Celery

from benchmarks.system import PROCESSES, KeyedResults, program, run_and_record, server_url

app = Celery("stock", broker=server_url(), backend=server_url())
# The default of Celery 6, set here so that no warning slows the start.
app.conf.broker_connection_retry_on_startup = True


@app.task
def noop() -> int:
    """Do nothing."""
    return 0


@app.task
def load(meant: float, seconds: float) -> int:
    """Sleep, and note the latency."""
    return run_and_record(meant, seconds)


class Stock(KeyedResults):
    """Celery; acknowledges before it runs an operation, so a crash loses the operation."""

    workers = (
        [
            program("celery"),
            *("-A", "benchmarks.systems.stock", "worker"),
            *("-c", str(PROCESSES), "-l", "warning"),
        ],
    )
    distributions = ("celery", "kombu", "redis")
    task: Any = noop

    def enqueue(self, count: int) -> None:
        """Send with ``.delay()``."""
        for _ in range(count):
            self.keys.append(f"celery-task-meta-{self.task.delay().id}")

    def send(self, meant: float, seconds: float) -> None:
        """Send with ``.delay()``."""
        load.delay(meant, seconds)

    def round_trip(self) -> None:
        """Wait with ``.get()``, which is told by a subscription."""
        self.task.delay().get(timeout=10)


SYSTEM = Stock
