"""dramatiq: two processes with four threads each, results in Redis."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.system import PROCESSES, KeyedResults, program, run_and_record, server_url

backend = RedisBackend(url=server_url())
broker = RedisBroker(url=server_url())
broker.add_middleware(Results(backend=backend))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop() -> int:
    """Do nothing."""
    return 0


@dramatiq.actor(store_results=True)
def load(meant: float, seconds: float) -> int:
    """Sleep, and note the latency."""
    return run_and_record(meant, seconds)


class Dramatiq(KeyedResults):
    """dramatiq; acknowledges after it ran an operation."""

    workers = (
        [
            program("dramatiq"),
            "benchmarks.systems.dramatiq",
            *("--processes", str(PROCESSES), "--threads", "4"),
        ],
    )
    distributions = ("dramatiq", "redis")

    def enqueue(self, count: int) -> None:
        """Send with ``.send()``."""
        for _ in range(count):
            self.keys.append(backend.build_message_key(noop.send()))

    def send(self, meant: float, seconds: float) -> None:
        """Send with ``.send()``."""
        load.send(meant, seconds)

    def round_trip(self) -> None:
        """Wait with ``get_result(block=True)``, a blocking command."""
        noop.send().get_result(block=True, timeout=10_000)


SYSTEM = Dramatiq
