"""taskiq: its list broker with two processes; waits for a result by looking each millisecond."""

from __future__ import annotations

import asyncio

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from benchmarks.system import PROCESSES, KeyedResults, program, server_url

broker = ListQueueBroker(server_url()).with_result_backend(
    RedisAsyncResultBackend(server_url(), result_ex_time=3600)
)


@broker.task
async def noop() -> int:
    """Do nothing."""
    return 0


class Taskiq(KeyedResults):
    """taskiq; takes an operation off its list before it runs it, so a crash loses the operation."""

    workers = (
        [
            program("taskiq"),
            *("worker", "benchmarks.systems.taskiq:broker"),
            *("--workers", str(PROCESSES), "--log-level", "WARNING"),
        ],
    )
    distributions = ("taskiq", "taskiq-redis", "redis")

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._runner.run(broker.startup())

    def enqueue(self, count: int) -> None:
        """Send with ``.kiq()``."""
        self._runner.run(self._enqueue(count))

    def round_trip(self) -> None:
        """Wait with ``wait_result``, looking each ms (its default is 200)."""
        self._runner.run(self._round_trip())

    async def _enqueue(self, count: int) -> None:
        for _ in range(count):
            self.keys.append((await noop.kiq()).task_id)

    async def _round_trip(self) -> None:
        await (await noop.kiq()).wait_result(check_interval=0.001, timeout=10)


SYSTEM = Taskiq
