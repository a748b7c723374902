"""rq: two SimpleWorkers, which run operations in their own process."""

from __future__ import annotations

from redis import Redis
from rq import Queue
from rq.results import Result

from benchmarks.system import PROCESSES, KeyedResults, program, server_url


def noop() -> int:
    """Do nothing."""
    return 0


class Rq(KeyedResults):
    """rq; takes an operation off its list before it runs it."""

    workers = (
        [
            program("rq"),
            *("worker", "--url", server_url(), "--quiet"),
            *("--worker-class", "rq.worker.SimpleWorker", "default"),
        ],
    ) * PROCESSES
    distributions = ("rq", "redis")

    def __init__(self) -> None:
        super().__init__()
        self._queue = Queue(connection=Redis.from_url(server_url()))

    def enqueue(self, count: int) -> None:
        """Send with ``Queue.enqueue``."""
        for _ in range(count):
            self.keys.append(Result.get_key(self._queue.enqueue(noop).id))

    def enqueue_batch(self, count: int) -> None:
        """Send with ``Queue.enqueue_many``."""
        self._queue.enqueue_many([Queue.prepare_data(noop) for _ in range(count)])

    def round_trip(self) -> None:
        """Wait for the result's stream, a blocking command."""
        if self._queue.enqueue(noop).latest_result(timeout=10) is None:
            raise TimeoutError("no result within 10 s")


SYSTEM = Rq
