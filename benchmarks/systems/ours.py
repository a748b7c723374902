"""pooltasks: a node; default settings but for the limits in ``pools.toml``."""

from __future__ import annotations

from benchmarks.system import PROCESSES, KeyedResults, program, run_and_record
from pooltasks import Pool, operation


@operation(pool="benchmark")
def noop() -> int:
    """Do nothing."""
    return 0


@operation(pool="benchmark")
def load(meant: float, seconds: float) -> int:
    """Sleep, and note the latency."""
    return run_and_record(meant, seconds)


class Ours(KeyedResults):
    """pooltasks; acknowledges after it ran an operation and stored its result."""

    workers = (
        [
            program("celery"),
            *("-A", "pooltasks", "worker", "-Q", "pool.benchmark"),
            *("-c", str(PROCESSES), "-l", "warning"),
        ],
    )
    distributions = ("pooltasks", "celery", "kombu", "redis")

    def enqueue(self, count: int) -> None:
        """Send with ``.delay()``."""
        for _ in range(count):
            self.keys.append(f"celery-task-meta-{noop.delay().id}")

    def enqueue_batch(self, count: int) -> None:
        """Send with ``Pool.submit_many``."""
        Pool("benchmark").submit_many(noop, ((),) * count)

    def send(self, meant: float, seconds: float) -> None:
        """Send with ``.delay()``."""
        load.delay(meant, seconds)

    def round_trip(self) -> None:
        """Wait with ``.get()``."""
        noop.delay().get(timeout=10)


SYSTEM = Ours
