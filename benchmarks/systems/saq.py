"""saq: two asyncio processes; waits for a result by looking each millisecond."""

from __future__ import annotations

import asyncio
from typing import Any

from saq import Queue

from benchmarks.system import PROCESSES, System, program, server_url

queue = Queue.from_url(server_url())


async def noop(_: Any) -> int:
    """Do nothing."""
    return 0


settings = {"queue": queue, "functions": [noop], "concurrency": 10}


class Saq(System):
    """saq; keeps an operation in a list of active ones until it ran."""

    workers = ([program("saq"), "benchmarks.systems.saq.settings", "--quiet"],) * PROCESSES
    distributions = ("saq", "redis")

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._sent = 0

    def enqueue(self, count: int) -> None:
        """Send with ``Queue.enqueue``."""
        self._runner.run(self._enqueue(count))
        self._sent += count

    def finished(self) -> int:
        """Count the operations that are no longer in the set of incomplete ones."""
        return self._sent - self.ask("ZCARD", queue.namespace("incomplete"))

    def round_trip(self) -> None:
        """Wait with ``Queue.apply``, looking each ms (its default is 500)."""
        self._runner.run(queue.apply("noop", timeout=10, poll_interval=0.001))

    async def _enqueue(self, count: int) -> None:
        for _ in range(count):
            await queue.enqueue("noop")


SYSTEM = Saq
