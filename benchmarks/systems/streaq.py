"""streaq: two asyncio processes on Redis streams."""

from __future__ import annotations

import asyncio

from streaq import Worker

from benchmarks.system import PROCESSES, KeyedResults, program, server_url

worker = Worker(redis_url=server_url())


@worker.task
async def noop() -> int:
    """Do nothing."""
    return 0


class Streaq(KeyedResults):
    """streaq; acknowledges after it ran an operation."""

    workers = ([program("streaq"), "run", "benchmarks.systems.streaq:worker"],) * PROCESSES
    distributions = ("streaq", "coredis")

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._runner.run(worker.__aenter__())

    def enqueue(self, count: int) -> None:
        """Send with ``.enqueue()``."""
        self._runner.run(self._enqueue(count))

    def enqueue_batch(self, count: int) -> None:
        """Send with ``Worker.enqueue_many``."""
        self._runner.run(worker.enqueue_many([noop.enqueue() for _ in range(count)]))

    def round_trip(self) -> None:
        """Wait with ``Task.result``, which is told by a subscription."""
        self._runner.run(self._round_trip())

    async def _enqueue(self, count: int) -> None:
        for _ in range(count):
            self.keys.append(worker.results_key + (await noop.enqueue()).id)

    async def _round_trip(self) -> None:
        await (await noop.enqueue()).result(timeout=10)


SYSTEM = Streaq
