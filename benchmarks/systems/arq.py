"""arq: two asyncio processes that look for work every millisecond (its default is 0.5 s)."""

from __future__ import annotations

import asyncio
from typing import Any

import arq
from arq.connections import RedisSettings
from arq.constants import result_key_prefix

from benchmarks.system import PROCESSES, KeyedResults, program, server_url

LOOK_EVERY = 0.001  # seconds


async def noop(_: dict[str, Any]) -> int:
    """Do nothing."""
    return 0


class WorkerSettings:
    """The settings that the command ``arq`` reads."""

    functions = (noop,)
    redis_settings = RedisSettings.from_dsn(server_url())
    poll_delay = LOOK_EVERY


class Arq(KeyedResults):
    """arq; removes an operation after it ran it."""

    workers = ([program("arq"), "benchmarks.systems.arq.WorkerSettings"],) * PROCESSES
    distributions = ("arq", "redis")

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._pool = self._runner.run(arq.create_pool(WorkerSettings.redis_settings))

    def enqueue(self, count: int) -> None:
        """Send with ``enqueue_job``."""
        self._runner.run(self._enqueue(count))

    def round_trip(self) -> None:
        """Wait with ``Job.result``, which looks each ms."""
        self._runner.run(self._round_trip())

    async def _enqueue(self, count: int) -> None:
        for _ in range(count):
            job = await self._pool.enqueue_job("noop")
            self.keys.append(result_key_prefix + job.job_id)

    async def _round_trip(self) -> None:
        job = await self._pool.enqueue_job("noop")
        await job.result(timeout=10, poll_delay=LOOK_EVERY)


SYSTEM = Arq
